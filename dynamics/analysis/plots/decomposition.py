"""Where losses and errors come from, and what a step on one task does to the others."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from dynamics.analysis.plots.figures import WIDTH, by_run, new_figure, styled
from dynamics.analysis.runs import bin_edges, group

MAP = "RdBu"


@styled
def decomposition_stacks(tree: xr.DataTree, step: int | None = None) -> Figure:
    """Draw the loss of v by time and the error of u by gap as stacks of what they consist of, a row a run.

    Left: the loss of v is the variance of its target, which nothing can learn, plus an excess. Right: u is wrong where
    it contradicts the network's own v, and inherits what that v has wrong; the two can partly cancel, so the measured
    error is marked as well.

    Args:
        tree: One run or many with the group decomposition.
        step: Optimiser step; each run's last one if None.

    Raises:
        ValueError: No run has the group, or not at that step.
    """
    ds = group(tree, "decomposition")
    chosen = by_run(ds, step, None, "v_loss")
    figure = new_figure("What do the loss of v and the error of u consist of?", WIDTH, 0.9 + 2.7 * len(chosen))
    grid = figure.subplots(len(chosen), 2, squeeze=False)
    blue, orange, green = sns.color_palette("colorblind", 3)
    for axes, (label, values) in zip(grid, chosen.items(), strict=True):
        parts = [("v_irreducible", "variance of the target", "0.78"), ("v_excess", "excess", blue)]
        _stack(axes[0], values, parts, "v_loss", _names(ds, "t_bin"))
        axes[0].set(xlabel="time t", ylabel="squared pixels", title=f"loss of v   {label}")
        parts = [("u_inconsistency", "contradicts its own v", orange), ("u_inherited", "inherited from v", green)]
        _stack(axes[1], values, parts, "u_error", _names(ds, "gap_bin"))
        axes[1].set(xlabel="gap t - r", ylabel="squared pixels", title=f"error of u   {label}")
    total = mpl.lines.Line2D([], [], color="0.1", marker="D", linestyle="", label="measured, with standard error")
    handles = [
        *[Patch(color=c, label=text) for c, text in (("0.78", "variance of the target"), (blue, "excess"))],
        *[Patch(color=c, label=text) for c, text in ((orange, "contradicts its own v"), (green, "inherited from v"))],
        total,
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


@styled
def lookahead_heatmap(found: xr.Dataset, step: int | None = None, run: str | None = None) -> Figure:
    """Draw by how many percent a step on one task lowers each task's loss, a panel a run.

    Args:
        found: From `analysis.lookahead`.
        step: Optimiser step; each run's last one if None.
        run: One run; all if None.

    Raises:
        ValueError: There is no such step or run.
    """
    chosen = by_run(found, step, run, "lookahead")
    tasks = [str(task) for task in found.task.values]
    size = max(3.0, 0.85 * len(tasks))
    title = "Does a step on one task lower the other tasks' losses?"
    figure = new_figure(title, max(6.0, len(chosen) * (size + 0.9) + 0.9), size + 1.3)
    grid = figure.subplots(1, len(chosen), squeeze=False)[0]
    values = np.concatenate([100 * one.lookahead.values.ravel() for one in chosen.values()])
    limit = float(np.nanmax(np.abs(values))) or 1.0
    scale = Normalize(-limit, limit)
    for ax, (label, one) in zip(grid, chosen.items(), strict=True):
        _percents(ax, one.transpose("task", "task2"), scale)
        ax.set(xticks=range(len(tasks)), yticks=range(len(tasks)), title=label)
        ax.set_xticklabels(tasks, rotation=30, ha="right")
        ax.set_yticklabels(tasks)
        ax.set(xlabel="loss of", ylabel="step on")
    bar = figure.colorbar(ScalarMappable(scale, MAP), ax=list(grid), shrink=0.8, aspect=30)
    bar.set_label("fall of the loss by one step, %")
    bar.outline.set_visible(False)
    handles = [
        Patch(facecolor="white", edgecolor="0.45", hatch="///", linewidth=0, label="interval includes 0"),
        Patch(facecolor="white", edgecolor="0.1", linewidth=1.5, label="biased: the step has seen these rows"),
    ]
    shown = handles if any(bool((one.biased > 0).any()) for one in chosen.values()) else handles[:1]
    figure.legend(handles=shown, loc="outside lower center", ncols=2)
    return figure


def _percents(ax: Axes, one: xr.Dataset, scale: Normalize) -> None:
    colours = mpl.colormaps[MAP]
    for i, j in np.ndindex(one.lookahead.shape):
        z, low, high = (100 * float(one[name][i, j]) for name in ("lookahead", "low", "high"))
        face = colours(scale(z)) if np.isfinite(z) else "0.93"
        ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=face, edgecolor="white", linewidth=1.5))
        if not bool(one.significant[i, j]):
            hatched = Rectangle((j - 0.49, i - 0.49), 0.98, 0.98, fill=False, hatch="///", linewidth=0)
            hatched.set_edgecolor((0, 0, 0, 0.2))
            ax.add_patch(hatched)
        if float(one.biased[i, j]) > 0:
            ax.add_patch(Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, edgecolor="0.1", linewidth=1.5))
        colour = "white" if abs(scale(z) - 0.5) > 0.31 else "0.1"
        centred: dict[str, Any] = {"ha": "center", "va": "center", "color": colour}
        ax.text(j, i - 0.12, f"{z:.2g}", fontsize=10.5, fontweight="bold", **centred)
        ax.text(j, i + 0.22, f"{low:.2g} … {high:.2g}", fontsize=6.5, **centred)
    ax.set(xlim=(-0.5, one.sizes["task2"] - 0.5), ylim=(one.sizes["task"] - 0.5, -0.5))
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _stack(
    ax: Axes,
    values: xr.Dataset,
    parts: Sequence[tuple[str, str, str | tuple[float, float, float]]],
    total: str,
    names: list[str],
) -> None:
    places, below = np.arange(len(names)), np.zeros(len(names))
    for name, _, colour in parts:
        heights = values[name].values
        ax.bar(places, heights, bottom=below, color=colour, width=0.72)
        below = below + heights
    ax.errorbar(places, values[total], values[f"{total}_sem"], fmt="D", color="0.1", markersize=3.5, capsize=2.5)
    ax.set_xticks(places, names)
    ax.grid(visible=False, axis="x")
    ax.set_ylim(bottom=0)


def _names(ds: xr.Dataset, dim: str) -> list[str]:
    return [f"{low:g}–{high:g}" for low, high in bin_edges(ds, dim)]
