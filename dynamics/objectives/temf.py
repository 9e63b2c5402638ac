"""The guided target of Temporal Equilibrium MeanFlow (TEMF, CVPR 2026), whose mix moves while training proceeds."""

from collections.abc import Mapping
from dataclasses import replace
from math import exp
from typing import ClassVar, Literal

import torch
from pydantic import Field

from dynamics.flow.progress import Progress
from dynamics.flow.rows import Rows
from dynamics.models import Network
from dynamics.objectives.guidance import Guidance
from dynamics.objectives.meanflow import MeanFlow
from dynamics.objectives.objective import Objective
from dynamics.objectives.terms import LossTerms


class TEMF(MeanFlow):
    """MeanFlow with v_g = m v_cfg + (1 - m) v_pred, v_cfg = w' v + (1 - w') v_unc, v_pred = u(z, t, t | y).

    In the words of `Guidance` that is k = 1 - m and w = m w': m moves and the effective scale w' = w / (1 - k), and so
    the truth, stays. `guidance` is that of the start. Weights and the share of r < t rows are a curriculum,
    `curricula.TemporalEquilibrium`.
    """

    # DIFFERS: there is no public code. Known at second hand are m v_cfg + (1 - m) v_pred and that m goes from .3 to .1;
    # what v_cfg and v_pred are, and along which path m moves, is read here.
    SERIES: ClassVar[Mapping[str, tuple[str, str]]] = {"guidance_mix": ("1", "share m of v_cfg in the guided target")}

    kind: Literal["temf"] = "temf"  # type: ignore[assignment]
    guidance: Guidance = Guidance(w=0.3, k=0.7)
    """Guidance at the start, m = 1 - k; the effective scale w / (1 - k) stays."""
    mix_to: float = Field(default=0.1, gt=0, le=1)
    """m at the end."""
    path: Literal["linear", "sigmoid"] = "linear"
    """How m moves with the progress tau: by tau, or by sigmoid(8 (tau - 0.6)) as the share of r < t rows."""

    def mix(self, now: Progress) -> float:
        """Return m."""
        moved = now.fraction if self.path == "linear" else 1 / (1 + exp(-8 * (now.fraction - 0.6)))
        start = 1 - self.guidance.k
        return start + (self.mix_to - start) * moved

    def at(self, now: Progress) -> MeanFlow:
        m = self.mix(now)
        guidance = {"k": 1 - m, "w": m * self.guidance.w / (1 - self.guidance.k)}
        return MeanFlow(adaptive=self.adaptive, guidance=self.guidance.model_copy(update=guidance))

    def loss(self, net: Network, rows: Rows, now: Progress) -> LossTerms:
        """Return MeanFlow's loss with the guidance of this step; see `Objective.loss`."""
        terms = self.at(now).loss(net, rows, now)
        return replace(terms, extras={"guidance_mix": torch.full_like(rows.t, self.mix(now))})

    def measured(self, guidance: Literal["run", "off"]) -> Objective:
        return self if guidance == "run" else MeanFlow(adaptive=self.adaptive).measured("off")
