"""Figures of one run or many. Each takes a tree (see `dynamics.store.open_results`) and returns a Figure."""

from dynamics.analysis.plots.curves import error_by_gap, losses, velocity_errors
from dynamics.analysis.plots.figures import save
from dynamics.analysis.plots.samples import distance_by_nfe, sample_grids
from dynamics.analysis.plots.schedules import schedule

__all__ = ["distance_by_nfe", "error_by_gap", "losses", "sample_grids", "save", "schedule", "velocity_errors"]
