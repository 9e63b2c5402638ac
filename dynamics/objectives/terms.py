"""What an objective hands over: one loss per row, unreduced, and the adaptive weight."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from dynamics.options import Options, later


@dataclass(frozen=True)
class LossTerms:
    """Per-row losses in the rows' layout [r = t | r < t]."""

    raw: Tensor
    """[B] squared error, summed over C, H, W, with gradient."""
    adaptive: Tensor
    """[B] adaptive weight, without gradient."""
    prediction: Tensor
    """[B, C, H, W] what is regressed, with gradient."""
    target: Tensor
    """[B, C, H, W] what it is regressed on, without gradient."""
    u: Tensor | None = None
    """[B, C, H, W] u(z_t, t, r, c) of the network, if the loss computed it."""
    du_dt: Tensor | None = None
    """[num_gap, C, H, W] total derivative of u of the r < t rows, without gradient, if the loss computed it."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """[B] each: further numbers of each row, by the names of the objective's SERIES, without gradient."""

    @property
    def du_dt_norm(self) -> Tensor:
        """Euclidean norm of du/dt, [B]; 0 for r = t rows, and where it was not computed."""
        out = torch.zeros_like(self.adaptive)
        if self.du_dt is not None and len(self.du_dt):
            out[-len(self.du_dt) :] = row_norm(self.du_dt)
        return out

    @property
    def target_norm(self) -> Tensor:
        """Euclidean norm of the target, [B]."""
        return row_norm(self.target)


class Adaptive(Options):
    """Adaptive weight 1 / (L + c)^p of a row with raw loss L (Mean Flows, section 4.3).

    With p = 1 a row's weighted loss is close to 1 whatever L is, so curricula weigh rows after this normalisation and
    only the raw loss is worth plotting.
    """

    p: float = Field(default=1.0, ge=0)
    """Exponent; 0 switches the weight off."""
    c: float = Field(default=0.01, gt=0)
    """Offset, for a raw loss summed over C, H, W (with a mean the same c would mean something else)."""
    reduction: Literal["sum", "mean"] = later("sum")
    """What L is over C, H, W; with the mean the weight also turns the raw loss into its mean."""

    def weight(self, raw: Tensor, size: int | None = None) -> Tensor:
        """Return the weight [B] of raw losses [B], without gradient; a mean needs the size C H W of a row."""
        if self.reduction == "sum":
            return torch.pow(raw.detach() + self.c, -self.p)
        assert size is not None, "our own"
        return torch.pow(raw.detach() / size + self.c, -self.p) / size


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """||prediction - target||^2 summed over C, H, W, [B]."""
    error: Tensor = prediction - target
    return error.flatten(1).square().sum(1)


def row_norm(a: Tensor) -> Tensor:
    """Euclidean norm over C, H, W without gradient, [B]."""
    out: Tensor = torch.linalg.vector_norm(a.detach().flatten(1), dim=1)
    return out
