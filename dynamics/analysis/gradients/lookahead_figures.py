"""What a step on one task does to the losses of the others."""

from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from dynamics.analysis.figure_style import HATCHED, WIDEST, at_step, new_figure, plain_grid, styled, table_cell
from dynamics.analysis.gradients.affinity_figures import DIVERGING, NO_SIGNAL

SEEN = Patch(facecolor="white", edgecolor="0.1", linewidth=1.5, label="biased: the step has seen these rows")


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
    chosen = at_step(found, step, run, "lookahead")
    tasks = [str(task) for task in found.task.values]
    size = max(3.0, 0.85 * len(tasks))
    title = "Does a step on one task lower the other tasks' losses?"
    columns = max(1, min(len(chosen), int((WIDEST - 0.9) // (size + 0.9))))
    rows = -(-len(chosen) // columns)
    figure = new_figure(title, min(WIDEST, max(6.0, columns * (size + 0.9) + 0.9)), rows * (size + 0.4) + 0.9)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in grid[len(chosen) :]:
        spare.remove()
    grid = grid[: len(chosen)]
    values = np.concatenate([100 * one.lookahead.values.ravel() for one in chosen.values()])
    limit = float(np.nanmax(np.abs(values))) or 1.0
    scale = Normalize(-limit, limit)
    for ax, (label, one) in zip(grid, chosen.items(), strict=True):
        _percents(ax, one.transpose("task", "task2"), scale)
        ax.set(xticks=range(len(tasks)), yticks=range(len(tasks)), title=label)
        ax.set_xticklabels(tasks, rotation=30, ha="right")
        ax.set_yticklabels(tasks)
        ax.set(xlabel="loss of", ylabel="step on")
    bar = figure.colorbar(ScalarMappable(scale, DIVERGING), ax=list(grid), shrink=0.8, aspect=30)
    bar.set_label("fall of the loss by one step, %")
    bar.outline.set_visible(False)
    shown = [HATCHED, SEEN] if any(bool((one.biased > 0).any()) for one in chosen.values()) else [HATCHED]
    figure.legend(handles=shown, loc="outside lower center", ncols=2)
    return figure


def _percents(ax: Axes, one: xr.Dataset, scale: Normalize) -> None:
    colours = mpl.colormaps[DIVERGING]
    for i, j in np.ndindex(one.lookahead.shape):
        z, low, high = (100 * float(one[name][i, j]) for name in ("lookahead", "low", "high"))
        face = colours(scale(z)) if np.isfinite(z) else NO_SIGNAL
        table_cell(ax, j, i, face, not bool(one.significant[i, j]))
        if float(one.biased[i, j]) > 0:
            ax.add_patch(Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, edgecolor="0.1", linewidth=1.5))
        colour = "white" if abs(scale(z) - 0.5) > 0.31 else "0.1"
        centred: dict[str, Any] = {"ha": "center", "va": "center", "color": colour}
        ax.text(j, i - 0.12, f"{z:.2g}", fontsize=10.5, fontweight="bold", **centred)
        ax.text(j, i + 0.22, f"{low:.2g} … {high:.2g}", fontsize=6.5, **centred)
    ax.set(xlim=(-0.5, one.sizes["task2"] - 0.5), ylim=(one.sizes["task"] - 0.5, -0.5))
    plain_grid(ax)
