"""Means over seeds by two labels, as heatmaps."""

from typing import Any, Literal

import numpy as np
import pandas as pd
import seaborn as sns
import xarray as xr
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from dynamics.analysis.figure_style import new_figure, styled
from dynamics.analysis.run_groups import group
from dynamics.analysis.studies.claims import is_ratio
from dynamics.analysis.studies.seed_means import (
    Names,
    Where,
    column_words,
    long_table,
    measured_at,
    over_seeds,
    seed_values,
)
from dynamics.analysis.studies.study_table import gap_cosines
from dynamics.analysis.studies.verdicts import LEVEL


@styled
def affinity_by_start(
    tree: xr.DataTree, by: Names, step: Literal["first", "last"] = "first", where: Where | None = None
) -> Figure:
    """Draw the mean unbiased cosine of v with u in each bin of gaps, a row an arm, with half the interval's width.

    Args:
        tree: The collected file of an experiment.
        by: The axis, or several, whose labels are the arms.
        step: Which measurement of each run.
        where: Labels of the runs to draw; all if None.

    Raises:
        ValueError: The file has no group gram, or there is no such axis, step or label.
    """
    frame = measured_at(long_table(gap_cosines(tree, "gram").unbiased, group(tree, "gram"), by, where), step)
    means = over_seeds(frame, ["arm", "bin"], False)
    title = f"How well do v and u agree at the {step} measurement?"
    return _heatmap(means, title, ("gap t - r", "start"), "cosine of the true gradients", False)


@styled
def grid_heatmap(table: pd.DataFrame, rows: Names, columns: Names, metric: str) -> Figure:
    """Draw the mean of a metric for every combination of two axes, with its interval over seeds in each cell.

    Args:
        table: From `study`.
        rows: The axis, or several, down the figure.
        columns: The axis, or several, across it.
        metric: Column of the table.

    Raises:
        ValueError: There is no such axis or metric.
    """
    frame = seed_values(table, rows, metric).assign(column=seed_values(table, columns, metric)["arm"])
    means = over_seeds(frame, ["arm", "column"], is_ratio(metric))
    down, across = (name if isinstance(name, str) else ", ".join(name) for name in (rows, columns))
    title = f"How does the {column_words(metric)} depend on {down} and {across}?"
    return _heatmap(means, title, (across, down), column_words(metric), is_ratio(metric))


def _heatmap(means: pd.DataFrame, title: str, names: tuple[str, str], text: str, logs: bool) -> Figure:
    """Draw means by two keys, the first down and the second across."""
    down, across = (list(dict.fromkeys(means.index.get_level_values(level))) for level in (0, 1))
    seeds = int(means["seeds"].max())
    rows = [[means.loc[(i, j)] if (i, j) in means.index else None for j in across] for i in down]
    values = pd.DataFrame([[np.nan if m is None else m["mean"] for m in row] for row in rows], down, across)
    cells = [["" if m is None else _cell(m, logs, seeds) for m in row] for row in rows]
    figure = new_figure(title, max(5.6, 2.6 + 1.15 * len(across)), 1.7 + 0.62 * len(down))
    ax = figure.subplots()
    scale: dict[str, Any] = {"vmin": -1, "vmax": 1, "cmap": "RdBu"}
    if logs:
        scale = {"norm": LogNorm(), "cmap": "viridis_r"}
    sns.heatmap(values, ax=ax, annot=cells, fmt="", linewidths=1.5, annot_kws={"fontsize": 8.5}, cbar=False, **scale)
    ax.set(xlabel=names[0], ylabel=names[1])
    ax.tick_params(length=0, rotation=0)
    under = f"{text}: mean, {'interval' if logs else 'half width of the interval'} over seeds ({LEVEL:.0%})"
    figure.legend(handles=[], loc="outside lower center", title=under)
    return figure


def _cell(row: pd.Series, logs: bool, seeds: int) -> str:
    second = f"{row['low']:.3g} … {row['high']:.3g}" if logs else f"± {row['high'] - row['mean']:.2f}"
    fewer = f"\n{row['seeds']:.0f} of {seeds} seeds" if row["seeds"] < seeds else ""
    return f"{row['mean']:.3g}\n{second}{fewer}" if logs else f"{row['mean']:.2f}\n{second}{fewer}"
