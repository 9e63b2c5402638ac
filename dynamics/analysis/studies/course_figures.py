"""What happens to the arms of an experiment while they train, and which cosines show it; means over seeds."""

from collections.abc import Mapping
from typing import Literal

import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynamics.analysis.figure_style import (
    Colour,
    band,
    check_known,
    line_legend,
    log_axis,
    palette,
    panel_figure,
    styled,
)
from dynamics.analysis.gradients.noise_figures import ESTIMATES, estimate_handles
from dynamics.analysis.report.summary_table import relative_error
from dynamics.analysis.run_groups import bin_edges, group
from dynamics.analysis.seed_arms import SEEDS_NOTE
from dynamics.analysis.studies.effect_figures import interval_bar
from dynamics.analysis.studies.seed_means import Names, Where, long_table, measured_at, over_seeds
from dynamics.analysis.studies.study_table import gap_cosines


@styled
def over_training(tree: xr.DataTree, quantity: Literal["v", "u"], by: Names, where: Where | None = None) -> Figure:
    """Draw the exact relative error of v by time or of u by gap over training, a panel a bin and a line an arm.

    Args:
        tree: The collected file of an experiment.
        quantity: v or u.
        by: The axis, or several, whose labels are the arms.
        where: Labels of the runs to draw; all if None.

    Raises:
        ValueError: The file has no group gaps, or no such quantity, axis or label.
    """
    check_known("quantity", quantity, ("v", "u"))
    ds = group(tree, "gaps")
    dim, text = {"v": ("t_bin", "time t"), "u": ("gap_bin", "gap t - r")}[quantity]
    edges = bin_edges(ds, dim)
    title = f"How fast does each arm learn {quantity}, by {text.split()[0]}?"
    figure, axes = panel_figure(title, len(edges))
    values = relative_error(ds, quantity).relative_error.assign_coords({dim: range(len(edges))})
    frame = long_table(values, ds, by, where)
    colours = palette(list(dict.fromkeys(frame.arm)))
    for i, (ax, (low, high)) in enumerate(zip(axes, edges, strict=True)):
        _courses(ax, frame[frame[dim] == i], True, colours)
        ax.axhline(1.0, color="0.5", linestyle=":", linewidth=1)
        ax.set(title=f"{text} in [{low:g}, {high:g}]")
        log_axis(ax)
    figure.supylabel("squared error / exact squared norm", fontsize=9.5)
    line_legend(figure, colours, f"line: mean; band: {SEEDS_NOTE}; dotted: answering 0")
    return figure


@styled
def cosines_over_training(
    tree: xr.DataTree,
    by: Names,
    where: Where | None = None,
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
    frame = long_table(pairs.unbiased, group(tree, source), by, where)
    gaps = [str(gap) for gap in pairs.bin.values]
    colours = palette(list(dict.fromkeys(frame.arm)))
    two = "v and u" if source == "gram" else "flow matching and consistency"
    title = f"Do {two} pull the weights the same way while training goes on?"
    figure, axes = panel_figure(title, len(gaps))
    for ax, gap in zip(axes, gaps, strict=True):
        ax.axhline(line, color="0.5", linestyle=":", linewidth=1)
        _courses(ax, frame[frame["bin"] == gap], False, colours)
        ax.set(title=f"gap t - r in [{gap.replace('-', ', ')}]")
    figure.supylabel("cosine of the true gradients", fontsize=9.5)
    line_legend(figure, colours, f"line: mean; band: {SEEDS_NOTE}; seeds without signal are left out; dotted: {line:g}")
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
    names, gaps = list(dict.fromkeys(frames["unbiased"].arm)), [str(gap) for gap in pairs.bin.values]
    title = "Does the cosine of minibatch gradients show that of the tasks?"
    figure, axes = panel_figure(title, len(names), 1.5, 2.2)
    colours = palette(list(ESTIMATES))
    for ax, arm in zip(axes, names, strict=True):
        ax.axhline(0, color="0.5", linestyle=":", linewidth=1)
        for shift, (estimate, frame) in zip((-0.2, 0.0, 0.2), frames.items(), strict=True):
            means = over_seeds(frame[frame.arm == arm], ["bin"], False).reindex(gaps)
            for place, (_, row) in enumerate(means.iterrows()):
                interval_bar(ax, row, place + shift, colours[estimate], ESTIMATES[estimate][1])
        ax.set(title=arm, xticks=range(len(gaps)), xlim=(-0.6, len(gaps) - 0.4))
        ax.set_xlabel("gap t - r" if ax.get_xlabel() else "")
        ax.set_xticklabels(gaps)
    figure.supylabel(f"cosine at the {step} measurement", fontsize=9.5)
    rows = f"{ds.attrs['rows_per_split']} rows a batch" if "rows_per_split" in ds.attrs else "batches"
    shared = ", which both tasks share" if ds.attrs.get("rows") == "shared" else ""
    note = f"bar: {SEEDS_NOTE}; {rows}{shared}"
    figure.legend(handles=estimate_handles(lines=False), loc="outside lower center", ncols=3, title=note)
    return figure


def _courses(ax: Axes, frame: pd.DataFrame, logs: bool, colours: Mapping[str, Colour]) -> None:
    """Draw each arm's mean over the steps where it was measured, and its band."""
    means = over_seeds(frame, ["arm", "step"], logs)
    for arm in dict.fromkeys(frame["arm"]):
        line = means.loc[arm].sort_index()
        band(ax, line.index, line["mean"], line["low"], line["high"], colours[arm])
