"""SoFlow: Solution Flow Models for One-Step Generative Modeling (2512.15657)."""

from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from dynamics.flow.published_laws import MIN_GAP
from dynamics.objectives.alphaflow import AlphaFlow, Annealed
from dynamics.objectives.terms import Adaptive, LossTerms
from dynamics.options import invalid


class SoFlow(AlphaFlow):
    """u solves the flow: f(z_t, t, r) = f(z_l, l, r) with f(z, t, r) = z - (t - r) u and l = t - rho (t - r),
    or t - 1e-4 where that is earlier.

    Along v_g, (f(z_t, t, r) - f(z_l, l, r)) / (t - l) is -(u - u_tgt) / rho with AlphaFlow's target at a = rho. An
    r < t row weighs 1 / (2 rho) times the adaptive weight of ||u - u_tgt||^2 / rho^2: the official code, models.py at
    3b60d60, has no factor 2 in its gradient there, but has one for r = t rows.
    # DIFFERS: the official loss of r < t rows is the product of u with that quotient, which has the same gradient.
    """

    kind: Literal["soflow"] = "soflow"  # type: ignore[assignment]
    adaptive: Adaptive = Adaptive(p=1.0, c=0.01, reduction="mean")
    """Adaptive weight of a row, by the mean over C, H, W."""
    alpha: Annealed = Annealed(path="exponential", first=0.1, last=0.002, clamp=0.0)
    """rho as training proceeds."""
    target_clamp: float | None = None
    """As for AlphaFlow; SoFlow's code has none."""

    @model_validator(mode="after")
    def _stepping(self) -> Self:
        ends = self.alpha.at(0.0), self.alpha.at(1.0)
        if not min(ends) > 0:  # the derivative of a = 0 is none of SoFlow's
            raise invalid("objective.alpha", ends, "shares above 0 at both ends", "raise them, or set its clamp to 0")
        return self

    def _share(self, gap: Tensor, alpha: float) -> Tensor:
        return (MIN_GAP / gap).clamp(min=alpha, max=1.0)

    def _weight(self, terms: LossTerms, gap: Tensor, alpha: float) -> Tensor:
        a, size = self._share(gap, alpha), terms.prediction.shape[1:].numel()
        return torch.where(gap > 0, self.adaptive.weight(terms.raw / a**2, size) / (2 * a), terms.adaptive)
