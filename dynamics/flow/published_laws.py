"""Laws of (t, r) that single papers draw from."""

from functools import lru_cache
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from dynamics.flow.times import GAP_BIN_CELLS, LogitNormalPair, TimeLaw
from dynamics.options import invalid

MIN_GAP = 1e-4


class BetweenEdges(TimeLaw):
    """A law whose gaps lie between two edges."""

    low: float = Field(default=0.0, ge=0, lt=1)
    """Smallest gap t - r."""
    high: float = Field(default=1.0, gt=0, le=1)
    """Largest gap t - r."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise invalid("low, high", (self.low, self.high), "low < high", "swap the two edges")
        return self


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
        t = LogitNormalPair(mean=self.mean, std=self.std).draw_quantile(a)
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
        later = LogitNormalPair(mean=self.later_mean, std=self.later_std).draw_quantile(a)
        earlier = LogitNormalPair(mean=self.earlier_mean, std=self.earlier_std).draw_quantile(b)
        return torch.maximum(later, earlier), torch.minimum(later, earlier)


class GapThenEnd(BetweenEdges):
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

    def quantile(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        of_gap = LogitNormalPair(mean=self.gap_mean, std=self.gap_std)
        of_r = LogitNormalPair(mean=self.mean, std=self.std)
        first, last = of_gap.draw_cdf(torch.tensor([self.low, self.high]).double())
        gap = of_gap.draw_quantile(first + a * (last - first))
        r = of_r.draw_quantile(b * of_r.draw_cdf(1 - gap))
        return (r + gap).clamp(max=1), r


class SeparateDraws(BetweenEdges):
    """t ~ sigmoid(N(t_mean, t_std^2)), and r ~ sigmoid(N(r_mean, r_std^2)) where it is below t, else t - 1e-4.

    SoFlow's law (2512.15657; train.py of its code); its t alone is one draw, as SoFlow and AlphaFlow take for r = t.

    Example:
        >>> round(SeparateDraws(t_mean=-0.4, t_std=1.0).expect(lambda t, r: t), 3)
        0.418
        >>> inside = SeparateDraws(low=0.5)
        >>> round(inside.expect(lambda t, r: (t - r >= 0.5).double()), 3)
        1.0
    """

    kind: Literal["separate_draws"] = "separate_draws"
    t_mean: float = 0.2
    """Mean of the normal draw of t before the sigmoid."""
    t_std: float = Field(default=0.8, gt=0)
    """Its standard deviation."""
    r_mean: float = -1.0
    """Mean of the normal draw of r before the sigmoid."""
    r_std: float = Field(default=0.8, gt=0)
    """Its standard deviation."""

    @property
    def draws(self) -> tuple[LogitNormalPair, LogitNormalPair]:
        """Laws whose single draws are those of t and of r."""
        return LogitNormalPair(mean=self.t_mean, std=self.t_std), LogitNormalPair(mean=self.r_mean, std=self.r_std)

    def quantile(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        of_t, of_r = self.draws
        t = of_t.draw_quantile(a) if (self.low, self.high) == (0, 1) else self._truncated(a)
        t = t.clamp(min=max(self.low, MIN_GAP))
        first, last = _range_of_r(self, t)
        r = of_r.draw_quantile(first + b * (last - first))
        return t, r.minimum(t - max(self.low, MIN_GAP)).maximum((t - self.high).clamp(min=0))

    def _truncated(self, a: Tensor) -> Tensor:
        edges, reached = _table_of_t(self)
        cell = torch.searchsorted(reached, a.contiguous(), right=True).clamp(1, len(edges) - 1)
        below, mass = reached[cell - 1], reached[cell] - reached[cell - 1]
        inside = ((a - below) / mass.clamp(min=1e-300)).clamp(0, 1)
        return edges[cell - 1] + (edges[cell] - edges[cell - 1]) * inside


def _range_of_r(law: SeparateDraws, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return between which probabilities the draw of r lies, given t and the gap's edges."""
    cdf = law.draws[1].draw_cdf
    last = torch.ones_like(t) if law.low <= MIN_GAP else cdf((t - law.low).clamp(0, 1))
    return cdf((t - law.high).clamp(0, 1)), last


@lru_cache(maxsize=64)
def _table_of_t(law: SeparateDraws) -> tuple[Tensor, Tensor]:
    """Return the edges of the cells of t, [GAP_BIN_CELLS + 1], and the probability reached at each."""
    edges = torch.linspace(law.low, 1, GAP_BIN_CELLS + 1, dtype=torch.float64)
    first, last = _range_of_r(law, (edges[1:] + edges[:-1]) / 2)
    mass = law.draws[0].draw_cdf(edges).diff() * (last - first)
    if not float(mass.sum()) > 0:
        raise invalid("gap bin", (law.low, law.high), "gaps that separate_draws draws", "move the edges")
    return edges, torch.cat([mass.new_zeros(1), mass.cumsum(0) / mass.sum()])
