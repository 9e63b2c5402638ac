"""Weights that even out gaps, and more r < t rows as training proceeds (TEMF, CVPR 2026)."""

from collections.abc import Mapping
from dataclasses import replace
from math import exp
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from dynamics.curricula.plan import Curriculum, Plan, State, record, weigh_u, weigh_v
from dynamics.flow.progress import Progress


class TemporalEquilibrium(Curriculum):
    """Weight 1 / ((1 + slope dt) sqrt(1 + dt^2)); the share of r < t rows moves by sigmoid(steepness (i/T - centre)).

    Formulas and numbers of the official code (yuanpengtu/TEMF, configs/loss/temf.yaml), where dt is at least 0.001. The
    paper is said to have a slope of 0.5.
    """

    SERIES: ClassVar[Mapping[str, tuple[str, str]]] = {"planned_gap_share": ("1", "planned share of r < t rows")}

    kind: Literal["temporal_equilibrium"] = "temporal_equilibrium"
    slope: float = Field(default=1.0, ge=0)
    """Factor of dt in the weight's first term."""
    share_from: float = Field(default=0.1, ge=0, le=1)
    """Share of r < t rows that the sigmoid starts from."""
    share_to: float = Field(default=0.9, ge=0, le=1)
    """Share of r < t rows that the sigmoid goes to."""
    steepness: float = Field(default=8.0, gt=0)
    """How quickly the share moves."""
    centre: float = Field(default=0.6, ge=0, le=1)
    """Progress i/T at which half of the way is gone."""

    def apply(self, plan: Plan, progress: Progress, state: State) -> Plan:
        moved = 1 / (1 + exp(-self.steepness * (progress.fraction - self.centre)))
        share = self.share_from + (self.share_to - self.share_from) * moved

        def weight(plan: Plan, t: Tensor, r: Tensor) -> Tensor:
            gap = (t - r).clamp(min=1e-3)
            out: Tensor = 1 / ((1 + self.slope * gap) * (1 + gap**2).sqrt())
            return out

        weighed = weigh_v(weigh_u(replace(plan, gap_share=share), weight), weight)
        return record(weighed, planned_gap_share=share)
