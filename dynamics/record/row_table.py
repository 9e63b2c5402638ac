"""The rows of a step with what they cost, and sums over rows by time and by gap: a free by-product of training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

T_EDGES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Edges of the bins of t; a bin holds its lower edge, the last one both."""
GAP_EDGES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Edges of the bins of the gap t - r of r < t rows; the r = t rows have a bin of their own in front."""
QUANTITIES = ("count", "raw", "weighted", "target_norm", "du_dt_norm")
"""What is summed, in the order of the first dimension."""


@dataclass(frozen=True)
class RowTable:
    """What the rows of a step were and what they cost: [B] each on the CPU, float64 but for `is_v`."""

    is_v: Tensor
    """Bool, True for r = t rows."""
    t: Tensor
    gap: Tensor
    """t - r."""
    raw: Tensor
    """Raw loss, squared pixels summed over C, H, W."""
    adaptive: Tensor
    """Adaptive weight."""
    weight: Tensor
    """Weight of the curricula."""
    target_norm: Tensor
    """Norm of the target, pixels."""
    du_dt_norm: Tensor
    """Norm of du/dt, pixels; 0 for r = t rows, which need no derivative, and of objectives without it."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """What the objective records of each row, by the names of its SERIES."""

    @property
    def weighted(self) -> Tensor:
        """Weighted loss, [B]."""
        return self.raw * self.adaptive * self.weight

    def columns(self) -> dict[str, Tensor]:
        """Return all columns by name, the extras beside the rest."""
        names = ("is_v", "t", "gap", "raw", "adaptive", "weight", "target_norm", "du_dt_norm")
        return {**{name: getattr(self, name) for name in names}, **self.extras}

    @classmethod
    def of(cls, columns: Mapping[str, Tensor], extras: Sequence[str] = ()) -> "RowTable":
        """Return the table of columns by name; `extras` says which of them are such."""
        own = {name: column for name, column in columns.items() if name not in extras}
        own["is_v"] = own["is_v"].bool()
        return cls(**own, extras={name: columns[name] for name in extras})


def no_rows() -> Tensor:
    """Return the sums before the first step: zeros [quantity, t bin, gap bin], float64."""
    return torch.zeros(len(QUANTITIES), len(T_EDGES) - 1, len(GAP_EDGES), dtype=torch.float64)


def add(sums: Tensor, rows: RowTable) -> None:
    """Add a step's rows to the cells they lie in.

    Args:
        sums: [quantity, t bin, gap bin] float64, see `no_rows`; changed in place.
        rows: All rows of the step.

    Example:
        >>> t, one = torch.tensor([0.2, 0.95]).double(), torch.ones(2).double()
        >>> sums = no_rows()
        >>> add(sums, RowTable(torch.tensor([True, False]), t, t - torch.tensor([0.2, 0.0]), one, one, one, one, one))
        >>> sums[0].nonzero().tolist()
        [[1, 0], [5, 6]]
    """
    gap_bin = torch.where(rows.is_v, 0, 1 + _bin(rows.gap, GAP_EDGES))
    cell = _bin(rows.t, T_EDGES) * len(GAP_EDGES) + gap_bin
    columns = (torch.ones_like(rows.raw), rows.raw, rows.weighted, rows.target_norm, rows.du_dt_norm)
    # one pass for all quantities; bincount adds row by row, so that the result does not depend on the threads
    index = cell + torch.arange(0, sums.numel(), sums[0].numel()).unsqueeze(1)
    sums += torch.bincount(index.view(-1), torch.cat(columns), minlength=sums.numel()).view_as(sums)


def _bin(values: Tensor, edges: tuple[float, ...]) -> Tensor:
    inner = torch.tensor(edges[1:-1], dtype=torch.float64)
    return torch.bucketize(values, inner, right=True)


def means_by_gap(sums: Tensor) -> dict[str, float]:
    """Return the mean raw loss and du/dt norm of a step's rows by bin of the gap, of the bins that hold rows.

    Args:
        sums: [quantity, t bin, gap bin], of `add` for the rows of one step.
    """
    columns: dict[str, list[float]] = dict(zip(QUANTITIES, sums.sum(1).tolist(), strict=True))
    count = columns["count"]
    names = ["r = t", *(f"gap {low} to {high}" for low, high in pairwise(GAP_EDGES))]
    out = {}
    for i, name in enumerate(names):
        if count[i]:
            out[f"raw loss, {name}"] = columns["raw"][i] / count[i]
            if i:  # r = t rows need no derivative
                out[f"du/dt norm, {name}"] = columns["du_dt_norm"][i] / count[i]
    return out
