"""Figures of one run or many, each of a tree (see `dynamics.store.open_results`) or of what `analysis` computed."""

from dynamics.analysis.plots.affinity import (
    affinity_heatmap,
    affinity_over_training,
    cosine_by_batch_size,
    noise_scale_by_gap,
)
from dynamics.analysis.plots.cells import loss_map
from dynamics.analysis.plots.curves import error_by_gap, losses, velocity_errors
from dynamics.analysis.plots.decomposition import decomposition_stacks, lookahead_heatmap
from dynamics.analysis.plots.figures import save
from dynamics.analysis.plots.samples import distance_by_nfe, sample_grids
from dynamics.analysis.plots.schedules import schedule

__all__ = [
    "affinity_heatmap",
    "affinity_over_training",
    "cosine_by_batch_size",
    "decomposition_stacks",
    "distance_by_nfe",
    "error_by_gap",
    "lookahead_heatmap",
    "loss_map",
    "losses",
    "noise_scale_by_gap",
    "sample_grids",
    "save",
    "schedule",
    "velocity_errors",
]
