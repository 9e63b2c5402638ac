"""Laws of (t, r) that single papers draw from."""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from dynamics.flow.times import TimeLaw
from dynamics.options import invalid


class LogitNormalTime(TimeLaw):
    """One draw t ~ sigmoid(N(mean, std^2)), and a uniform r, for r = t rows that do not take the larger of two draws.

    Example:
        >>> round(LogitNormalTime().expect(lambda t, r: t), 3), round(LogitNormalTime().expect(lambda t, r: t - r), 3)
        (0.418, 0.209)
    """

    kind: Literal["logit_normal_time"] = "logit_normal_time"
    mean: float = -0.4
    """Mean of the normal draw before the sigmoid."""
    std: float = Field(default=1.0, gt=0)
    """Standard deviation of the normal draw before the sigmoid."""
    r: Literal["below", "ordered"] = "below"
    """r is uniform in [0, t], or uniform in [0, 1] and the larger of the two numbers becomes t."""

    def quantile(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        t = _logit_normal(a, self.mean, self.std)
        return (t, b * t) if self.r == "below" else (torch.maximum(t, b), torch.minimum(t, b))


class TwoLogitNormals(TimeLaw):
    """The larger and the smaller of two draws from different laws, sigmoid(N(mean, std^2)) each (DMF, 2510.24474).

    Example:
        >>> round(TwoLogitNormals(later_mean=0.4, earlier_mean=-1.2).expect(lambda t, r: t - r), 3)
        0.352
    """

    kind: Literal["two_logit_normals"] = "two_logit_normals"
    later_mean: float = 0.4
    """Mean of the draw that is mostly the larger one."""
    later_std: float = Field(default=1.0, gt=0)
    """Its standard deviation."""
    earlier_mean: float = -1.2
    """Mean of the draw that is mostly the smaller one."""
    earlier_std: float = Field(default=1.0, gt=0)
    """Its standard deviation."""

    def quantile(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        later = _logit_normal(a, self.later_mean, self.later_std)
        earlier = _logit_normal(b, self.earlier_mean, self.earlier_std)
        return torch.maximum(later, earlier), torch.minimum(later, earlier)


class GapThenEnd(TimeLaw):
    """The gap t - r ~ sigmoid(N(gap_mean, gap_std^2)), then r ~ sigmoid(N(mean, std^2)) given r <= 1 - gap.

    It is that of Terminal Velocity Matching (2511.19797; official code, training/loss.py).

    Example:
        >>> round(GapThenEnd().expect(lambda t, r: t - r), 3), round(GapThenEnd().expect(lambda t, r: r), 3)
        (0.34, 0.347)
    """

    kind: Literal["gap_then_end"] = "gap_then_end"
    gap_mean: float = -0.8
    """Mean of the gap's normal draw before the sigmoid."""
    gap_std: float = Field(default=1.0, gt=0)
    """Standard deviation of the gap's normal draw."""
    mean: float = -0.4
    """Mean of r's normal draw before the sigmoid."""
    std: float = Field(default=1.0, gt=0)
    """Standard deviation of r's normal draw."""
    low: float = Field(default=0.0, ge=0, lt=1)
    """Smallest gap t - r."""
    high: float = Field(default=1.0, gt=0, le=1)
    """Largest gap t - r."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise invalid("gap_then_end", (self.low, self.high), "low < high", "swap the two edges")
        return self

    def quantile(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        first, last = _logit_normal_cdf(torch.tensor([self.low, self.high]).double(), self.gap_mean, self.gap_std)
        gap = _logit_normal(first + a * (last - first), self.gap_mean, self.gap_std)
        r = _logit_normal(b * _logit_normal_cdf(1 - gap, self.mean, self.std), self.mean, self.std)
        return (r + gap).clamp(max=1), r


def _logit_normal(p: Tensor, mean: float, std: float) -> Tensor:
    return torch.sigmoid(mean + std * torch.special.ndtri(p))


def _logit_normal_cdf(t: Tensor, mean: float, std: float) -> Tensor:
    out: Tensor = torch.special.ndtr((torch.logit(t) - mean) / std)
    return out
