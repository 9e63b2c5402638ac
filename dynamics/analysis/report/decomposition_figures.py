"""Where losses and errors come from."""

from collections.abc import Sequence

import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dynamics.analysis.figure_style import PAGE_WIDTH, Colour, at_step, new_figure, styled
from dynamics.analysis.run_groups import bin_edges, group


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
    chosen = at_step(ds, step, None, "v_loss")
    figure = new_figure("What do the loss of v and the error of u consist of?", PAGE_WIDTH, 0.9 + 2.7 * len(chosen))
    grid = figure.subplots(len(chosen), 2, squeeze=False)
    blue, orange, green = sns.color_palette("colorblind", 3)
    of_v = [("v_irreducible", "variance of the target", "0.78"), ("v_excess", "excess", blue)]
    of_u = [("u_inconsistency", "contradicts its own v", orange), ("u_inherited", "inherited from v", green)]
    for (left, right), (label, values) in zip(grid, chosen.items(), strict=True):
        _stack(left, values, of_v, "v_loss", _names(ds, "t_bin"))
        left.set(xlabel="time t", ylabel="squared pixels", title=f"loss of v   {label}")
        _stack(right, values, of_u, "u_error", _names(ds, "gap_bin"))
        right.set(xlabel="gap t - r", ylabel="squared pixels", title=f"error of u   {label}")
    total = Line2D([], [], color="0.1", marker="D", linestyle="", label="measured, with standard error")
    handles = [*(Patch(color=colour, label=part) for _, part, colour in of_v + of_u), total]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _stack(
    ax: Axes, values: xr.Dataset, parts: Sequence[tuple[str, str, Colour]], total: str, names: list[str]
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
