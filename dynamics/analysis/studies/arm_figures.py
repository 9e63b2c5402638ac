"""Arms of an experiment side by side: every seed, the mean and its interval.

The unit is the seed. Means are those of logs wherever `judge` takes logs (errors, Frechet distances), so that figures
and findings agree; intervals are mean +- t(n - 1) sem over n seeds.
"""

from collections.abc import Sequence
from textwrap import fill
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from dynamics.analysis.figure_style import (
    PAGE_WIDTH,
    check_known,
    line_legend,
    log_axis,
    log_places,
    new_figure,
    palette,
    styled,
)
from dynamics.analysis.report.decomposition_figures import decomposition_stacks
from dynamics.analysis.run_groups import group
from dynamics.analysis.seed_arms import SEEDS_NOTE
from dynamics.analysis.studies.claims import is_ratio
from dynamics.analysis.studies.effect_figures import interval_bar
from dynamics.analysis.studies.seed_means import Names, arm_labels, column_words, over_seeds, seed_values


@styled
def arms(
    table: pd.DataFrame,
    axis: Names,
    metrics: Sequence[str],
    baseline: str | None = None,
    order: Sequence[str] | Literal["table", "value"] = "table",
) -> Figure:
    """Draw every seed of each arm as a dot and the arm's mean with its interval, a panel a metric.

    Args:
        table: From `study`; rows of one seed that share an arm are averaged first.
        axis: The axis, or several, whose labels are the arms.
        metrics: Columns of the table.
        baseline: Arm whose mean is drawn as a line through all of them.
        order: As in the table, by the first metric, or these arms alone.

    Raises:
        ValueError: There is no such axis, metric or arm.
    """
    columns = {name: seed_values(table, axis, name) for name in metrics}
    names = list(dict.fromkeys(columns[metrics[0]].arm))
    if order == "value":
        names = list(over_seeds(columns[metrics[0]], ["arm"], is_ratio(metrics[0]))["mean"].sort_values().index)
    elif not isinstance(order, str):
        for name in order:
            check_known("order", name, names)
        names = list(order)
    if baseline is not None:
        check_known("baseline", baseline, names)
    figure = new_figure("Do the arms differ by more than their seeds?", PAGE_WIDTH, 1.5 + 0.25 * len(names))
    for ax, name in zip(figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0], metrics, strict=True):
        means = over_seeds(columns[name], ["arm"], is_ratio(name))
        seeds = columns[name].groupby(["arm", "seed"])["value"].mean()
        for place, arm in enumerate(names):
            colour = "0.35" if arm == baseline else "#0173b2"
            dots = seeds.loc[arm].to_numpy()
            ax.plot(dots, np.full(len(dots), place), "o", color=colour, alpha=0.35, markersize=3.5, linewidth=0)
            interval_bar(ax, means.loc[arm], place, colour, "D", flat=True)
        if baseline is not None:
            ax.axvline(means["mean"].loc[baseline], color="0.5", linestyle=":", linewidth=1.2)
        ax.set(xlabel=fill(column_words(name), 34), yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5))
        ax.set_yticklabels(names)
        if is_ratio(name):
            log_axis(ax, "x")
    line = f"; dotted: mean of {baseline}" if baseline is not None else ""
    several = columns[metrics[0]].groupby("arm")["seed"].nunique().max() > 1
    what = f"dot: one seed; bar: mean with {SEEDS_NOTE}" if several else "one seed an arm: no intervals"
    figure.legend(handles=[], loc="outside lower center", title=what + line)
    return figure


@styled
def frontier(table: pd.DataFrame, axis: Names, x: str, y: str, baseline: str | None = None) -> Figure:
    """Draw each arm's mean of two metrics with both intervals, numbered; filled where no arm is better in both.

    Args:
        table: From `study`.
        axis: The axis, or several, whose labels are the arms.
        x: Column of the table, the lower the better.
        y: Another one, the lower the better.
        baseline: Arm through whose means lines are drawn.

    Raises:
        ValueError: There is no such axis, metric or arm.
    """
    columns = {name: seed_values(table, axis, name) for name in (x, y)}
    names = list(dict.fromkeys(columns[x].arm))
    if baseline is not None:
        check_known("baseline", baseline, names)
    of_x, of_y = (over_seeds(columns[name], ["arm"], is_ratio(name)).loc[names] for name in (x, y))
    places = np.stack([of_x["mean"], of_y["mean"]], axis=1)
    beaten = [bool(((places <= place).all(1) & (places < place).any(1)).any()) for place in places]
    figure = new_figure("Which arms are beaten by no other in both?", PAGE_WIDTH, max(4.5, 1.5 + 0.19 * len(names)))
    ax, dots = figure.subplots(), []
    for number, (name, (right, up), worse) in enumerate(zip(names, places, beaten, strict=True), start=1):
        colour = "0.6" if worse else "#0173b2"
        interval_bar(ax, of_x.loc[name], up, colour, "none", flat=True)
        interval_bar(ax, of_y.loc[name], right, colour, "none")
        face = "white" if worse else colour
        dots += ax.plot(right, up, "o", color=colour, markerfacecolor=face, label=f"{number}  {name}", linewidth=0)
        ax.annotate(str(number), (right, up), xytext=(4, 4), textcoords="offset points", fontsize=8)
    if baseline is not None:
        ax.axvline(of_x["mean"][baseline], color="0.5", linestyle=":", linewidth=1.2)
        ax.axhline(of_y["mean"][baseline], color="0.5", linestyle=":", linewidth=1.2)
    ax.set(xlabel=column_words(x), ylabel=fill(column_words(y), 34))
    if is_ratio(x):
        log_axis(ax, "x")
    if is_ratio(y):
        log_axis(ax)
    line = f"; dotted: means of {baseline}" if baseline is not None else ""
    figure.legend(handles=dots, loc="outside right upper", fontsize=8)
    figure.legend(handles=[], loc="outside lower center", title=f"filled: not beaten; bars: {SEEDS_NOTE}{line}")
    return figure


@styled
def errors_by_length(
    table: pd.DataFrame,
    metrics: Sequence[str],
    along: str = "length",
    by: Names = "schedule",
    baseline: str = "vanilla",
    at: float = 1.0,
) -> Figure:
    """Draw each metric against the length of training, every point a training of its own, a line an arm.

    Args:
        table: From `study`.
        metrics: Columns of the table.
        along: The axis with the length of training.
        by: The axis, or several, whose labels are the arms.
        baseline: Arm whose value at the length `at` is to be reached, and is drawn as a line.
        at: That length.

    Raises:
        ValueError: There is no such axis, metric or arm, or the arm has no run of that length.
    """
    frames = {
        name: seed_values(table, by, name).assign(length=seed_values(table, along, name)["arm"]) for name in metrics
    }
    figure = new_figure("How long must each arm train for the same result?", PAGE_WIDTH, 4.0)
    names = list(dict.fromkeys(frames[metrics[0]].arm))
    check_known("baseline", baseline, names)
    colours = palette(names)
    for ax, (name, frame) in zip(figure.subplots(1, len(metrics), squeeze=False)[0], frames.items(), strict=True):
        means = over_seeds(frame.assign(length=frame["length"].astype(float)), ["arm", "length"], is_ratio(name))
        lengths = sorted({float(length) for _, length in means.index})
        check_known("at", at, [length for length in lengths if (baseline, length) in means.index])
        for i, arm in enumerate(names):
            line = means.loc[arm].sort_index()
            places = line.index.to_numpy(float) * 1.04 ** (i - (len(names) - 1) / 2)
            ax.plot(places, line["mean"], color=colours[arm])
            for place, (_, row) in zip(places, line.iterrows(), strict=True):
                interval_bar(ax, row, place, colours[arm], "o")
        ax.axhline(means["mean"].loc[(baseline, at)], color="0.4", linestyle=":", linewidth=1.2)
        ax.set(xlabel=f"{along} of training", title=fill(column_words(name), 34))
        log_places(ax, lengths)
        if is_ratio(name):
            log_axis(ax)
    line_legend(figure, colours, f"bar: {SEEDS_NOTE}; dotted: {baseline} at {along} {at:g}")
    return figure


@styled
def decomposition_by_arm(tree: xr.DataTree, by: Names, step: int | None = None) -> Figure:
    """Draw what the loss of v and the error of u consist of, a row an arm, means and standard errors over seeds.

    Args:
        tree: The collected file of an experiment.
        by: The axis, or several, whose labels are the arms.
        step: Optimiser step; the last one if None.

    Raises:
        ValueError: The file has no group decomposition, or there is no such axis or step.
    """
    ds = group(tree, "decomposition")
    labels = arm_labels(ds, by, None)
    names = [name for name in map(str, ds.data_vars) if name.startswith(("v_", "u_")) and not name.endswith("_sem")]
    parts = []
    for arm in dict.fromkeys(labels.arm):
        own = ds[names].sel(run=labels.index[labels.arm == arm].tolist()).drop_vars("run")
        sem = (own.std("run", ddof=1) / own.count("run") ** 0.5).rename({name: f"{name}_sem" for name in names})
        parts.append(xr.merge([own.mean("run"), sem]))
    merged = xr.concat(parts, xr.DataArray(list(dict.fromkeys(labels.arm)), dims="run", name="run"))
    return decomposition_stacks(xr.DataTree.from_dict({"/decomposition": merged}), step)
