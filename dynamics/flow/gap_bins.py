"""Laws of (t, r) given the gap t - r, for measurements by gap."""

from functools import lru_cache

import torch
from pydantic import Field
from torch import Tensor

from dynamics.flow.times import DyadicSteps, GapBin, LogitNormalPair, TimeLaw, UniformPair
from dynamics.options import invalid


def within_gap_bin(law: TimeLaw, low: float, high: float) -> TimeLaw:
    """Return a law given that low <= t - r <= high.

    Raises:
        ValueError: The law never draws such gaps.
    """
    if isinstance(law, LogitNormalPair | UniformPair):
        return GapBin(base=law, low=low, high=high)
    if {"low", "high"} <= type(law).model_fields.keys():  # a law of the gap between two edges
        edges = dict(law)
        if max(edges["low"], low) >= min(edges["high"], high):
            raise invalid(
                "gap bin", (low, high), f"gaps between {edges['low']:g} and {edges['high']:g}", "move the edges"
            )
        return law.model_copy(update={"low": max(edges["low"], low), "high": min(edges["high"], high)})
    if isinstance(law, DyadicSteps):
        inside = [k for k in range(law.longest, law.shortest + 1) if low <= 2**-k < high or 2**-k == high == 1]
        if not inside:
            raise invalid("gap bin", (low, high), f"a bin with one of the gaps of {law}", "move the edges")
        return DyadicSteps(longest=inside[0], shortest=inside[-1])
    return GapCells(base=law, low=low, high=high)


class GapCells(TimeLaw):
    """Any law given that low <= t - r <= high, nearly.

    The unit square of (a, b) has GAP_CELLS^2 cells; those whose centre has such a gap are equally likely.
    """

    base: TimeLaw
    """The law before truncation."""
    low: float = Field(ge=0, lt=1)
    """Smallest gap t - r."""
    high: float = Field(gt=0, le=1)
    """Largest gap t - r."""

    def quantile(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        inside = _cells_inside(self)
        place = a * len(inside)
        index = place.long().clamp(max=len(inside) - 1)
        row, column = inside[index].T
        t, r = self.base.quantile((row + place - index) / GAP_CELLS, (column + b) / GAP_CELLS)
        t = t.clamp(min=self.low)
        return t, r.maximum(t - self.high).minimum(t - self.low)


GAP_CELLS = 1024
"""Cells along each of a and b."""


@lru_cache(maxsize=16)
def _cells_inside(law: GapCells) -> Tensor:
    """Return the cells whose centre has a gap inside, [N, 2]."""
    nodes = (torch.arange(GAP_CELLS, dtype=torch.float64) + 0.5) / GAP_CELLS
    t, r = law.base.quantile(nodes.repeat_interleave(GAP_CELLS), nodes.repeat(GAP_CELLS))
    inside = ((t - r >= law.low) & (t - r <= law.high)).reshape(GAP_CELLS, GAP_CELLS).nonzero()
    if not len(inside):
        raise invalid("gap bin", (law.low, law.high), f"gaps that {type(law.base).__name__} draws", "move the edges")
    return inside
