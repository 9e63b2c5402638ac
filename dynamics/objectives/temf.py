"""The guided target of Temporal Equilibrium MeanFlow (TEMF, CVPR 2026), whose mix moves while training proceeds."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field

from dynamics.flow.progress import Progress
from dynamics.flow.rows import Rows
from dynamics.models import Network
from dynamics.objectives.guidance import Guidance
from dynamics.objectives.meanflow import MeanFlow
from dynamics.objectives.objective import Objective
from dynamics.objectives.terms import Adaptive, LossTerms


class TEMF(MeanFlow):
    """MeanFlow with v_g = m v_cfg + (1 - m) v_pred, v_cfg = w' v + (1 - w') v_unc, v_pred = u(z, t, t | y).

    In the words of `Guidance` that is k = 1 - m and w = m w': m moves from its start to `mix_to` in proportion to the
    progress i/T, and the effective scale w' = w / (1 - k), and so the truth, stays. `guidance` is that of the start.
    The loss is the mean of the squared error without adaptive weight. Weights by gap and the share of r < t rows are a
    curriculum, `curricula.TemporalEquilibrium`. Formulas of the official code, src/training/loss.py (yuanpengtu/TEMF),
    whose configurations have w' = 1.
    """

    SERIES: ClassVar[Mapping[str, tuple[str, str]]] = {"guidance_mix": ("1", "share m of v_cfg in the guided target")}

    kind: Literal["temf"] = "temf"  # type: ignore[assignment]
    adaptive: Adaptive = Adaptive(p=0.0, reduction="mean")
    """None: the mean over C, H, W."""
    guidance: Guidance = Guidance(w=0.3, k=0.7, label_drop="guided")
    """Guidance at the start, m = 1 - k; the effective scale w / (1 - k) stays."""
    mix_to: float = Field(default=0.1, gt=0, le=1)
    """m at the end."""

    def mix(self, now: Progress) -> float:
        """Return m."""
        start = 1 - self.guidance.k
        return start + (self.mix_to - start) * now.fraction

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
