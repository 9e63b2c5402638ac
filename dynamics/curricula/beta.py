"""beta(dt, s): the weight of average velocities moves from small gaps to all gaps (2511.19065)."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from dynamics.curricula.plan import Curriculum, Plan, State, record, weigh_u
from dynamics.flow.progress import Progress
from dynamics.flow.times import mean_gap
from dynamics.options import invalid


class Beta(Curriculum):
    """beta(dt, s) = 1 - s + lambda s (1 - dt) on r < t rows, s = 1 - (i/T)^k, lambda = 1/E[1 - dt].

    lambda follows from the law of the gaps in force at the step, so that E[beta] = 1 for every s.
    """

    SERIES: ClassVar[Mapping[str, tuple[str, str]]] = {"beta_s": ("1", "progress s of beta(dt, s)")}

    kind: Literal["beta"] = "beta"
    k: float = Field(default=1.0, gt=0)
    """Exponent of the progress; larger stays with small gaps for longer."""
    path: Literal["falling", "rising", "frozen"] = "falling"
    """How s moves: the paper's way, the other way round, or not at all (k / (k + 1), the mean over training)."""

    def apply(self, plan: Plan, progress: Progress, state: State) -> Plan:
        if self.path == "frozen":
            s = self.k / (self.k + 1)
        else:
            elapsed = progress.fraction if self.path == "falling" else 1 - progress.fraction
            s = 1 - elapsed**self.k

        def beta(plan: Plan, t: Tensor, r: Tensor) -> Tensor:
            room = 1 - mean_gap(plan.gap_law)
            if room < 1e-9:
                raise invalid(
                    "curricula.beta", plan.gap_law, "a law with gaps below 1", "leave beta out, or change times"
                )
            weight: Tensor = 1 - s + s * (1 - (t - r)) / room
            return weight

        return record(weigh_u(plan, beta), beta_s=s)
