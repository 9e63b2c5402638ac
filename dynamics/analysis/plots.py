"""Figures of one run or many, each of a tree (see `dynamics.open_results`) or of what `analysis` computed.

A figure is a function in its room that returns a Figure whose title is the question it answers, decorated with
`dynamics.analysis.figure_style.styled`, and named here.
"""

from dynamics.analysis.figure_style import save
from dynamics.analysis.gradients.affinity_figures import affinity_heatmap, affinity_over_training
from dynamics.analysis.gradients.lookahead_figures import lookahead_heatmap
from dynamics.analysis.gradients.noise_figures import cosine_by_batch_size, noise_scale_by_gap
from dynamics.analysis.report.curriculum_figures import schedule
from dynamics.analysis.report.decomposition_figures import decomposition_stacks
from dynamics.analysis.report.loss_maps import loss_map
from dynamics.analysis.report.plane_figures import points_by_nfe, vector_fields
from dynamics.analysis.report.sample_figures import distance_by_nfe, fid_by_nfe, sample_grids
from dynamics.analysis.report.training_figures import error_by_gap, losses, velocity_errors
from dynamics.analysis.studies.arm_figures import arms, decomposition_by_arm, errors_by_length, frontier
from dynamics.analysis.studies.average_lengths import errors_by_ema_length
from dynamics.analysis.studies.course_figures import cosines_over_training, naive_against_unbiased, over_training
from dynamics.analysis.studies.effect_figures import effects
from dynamics.analysis.studies.ratio_maps import schedule_map
from dynamics.analysis.studies.seed_heatmaps import affinity_by_start, grid_heatmap

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
    "errors_by_ema_length",
    "errors_by_length",
    "fid_by_nfe",
    "frontier",
    "grid_heatmap",
    "lookahead_heatmap",
    "loss_map",
    "losses",
    "naive_against_unbiased",
    "noise_scale_by_gap",
    "over_training",
    "points_by_nfe",
    "sample_grids",
    "save",
    "schedule",
    "schedule_map",
    "vector_fields",
    "velocity_errors",
]
