"""Progressive gap law: the share of rows with uniform gaps moves while training proceeds."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from dynamics.curricula.plan import Curriculum, Plan, State, record
from dynamics.flow.progress import Progress
from dynamics.flow.times import Blend, UniformGap
from dynamics.options import invalid


class GapLaw(Curriculum):
    """A share of the r < t rows takes uniform gaps; it moves linearly from share_from to share_to over [start, end].

    One-step sampling uses (t, r) = (1, 0), which the base law hardly ever draws. Equal shares give a constant law, the
    opponent that a moving one must beat. The share of r < t rows may move over the same interval.
    """

    SERIES: ClassVar[Mapping[str, tuple[str, str]]] = {
        "uniform_gap_share": ("1", "share of r < t rows with uniform gaps")
    }

    kind: Literal["gap_law"] = "gap_law"
    share_from: float = Field(default=0.0, ge=0, le=1)
    """Share of uniform gaps among r < t rows up to `start`."""
    share_to: float = Field(default=0.5, ge=0, le=1)
    """Share of uniform gaps among r < t rows from `end` on."""
    start: float = Field(default=0.5, ge=0, le=1)
    """Progress i/T at which the move begins."""
    end: float = Field(default=1.0, ge=0, le=1)
    """Progress i/T at which the move ends."""
    gap_share_to: float | None = Field(default=None, ge=0, le=1)
    """Share of r < t rows at the end; none leaves times.gap_share as it is."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.start > self.end:
            raise invalid("gap_law.start", self.start, f"<= end={self.end}", "swap the two")
        return self

    def apply(self, plan: Plan, progress: Progress, state: State) -> Plan:
        span = max(self.end - self.start, 1e-12)
        moved = min(max((progress.fraction - self.start) / span, 0.0), 1.0)
        share = self.share_from + (self.share_to - self.share_from) * moved
        gap_share = plan.gap_share
        if self.gap_share_to is not None:
            gap_share += (self.gap_share_to - gap_share) * moved
        # a blend also at share 0, so that a chain that cannot take one is refused before the run and not half way
        law = Blend(base=plan.gap_law, other=UniformGap(), share=share)
        return record(replace(plan, gap_law=law, gap_share=gap_share), uniform_gap_share=share)
