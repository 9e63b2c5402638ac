"""What the runs of an experiment show over its seeds: effects of claims, arms side by side, courses of training.

The unit is the seed. Means are those of logs wherever `judge` takes logs (errors, Frechet distances), so that figures
and findings agree; intervals are mean +- t(n - 1) sem over n seeds.
"""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Literal

import numpy as np
import pandas as pd
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from dynamics.analysis.claims import is_ratio
from dynamics.analysis.plots.claims import bar
from dynamics.analysis.plots.decomposition import decomposition_stacks
from dynamics.analysis.plots.figures import COLUMNS, WIDTH, Colour, known, log_axis, new_figure, panels, styled
from dynamics.analysis.plots.seeds import (
    ESTIMATES,
    NOTE,
    Names,
    arm_labels,
    gap_cosines,
    long_table,
    measured_at,
    over_seeds,
    seed_values,
    words,
)
from dynamics.analysis.runs import bin_edges, group
from dynamics.analysis.summary import relative_error


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
            known("order", name, names)
        names = list(order)
    if baseline is not None:
        known("baseline", baseline, names)
    figure = new_figure("Do the arms differ by more than their seeds?", WIDTH, 1.5 + 0.25 * len(names))
    for ax, name in zip(figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0], metrics, strict=True):
        means = over_seeds(columns[name], ["arm"], is_ratio(name))
        seeds = columns[name].groupby(["arm", "seed"])["value"].mean()
        for place, arm in enumerate(names):
            colour = "0.35" if arm == baseline else "#0173b2"
            dots = seeds.loc[arm].to_numpy()
            ax.plot(dots, np.full(len(dots), place), "o", color=colour, alpha=0.35, markersize=3.5, linewidth=0)
            bar(ax, means.loc[arm], place, colour, "D", flat=True)
        if baseline is not None:
            ax.axvline(means["mean"].loc[baseline], color="0.5", linestyle=":", linewidth=1.2)
        ax.set(xlabel=fill(words(name), 34), yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5))
        ax.set_yticklabels(names)
        if is_ratio(name):
            _log_x(ax)
    line = f"; dotted: mean of {baseline}" if baseline is not None else ""
    figure.legend(handles=[], loc="outside lower center", title=f"dot: one seed; bar: mean with {NOTE}{line}")
    return figure


@styled
def over_training(
    tree: xr.DataTree, quantity: Literal["v", "u"], by: Names, where: Mapping[str, str] | None = None
) -> Figure:
    """Draw the exact relative error of v by time or of u by gap over training, a panel a bin and a line an arm.

    Args:
        tree: The collected file of an experiment.
        quantity: v or u.
        by: The axis, or several, whose labels are the arms.
        where: Labels of the runs to draw; all if None.

    Raises:
        ValueError: The file has no group gaps, or no such quantity, axis or label.
    """
    known("quantity", quantity, ("v", "u"))
    ds = group(tree, "gaps")
    dim, text = {"v": ("t_bin", "time t"), "u": ("gap_bin", "gap t - r")}[quantity]
    edges = bin_edges(ds, dim)
    title = f"How fast does each arm learn {quantity}, by {text.split()[0]}?"
    figure = new_figure(title, WIDTH, 1.3 + 2.1 * -(-len(edges) // COLUMNS))
    values = relative_error(ds, quantity).relative_error.assign_coords({dim: range(len(edges))})
    frame = long_table(values, ds, by, where)
    palette = _palette(list(dict.fromkeys(frame.arm)))
    for i, (ax, (low, high)) in enumerate(zip(panels(figure, len(edges)), edges, strict=True)):
        _courses(ax, frame[frame[dim] == i], True, palette)
        ax.axhline(1.0, color="0.5", linestyle=":", linewidth=1)
        ax.set(title=f"{text} in [{low:g}, {high:g}]")
        log_axis(ax)
    figure.supylabel("squared error / exact squared norm", fontsize=9.5)
    _arms_legend(figure, palette, f"line: mean; band: {NOTE}; dotted: answering 0")
    return figure


@styled
def cosines_over_training(
    tree: xr.DataTree,
    by: Names,
    where: Mapping[str, str] | None = None,
    source: str = "gram",
    line: float = 0.0,
) -> Figure:
    """Draw an unbiased cosine over training, a panel a bin of gaps and a line an arm.

    Args:
        tree: The collected file of an experiment.
        by: The axis, or several, whose labels are the arms.
        where: Labels of the runs to draw; all if None.
        source: Group: gram for the gradients of v and of u, decomposition for the two forces in u's gradient.
        line: Cosine at which a dotted line is drawn.

    Raises:
        ValueError: There is no such group, axis or label.
    """
    pairs = gap_cosines(tree, source)
    frame = long_table(pairs.cosine, group(tree, source), by, where)
    gaps = [str(gap) for gap in pairs.bin.values]
    columns = 2 if len(gaps) == 4 else COLUMNS
    palette = _palette(list(dict.fromkeys(frame.arm)))
    two = "v and u" if source == "gram" else "flow matching and consistency"
    title = f"Do {two} pull the weights the same way while training goes on?"
    figure = new_figure(title, WIDTH, 1.3 + 2.1 * -(-len(gaps) // columns))
    for ax, gap in zip(panels(figure, len(gaps), columns), gaps, strict=True):
        ax.axhline(line, color="0.5", linestyle=":", linewidth=1)
        _courses(ax, frame[frame["bin"] == gap], False, palette)
        ax.set(title=f"gap t - r in [{gap.replace('-', ', ')}]")
    figure.supylabel("cosine of the true gradients", fontsize=9.5)
    _arms_legend(figure, palette, f"line: mean; band: {NOTE}; seeds without signal are left out; dotted: {line:g}")
    return figure


@styled
def naive_against_unbiased(
    tree: xr.DataTree, by: Names, step: Literal["first", "last"] = "first", source: str = "gram"
) -> Figure:
    """Draw the naive cosines of two tasks beside the unbiased one, a panel an arm.

    Args:
        tree: The collected file of an experiment.
        by: The axis, or several, whose labels are the arms.
        step: Which measurement of each run.
        source: Group: gram or decomposition.

    Raises:
        ValueError: There is no such group, axis or step.
    """
    pairs, ds = gap_cosines(tree, source), group(tree, source)
    frames = {name: measured_at(long_table(pairs[name], ds, by, None), step) for name in ESTIMATES}
    names, gaps = list(dict.fromkeys(frames["cosine"].arm)), [str(gap) for gap in pairs.bin.values]
    columns = 2 if len(names) in (2, 4) else COLUMNS
    title = "Does the cosine of minibatch gradients show that of the tasks?"
    figure = new_figure(title, WIDTH, 1.5 + 2.2 * -(-len(names) // columns))
    palette = dict(zip(ESTIMATES, sns.color_palette("colorblind", len(ESTIMATES)), strict=True))
    for ax, arm in zip(panels(figure, len(names), columns), names, strict=True):
        ax.axhline(0, color="0.5", linestyle=":", linewidth=1)
        for shift, (estimate, frame) in zip((-0.2, 0.0, 0.2), frames.items(), strict=True):
            means = over_seeds(frame[frame.arm == arm], ["bin"], False).reindex(gaps)
            for place, (_, row) in enumerate(means.iterrows()):
                bar(ax, row, place + shift, palette[estimate], ESTIMATES[estimate][1])
        ax.set(title=arm, xticks=range(len(gaps)), xlim=(-0.6, len(gaps) - 0.4))
        ax.set_xlabel("gap t - r" if ax.get_xlabel() else "")
        ax.set_xticklabels(gaps)
    figure.supylabel(f"cosine at the {step} measurement", fontsize=9.5)
    handles = [
        Line2D([], [], color=palette[name], marker=marker, linestyle="", label=text)
        for name, (text, marker) in ESTIMATES.items()
    ]
    rows = f"{ds.attrs['rows_per_split']} rows a split" if "rows_per_split" in ds.attrs else "splits"
    shared = ", which both tasks share" if ds.attrs.get("rows") == "shared" else ""
    figure.legend(handles=handles, loc="outside lower center", ncols=3, title=f"bar: {NOTE}; {rows}{shared}")
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
    figure = new_figure("How long must each arm train for the same result?", WIDTH, 4.0)
    names = list(dict.fromkeys(frames[metrics[0]].arm))
    known("baseline", baseline, names)
    palette = _palette(names)
    for ax, (name, frame) in zip(figure.subplots(1, len(metrics), squeeze=False)[0], frames.items(), strict=True):
        means = over_seeds(frame.assign(length=frame["length"].astype(float)), ["arm", "length"], is_ratio(name))
        lengths = sorted({float(length) for _, length in means.index})
        known("at", at, [length for length in lengths if (baseline, length) in means.index])
        for i, arm in enumerate(names):
            line = means.loc[arm].sort_index()
            places = line.index.to_numpy(float) * 1.04 ** (i - (len(names) - 1) / 2)
            ax.plot(places, line["mean"], color=palette[arm])
            for place, (_, row) in zip(places, line.iterrows(), strict=True):
                bar(ax, row, place, palette[arm], "o")
        ax.axhline(means["mean"].loc[(baseline, at)], color="0.4", linestyle=":", linewidth=1.2)
        ax.set(xscale="log", xlabel=f"{along} of training", title=fill(words(name), 34))
        ax.xaxis.set_major_locator(FixedLocator(lengths))
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
        if is_ratio(name):
            log_axis(ax)
    _arms_legend(figure, palette, f"bar: {NOTE}; dotted: {baseline} at {along} {at:g}")
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


def _courses(ax: Axes, frame: pd.DataFrame, logs: bool, palette: Mapping[str, Colour]) -> None:
    """Draw each arm's mean over the steps where it was measured, and its band."""
    means = over_seeds(frame, ["arm", "step"], logs)
    for arm in dict.fromkeys(frame["arm"]):
        line = means.loc[arm].sort_index()
        ax.plot(line.index, line["mean"], color=palette[arm], marker="o" if len(line) < 12 else None, markersize=3.5)
        ax.fill_between(line.index, line["low"], line["high"], color=palette[arm], alpha=0.15, linewidth=0)


def _log_x(ax: Axes) -> None:
    """Make the x axis logarithmic, with few plain numbers on it."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    numbers = (1.0, 2.0, 5.0) if high < 12 * low else (1.0, 3.0) if high < 99 * low else (1.0,)
    ax.xaxis.set_major_locator(MaxNLocator(4) if high < 5 * low else LogLocator(subs=numbers))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_locator(NullLocator())


def _palette(names: Sequence[str]) -> dict[str, Colour]:
    return dict(zip(names, sns.color_palette("colorblind" if len(names) <= 10 else "husl", len(names)), strict=True))


def _arms_legend(figure: Figure, palette: Mapping[str, Colour], note: str) -> None:
    handles = [Line2D([], [], color=colour, linewidth=2.5, label=arm) for arm, colour in palette.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4), title=note)
