"""Exact errors and losses over training."""

from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynamics.analysis.figure_style import (
    PAGE_WIDTH,
    Colour,
    line_legend,
    log_axis,
    new_figure,
    panel_figure,
    run_colours,
    styled,
)
from dynamics.analysis.report.summary_table import relative_error
from dynamics.analysis.run_groups import bin_edges, group

SMOOTHING = 50
"""A curve is smoothed over this fraction of its steps."""


@styled
def error_by_gap(tree: xr.DataTree) -> Figure:
    """Draw the relative error of u over training, a panel for each bin of the gap t - r.

    Bands are one standard error over rows. An error of 1 (dotted) is that of answering 0.

    Raises:
        ValueError: No run has the group gaps.
    """
    return _errors(tree, "How far is the average velocity u from the exact one, by gap?", "u", "gap_bin", "gap t - r")


@styled
def velocity_errors(tree: xr.DataTree) -> Figure:
    """Draw the relative error of v over training, a panel for each bin of t.

    On a finite data set the exact v* memorises at small t, where its error does not measure quality.

    Raises:
        ValueError: No run has the group gaps.
    """
    title = "How far is the instantaneous velocity v from the exact one, by time?"
    return _errors(tree, title, "v", "t_bin", "time t")


@styled
def losses(tree: xr.DataTree) -> Figure:
    """Draw the raw losses of r = t rows and of r < t rows, smoothed, with the recorded values faint behind.

    Raises:
        ValueError: No run has the group training.
    """
    ds = group(tree, "training")
    figure = new_figure("Do the raw losses fall, and do they stay finite?", PAGE_WIDTH, 3.7)
    titles = {"raw_v": "r = t rows (v)", "raw_u": "r < t rows (u)"}
    for ax, (name, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for run, colour in run_colours(tree).items():
            values = _of(ds[name], run).to_series()
            if len(values):
                ax.plot(values.index, values, color=colour, alpha=0.18, linewidth=0.7)
                ax.plot(values.index, smooth(values), color=colour)
        ax.set(title=title, xlabel="optimiser step", ylabel="raw loss in squared pixels")
        log_axis(ax)
    line_legend(figure, run_colours(tree), columns=5)
    return figure


def smooth(values: pd.Series) -> pd.Series:
    """Return the mean over a window centred at each step, 1/SMOOTHING of all steps wide, narrower at the ends.

    NaN, a step that a run does not have, stays NaN.

    Example:
        >>> smooth(pd.Series(np.arange(150.0)))[[0, 75]].tolist()
        [0.5, 75.0]
    """
    width = 2 * (len(values) // SMOOTHING // 2) + 1
    return values.rolling(width, center=True, min_periods=1).mean().where(values.notna())


def _errors(tree: xr.DataTree, title: str, what: Literal["v", "u"], dim: str, name: str) -> Figure:
    ds = group(tree, "gaps")
    relative = relative_error(ds, what)
    edges = bin_edges(ds, dim)
    figure, axes = panel_figure(title, len(edges), 0.9)
    for i, (ax, (low, high)) in enumerate(zip(axes, edges, strict=True)):
        for run, colour in run_colours(tree).items():
            _band(ax, relative.isel({dim: i}), run, colour)
        ax.axhline(1.0, color="0.5", linestyle=":", linewidth=1)
        ax.set(title=f"{name} in [{low:g}, {high:g}]")
        log_axis(ax)
    figure.supylabel("squared error / exact squared norm", fontsize=9.5)
    line_legend(figure, run_colours(tree), "band: one standard error over rows; dotted: answering 0", columns=5)
    return figure


def _band(ax: Axes, relative: xr.Dataset, run: str, colour: Colour) -> None:
    values = _of(relative.relative_error, run)
    if not values.size:
        return
    sem = _of(relative.relative_error_sem, run).values
    mean, steps = values.values, values.step.values
    ax.plot(steps, mean, color=colour, marker="o" if len(steps) == 1 else None)
    ax.fill_between(steps, np.maximum(mean - sem, mean * 0.05), mean + sem, color=colour, alpha=0.13, linewidth=0)


def _of(values: xr.DataArray, run: str) -> xr.DataArray:
    """Return one run's recorded steps; none if the group does not have the run."""
    chosen = values.isel(run=[str(r) == run for r in values.run.values]).dropna("step")
    return chosen.isel(run=0, drop=True) if chosen.sizes["run"] else values.isel(run=0, step=[], drop=True)
