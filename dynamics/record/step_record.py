"""The numbers that are kept of every step."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamics.record.row_table import RowTable, add, means_by_gap, no_rows

GAP_BINS = 10
"""Bins of width 0.1 in the recorded histogram of gaps."""

SERIES: dict[str, tuple[str, str]] = {
    "loss": ("1", "training loss: mean of weight x adaptive weight x raw loss"),
    "raw_v": ("squared pixel", "raw loss of r = t rows, summed over C, H, W, mean over rows"),
    "raw_u": ("squared pixel", "raw loss of r < t rows, summed over C, H, W, mean over rows"),
    "weighted_v": ("1", "weighted loss of r = t rows, mean over rows"),
    "weighted_u": ("1", "weighted loss of r < t rows, mean over rows"),
    "total_v_weight": ("1", "sum of the curriculum weights of r = t rows over the batch size"),
    "total_u_weight": ("1", "sum of the curriculum weights of r < t rows over the batch size"),
    "du_dt_norm": ("pixel", "norm of du/dt of r < t rows, mean over rows"),
    "grad_norm": ("1", "norm of the gradient before clipping"),
    "gap_count": ("rows", "number of r < t rows by gap t - r"),
    "step_seconds": ("s", "wall time of the step"),
}
"""Unit and text of what is recorded of every step of every run; objectives and curricula declare their own."""


@dataclass
class StepRecord:
    """One step's numbers, whose units are in SERIES, and the rows they come from, which are not kept."""

    step: int
    loss: float
    raw_v: float
    raw_u: float
    weighted_v: float
    weighted_u: float
    total_v_weight: float
    total_u_weight: float
    du_dt_norm: float
    grad_norm: float
    gap_count: list[int]
    rows: RowTable
    """All rows of the step, those of every rank."""
    cells: Tensor
    """Sums over them [quantity, t bin, gap bin], see `row_table.add`."""
    series: dict[str, float] = field(default_factory=dict)
    """Numbers of the curricula and of the objective."""
    step_seconds: float = 0.0

    @property
    def by_gap(self) -> dict[str, float]:
        """Mean raw loss and du/dt norm of the rows in each bin of the gap, by text."""
        return means_by_gap(self.cells)

    def flat(self) -> dict[str, Any]:
        """Return what is kept of the step as one dictionary, the series of curricula and objective beside the rest."""
        names = ("step", *(name for name in SERIES))
        return {**{name: getattr(self, name) for name in names}, **self.series}


def summarise(step: int, table: RowTable, series: Mapping[str, float], grad_norm: float) -> StepRecord:
    """Reduce the rows of a step to its record.

    Args:
        step: Number of the step, from 1.
        table: Its rows.
        series: Numbers of the curricula.
        grad_norm: Norm of the gradient before clipping.
    """
    is_v, raw, weighted, weight = table.is_v, table.raw, table.weighted, table.weight
    edges = torch.linspace(0, 1, GAP_BINS + 1, dtype=torch.float64)
    counts = torch.histc(table.gap[~is_v], bins=GAP_BINS, min=float(edges[0]), max=float(edges[-1]))
    cells = no_rows()
    add(cells, table)

    def mean(values: Tensor) -> float:
        return float(values.mean()) if len(values) else math.nan

    return StepRecord(
        step=step,
        loss=float(weighted.mean()),
        raw_v=mean(raw[is_v]),
        raw_u=mean(raw[~is_v]),
        weighted_v=mean(weighted[is_v]),
        weighted_u=mean(weighted[~is_v]),
        total_v_weight=float(weight[is_v].sum()) / len(weight),
        total_u_weight=float(weight[~is_v].sum()) / len(weight),
        du_dt_norm=mean(table.du_dt_norm[~is_v]),
        grad_norm=grad_norm,
        gap_count=[int(c) for c in counts],
        rows=table,
        cells=cells,
        series={**series, **{name: mean(values) for name, values in table.extras.items()}},
    )


def peak_memory_mb() -> float:
    """Peak memory of this process: of the GPU if one is in use, else resident memory, in MB."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e6
    # not getrusage: there a child process starts at its parent's peak
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 / 1e6 if found else float("nan")
