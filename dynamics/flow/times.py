"""Laws of (t, r): how the times of training rows are drawn.

Every law maps two independent uniform numbers to a pair r <= t, so that sampling, expectations and truncation share one
formula. Rows with r = t take the law's t and overwrite r (Mean Flows, 2505.13447, section 4.3): their t is therefore
the larger of two draws, not one draw.
"""

from abc import abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from dynamics.options import Family, Options, invalid, later


class TimeLaw(Family):
    """A joint law of (t, r) with 0 <= r <= t <= 1; one that a config can name has a `kind`."""

    @abstractmethod
    def quantile(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Map independent uniforms a, b [B] in (0, 1), float64, to t and r [B], float64."""

    def sample(self, num_rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw t and r, both [num_rows] float32."""
        a, b = torch.rand(2, num_rows, generator=generator, dtype=torch.float64)
        t, r = self.quantile(a, b)
        return t.float(), r.float()

    def expect(self, f: Callable[[Tensor, Tensor], Tensor], num_points: int = 512) -> float:
        """Return E[f(t, r)] by the midpoint rule on the unit square of (a, b), num_points^2 nodes."""
        nodes = (torch.arange(num_points, dtype=torch.float64) + 0.5) / num_points
        a, b = torch.meshgrid(nodes, nodes, indexing="ij")
        return float(f(*self.quantile(a.reshape(-1), b.reshape(-1))).mean())


class MaxMinLaw(TimeLaw):
    """Larger and smaller of two independent draws from one law of t, given by its quantile function.

    The larger of two has the distribution function F^2, and given it the smaller is a draw truncated from above. So
    t = Q(sqrt(a)), r = Q(b sqrt(a)) has exactly the law of (max, min), and t can be truncated from below by moving a.
    """

    @abstractmethod
    def draw_quantile(self, p: Tensor) -> Tensor:
        """Q(p): the quantile function of one draw."""

    @abstractmethod
    def draw_cdf(self, t: Tensor) -> Tensor:
        """F(t): the distribution function of one draw, float64 of any shape."""

    def quantile(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        root = a.sqrt()
        return self.draw_quantile(root), self.draw_quantile(b * root)


class LogitNormalPair(MaxMinLaw):
    """Mean Flows' law: two draws of sigmoid(N(mean, std^2)), t the larger and r the smaller.

    Example:
        >>> law = LogitNormalPair()
        >>> round(law.expect(lambda t, r: t - r), 3), round(law.expect(lambda t, r: t), 3)
        (0.233, 0.535)
    """

    kind: Literal["logit_normal"] = "logit_normal"
    mean: float = -0.4
    """Mean of the normal draw before the sigmoid."""
    std: float = Field(default=1.0, gt=0)
    """Standard deviation of the normal draw before the sigmoid."""

    def draw_quantile(self, p: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(p))

    def draw_cdf(self, t: Tensor) -> Tensor:
        out: Tensor = torch.special.ndtr((torch.logit(t) - self.mean) / self.std)
        return out


class UniformPair(MaxMinLaw):
    """Two uniform draws, t the larger and r the smaller: uniform on the triangle r <= t.

    Example:
        >>> round(UniformPair().expect(lambda t, r: t - r), 3)
        0.333
    """

    kind: Literal["uniform_pair"] = "uniform_pair"

    def draw_quantile(self, p: Tensor) -> Tensor:
        return p

    def draw_cdf(self, t: Tensor) -> Tensor:
        return t


class UniformGap(TimeLaw):
    """The gap t - r is uniform in [low, high], and t is uniform in [gap, 1].

    With (0, 1) every gap is equally likely, also the one from (t, r) = (1, 0) that one-step sampling uses; with a
    narrow interval it draws directly inside a gap bin.
    """

    kind: Literal["uniform_gap"] = "uniform_gap"
    low: float = Field(default=0.0, ge=0, le=1)
    """Smallest gap t - r."""
    high: float = Field(default=1.0, ge=0, le=1)
    """Largest gap t - r."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise invalid("uniform_gap", (self.low, self.high), "low <= high", "swap the two edges")
        return self

    def quantile(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        gap = self.low + (self.high - self.low) * a
        t = gap + (1 - gap) * b
        return t, t - gap


class DyadicSteps(TimeLaw):
    """Steps of grids that halve: the gap is 2^-k, k uniform in longest..shortest, and t any of its multiples.

    Shortcut models (2410.12557, section 3) draw the gaps 1, 1/2, ..., 1/64, and for r = t rows the multiples of 1/128.

    Example:
        >>> t, r = DyadicSteps(longest=1, shortest=1).quantile(*torch.tensor([[0.5, 0.5], [0.2, 0.7]]))
        >>> t.tolist(), r.tolist()
        ([0.5, 1.0], [0.0, 0.5])
    """

    kind: Literal["dyadic_steps"] = "dyadic_steps"
    longest: int = Field(default=0, ge=0, le=20)
    """k of the largest gap."""
    shortest: int = Field(default=6, ge=0, le=20)
    """k of the smallest gap."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.longest > self.shortest:
            received = (self.longest, self.shortest)
            raise invalid("dyadic_steps", received, "longest <= shortest, as exponents k of 2^-k", "swap the two")
        return self

    def quantile(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        k = self.longest + (a * (self.shortest - self.longest + 1)).floor().clamp(max=self.shortest - self.longest)
        num_steps = 2**k
        step = (b * num_steps).floor().minimum(num_steps - 1)
        return (step + 1) / num_steps, step / num_steps

    def expect(self, f: Callable[[Tensor, Tensor], Tensor], num_points: int = 512) -> float:
        """Return E[f(t, r)], summed over all steps."""
        levels = range(self.longest, self.shortest + 1)
        grids = [torch.arange(2**k + 1, dtype=torch.float64) / 2**k for k in levels]
        return sum(float(f(grid[1:], grid[:-1]).mean()) for grid in grids) / len(levels)


Intervals = tuple[tuple[float, float], ...]
"""Disjoint intervals (low, high) of t, increasing."""


class WithinTimes(TimeLaw):
    """A max-min law given that t lies in one of several intervals, for curricula that begin with some times."""

    base: MaxMinLaw
    """The law before truncation."""
    intervals: Intervals
    """Where t may lie."""

    def quantile(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        edges = self.base.draw_cdf(torch.tensor(self.intervals, dtype=torch.float64)) ** 2  # that of the larger draw
        return self.base.quantile(_inside(edges, a), b)


class UniformWithinTimes(TimeLaw):
    """t uniform in several intervals and r uniform in [0, t]."""

    intervals: Intervals
    """Where t may lie."""

    def quantile(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        t = _inside(torch.tensor(self.intervals, dtype=torch.float64), a)
        return t, b * t


def _inside(edges: Tensor, a: Tensor) -> Tensor:
    """Map uniform numbers [B] in (0, 1) to the union of intervals, edges [N, 2]."""
    lengths = edges[:, 1] - edges[:, 0]
    reached = lengths.cumsum(0)
    position = a * reached[-1]
    index = torch.searchsorted(reached, position.contiguous()).clamp(max=len(edges) - 1)
    return edges[index, 0] + (position - (reached - lengths)[index])


class GapBin(TimeLaw):
    """A max-min law given that low <= t - r <= high, drawn directly: rejection would need 50,000 draws for gaps >= 0.9.

    Given t, the smaller draw is truncated to [t - high, t - low]; t itself has the density of the larger draw times the
    probability of that interval, tabulated on GAP_BIN_CELLS cells and inverted linearly inside a cell.

    Example:
        >>> law = GapBin(base=UniformPair(), low=0.5, high=1.0)     # of the triangle: E[gap] = 1/2 + (1 - 1/2)/3
        >>> round(law.expect(lambda t, r: t - r), 3)
        0.667
    """

    kind: Literal["gap_bin"] = "gap_bin"
    base: Annotated[LogitNormalPair | UniformPair, Field(discriminator="kind")]
    """The law before truncation."""
    low: float = Field(ge=0, lt=1)
    """Smallest gap t - r."""
    high: float = Field(gt=0, le=1)
    """Largest gap t - r."""

    def quantile(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        edges, reached = _gap_bin_table(self)
        cell = torch.searchsorted(reached, a.contiguous(), right=True).clamp(1, len(edges) - 1)
        below, mass = reached[cell - 1], reached[cell] - reached[cell - 1]
        t = edges[cell - 1] + (edges[cell] - edges[cell - 1]) * ((a - below) / mass.clamp(min=1e-300)).clamp(0, 1)
        first, last = (self.base.draw_cdf((t - gap).clamp(min=0)) for gap in (self.high, self.low))
        r = self.base.draw_quantile(first + b * (last - first))
        return t, torch.minimum(torch.maximum(r, (t - self.high).clamp(min=0)), t - self.low)


GAP_BIN_CELLS = 4096
"""Cells of t in a gap bin's table."""


@lru_cache(maxsize=64)
def _gap_bin_table(law: GapBin) -> tuple[Tensor, Tensor]:
    """Return the edges of the cells of t, [GAP_BIN_CELLS + 1], and the probability reached at each."""
    edges = torch.linspace(law.low, 1, GAP_BIN_CELLS + 1, dtype=torch.float64)
    middle, cdf = (edges[1:] + edges[:-1]) / 2, law.base.draw_cdf
    inside = cdf((middle - law.low).clamp(min=0)) - cdf((middle - law.high).clamp(min=0))
    mass = (cdf(edges) ** 2).diff() * inside / cdf(middle).clamp(min=1e-300)
    if not float(mass.sum()) > 0:
        raise invalid("gap bin", (law.low, law.high), f"gaps that {type(law.base).__name__} draws", "move the edges")
    return edges, torch.cat([mass.new_zeros(1), mass.cumsum(0) / mass.sum()])


class UniformGapFromTime(TimeLaw):
    """t uniform in [t_min, 1] and the gap uniform in [low, high], high <= t_min: the same law of t for any gap."""

    kind: Literal["uniform_gap_from_time"] = "uniform_gap_from_time"
    t_min: float = Field(ge=0, le=1)
    """Smallest t."""
    low: float = Field(ge=0, le=1)
    """Smallest gap t - r."""
    high: float = Field(ge=0, le=1)
    """Largest gap t - r."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.low <= self.high <= self.t_min:
            received = (self.low, self.high, self.t_min)
            raise invalid("low, high, t_min", received, "low <= high <= t_min", "raise t_min or lower the gaps")
        return self

    def quantile(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        t = self.t_min + (1 - self.t_min) * a
        return t, t - (self.low + (self.high - self.low) * b)


class Blend(TimeLaw):
    """Each row comes from `other` with probability `share`, else from `base`."""

    base: TimeLaw
    """The law at share 0."""
    other: TimeLaw
    """The law at share 1."""
    share: float = Field(ge=0, le=1)
    """Probability of a draw from `other`."""

    def quantile(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        from_other = a < self.share
        # within each branch a is again uniform once rescaled; the clamp only serves rows the branch does not use
        inside = self.other.quantile((a / max(self.share, 1e-12)).clamp(max=1), b)
        outside = self.base.quantile(((a - self.share) / max(1 - self.share, 1e-12)).clamp(min=0), b)
        return torch.where(from_other, inside[0], outside[0]), torch.where(from_other, inside[1], outside[1])

    def expect(self, f: Callable[[Tensor, Tensor], Tensor], num_points: int = 512) -> float:
        return self.share * self.other.expect(f, num_points) + (1 - self.share) * self.base.expect(f, num_points)


@lru_cache(maxsize=4096)
def mean_gap(law: TimeLaw) -> float:
    """Return E[t - r] of a law.

    Example:
        >>> round(1 / (1 - mean_gap(LogitNormalPair())), 4)
        1.3045
    """
    if isinstance(law, Blend):
        return law.share * mean_gap(law.other) + (1 - law.share) * mean_gap(law.base)
    return law.expect(lambda t, r: t - r)


class TimesOptions(Options):
    """How the rows' times are drawn before any curriculum changes them."""

    law: TimeLaw = LogitNormalPair()
    """Law of (t, r); rows with r = t take its t."""
    gap_share: float = Field(default=0.25, ge=0, le=1)
    """Share of rows with r < t, P(r != t); the others have r = t."""
    equal_law: TimeLaw | None = later(None)
    """Law whose t the r = t rows take; none takes that of `law`."""
