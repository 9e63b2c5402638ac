"""Constant weights of the two tasks, the control of every weight that depends on time or on progress."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from dynamics.curricula.plan import Curriculum, Plan, State, weigh_u, weigh_v
from dynamics.flow.progress import Progress


class Constant(Curriculum):
    """The same weight for all r = t rows, and another for all r < t rows."""

    kind: Literal["constant"] = "constant"
    v: float = Field(default=1.0, ge=0)
    """Weight of r = t rows."""
    u: float = Field(default=1.0, ge=0)
    """Weight of r < t rows."""

    def apply(self, plan: Plan, progress: Progress, state: State) -> Plan:
        def of_v(plan: Plan, t: Tensor, r: Tensor) -> Tensor:
            return t.new_full(t.shape, self.v)

        def of_u(plan: Plan, t: Tensor, r: Tensor) -> Tensor:
            return t.new_full(t.shape, self.u)

        return weigh_u(weigh_v(plan, of_v), of_u)
