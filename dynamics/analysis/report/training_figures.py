"""Exact errors and losses over training."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynamics.analysis.figure_style import (
    PAGE_WIDTH,
    Colour,
    arm_colours,
    band,
    line_legend,
    log_axis,
    new_figure,
    panel_figure,
    styled,
)
from dynamics.analysis.report.summary_table import relative_error
from dynamics.analysis.run_groups import bin_edges, group
from dynamics.analysis.seed_arms import SEEDS_NOTE, arms_of, mean_over_seeds

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
        for arm, colour in arm_colours(tree).items():
            values = recorded(ds[name], arms_of(tree)[arm])
            if len(values.columns) == 1:
                ax.plot(values.index, values, color=colour, alpha=0.18, linewidth=0.7)
            draw_arm(ax, values.apply(smooth), colour, logs=True)
        ax.set(title=title, xlabel="optimiser step", ylabel="raw loss in squared pixels")
        if ax.lines:
            log_axis(ax)
        else:
            ax.text(0.5, 0.5, "no such rows", transform=ax.transAxes, ha="center", color="0.4")
            ax.set(xticks=[], yticks=[])
    line_legend(figure, arm_colours(tree), seeds_note(tree))
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
        for arm, colour in arm_colours(tree).items():
            _course(ax, relative.isel({dim: i}), arms_of(tree)[arm], colour)
        ax.axhline(1.0, color="0.5", linestyle=":", linewidth=1)
        ax.set(title=f"{name} in [{low:g}, {high:g}]")
        log_axis(ax)
    figure.supylabel("squared error / exact squared norm", fontsize=9.5)
    note = seeds_note(tree) or "band: one standard error over rows"
    line_legend(figure, arm_colours(tree), f"{note}; dotted: answering 0")
    return figure


def _course(ax: Axes, relative: xr.Dataset, runs: Sequence[str], colour: Colour) -> None:
    values = recorded(relative.relative_error, runs)
    if len(values.columns) != 1:
        return draw_arm(ax, values, colour, logs=True)
    sem = recorded(relative.relative_error_sem, runs).reindex_like(values).iloc[:, 0]
    mean = values.iloc[:, 0]
    band(ax, mean.index, mean, np.maximum(mean - sem, mean * 0.05), mean + sem, colour)


def recorded(values: xr.DataArray, runs: Sequence[str]) -> pd.DataFrame:
    """Return what an arm's runs recorded: a row a step, a column a run; none for a run that the group does not have."""
    there = [str(run) in runs for run in values.run.values]
    table = values.isel(run=there).transpose("step", "run")
    columns = [str(run) for run in table.run.values]
    return pd.DataFrame(table.values, table.step.values, columns).dropna(how="all").dropna(axis=1, how="all")


def draw_arm(ax: Axes, values: pd.DataFrame, colour: Colour, logs: bool) -> None:
    """Draw the mean of an arm's runs over training and its interval over seeds, a run alone as it is."""
    if values.empty:
        return
    if len(values.columns) == 1:
        ax.plot(values.index, values, color=colour, marker="o" if len(values) == 1 else None)
        return
    means = mean_over_seeds(values.T, logs)
    band(ax, means.index, means["mean"], means["low"], means["high"], colour)


def seeds_note(tree: xr.DataTree) -> str:
    """Say what a line is where runs of several seeds are one; nothing where each is a line of its own."""
    several = any(len(runs) > 1 for runs in arms_of(tree).values())
    return f"line: mean; band: {SEEDS_NOTE}" if several else ""
