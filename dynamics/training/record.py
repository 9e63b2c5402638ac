"""What is recorded of every step."""

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

GAP_BINS = 10
"""Bins of width 0.1 in the recorded histogram of gaps."""

UNITS: dict[str, tuple[str, str]] = {
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
    "beta_s": ("1", "progress s of beta(dt, s)"),
    "dtd_stage": ("1", "stage of the denoising-difficulty curriculum"),
    "uniform_gap_share": ("1", "share of r < t rows with uniform gaps"),
    "step_seconds": ("s", "wall time of the step"),
}
"""Unit and long name of every recorded series."""


@dataclass
class StepRecord:
    """One step's numbers; the units are in UNITS."""

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
    series: dict[str, float] = field(default_factory=dict)
    step_seconds: float = 0.0
    by_gap: dict[str, float] = field(default_factory=dict)
    """What `monitor` watches: means over the rows of each bin of the gap; not among what is kept of every step."""

    def flat(self) -> dict[str, Any]:
        """Return what is kept of the step as one dictionary, the plan's series beside the rest."""
        out = asdict(self)
        series = out.pop("series")
        del out["by_gap"]
        return {**out, **series}


def peak_memory_mb() -> float:
    """Peak memory of this process: of the GPU if one is in use, else resident memory, in MB."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e6
    # not getrusage: there a child process starts at its parent's peak
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 / 1e6 if found else float("nan")
