"""Figures of one run or many, each of a tree (see `dynamics.store.open_results`) or of what `analysis` computed."""

from dynamics.analysis.plots.affinity import (
    affinity_heatmap,
    affinity_over_training,
    cosine_by_batch_size,
    noise_scale_by_gap,
)
from dynamics.analysis.plots.cells import loss_map
from dynamics.analysis.plots.claims import effects
from dynamics.analysis.plots.curves import error_by_gap, losses, velocity_errors
from dynamics.analysis.plots.decomposition import decomposition_stacks, lookahead_heatmap
from dynamics.analysis.plots.figures import save
from dynamics.analysis.plots.heatmaps import affinity_by_start, grid_heatmap
from dynamics.analysis.plots.samples import distance_by_nfe, fid_by_nfe, sample_grids
from dynamics.analysis.plots.schedules import schedule
from dynamics.analysis.plots.studies import (
    arms,
    cosines_over_training,
    decomposition_by_arm,
    errors_by_length,
    naive_against_unbiased,
    over_training,
)

__all__ = [
    "affinity_by_start",
    "affinity_heatmap",
    "affinity_over_training",
    "arms",
    "cosine_by_batch_size",
    "cosines_over_training",
    "decomposition_by_arm",
    "decomposition_stacks",
    "distance_by_nfe",
    "effects",
    "error_by_gap",
    "errors_by_length",
    "fid_by_nfe",
    "grid_heatmap",
    "lookahead_heatmap",
    "loss_map",
    "losses",
    "naive_against_unbiased",
    "noise_scale_by_gap",
    "over_training",
    "sample_grids",
    "save",
    "schedule",
    "velocity_errors",
]
