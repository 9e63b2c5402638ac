"""Where in time and gap the losses of training lie."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dynamics.analysis.figure_style import PAGE_WIDTH, check_known, log_axis, new_figure, plain_grid, styled
from dynamics.analysis.report.losses_by_cell import loss_stages
from dynamics.analysis.run_groups import bin_edges

Grid = np.ndarray[Any, np.dtype[Any]]

CELL_QUANTITIES = {
    "raw": ("At which times and gaps is the raw loss large, and where does it fall?", "raw loss in squared pixels"),
    "weighted": ("Which times and gaps does the weighted loss favour?", "weighted loss of a row"),
    "target_norm": ("At which times and gaps is the target large?", "norm of the target in pixels"),
    "du_dt_norm": ("At which times and gaps is du/dt large?", "norm of du/dt in pixels"),
    "count": ("Which times and gaps does training draw?", "rows"),
}
"""What the map of each quantity answers, and its label."""
STAGES = 3
"""Early, middle and late."""
SEQUENTIAL, EMPTY = "cividis", "0.92"
FEW = 30
"""A mean over fewer rows is coloured, but no number says how large it is."""
SPACE = 0.3
"""Between the column of the r = t rows and the others, in cells."""


@styled
def loss_map(tree: xr.DataTree, quantity: str = "raw") -> Figure:
    """Draw means over all training rows by time and gap, for the early, the middle and the late third of training.

    Args:
        tree: One run or many.
        quantity: raw, weighted, target_norm, du_dt_norm, or count, the number of rows.

    Raises:
        ValueError: No run has the group cells, or an unknown quantity.
    """
    check_known("quantity", quantity, list(CELL_QUANTITIES))
    question, label = CELL_QUANTITIES[quantity]
    ds = loss_stages(tree, STAGES).transpose("run", "stage", "t_bin", "gap_bin")
    values = ds[quantity].where(ds["count"] > 0).values
    shown = np.isfinite(values) & ((ds["count"].values >= FEW) | (quantity == "count"))
    runs, scale = ds.sizes["run"], _scale(values)
    figure = new_figure(question, PAGE_WIDTH, 1.4 + 2.4 * runs)
    grid = figure.subplots(runs, ds.sizes["stage"], squeeze=False, sharex=True, sharey=True)
    for (run, stage), ax in np.ndenumerate(grid):
        first, last = (float(ds[name][run, stage]) for name in ("first_step", "last_step"))
        if np.isnan(first):  # a short run has fewer stages
            ax.remove()
            continue
        _map(ax, ds, values[run, stage], shown[run, stage], scale)
        ax.set_title(f"steps {first:.0f} to {last:.0f}")
        ax.set_xlabel("gap t - r")
        ax.set_ylabel(f"{ds.run.values[run]}\ntime t")
        ax.label_outer()
    bar = figure.colorbar(ScalarMappable(scale, SEQUENTIAL), ax=figure.axes, aspect=16 * runs, label=label)
    bar.outline.set_visible(False)
    log_axis(bar.ax)
    note = "v: rows with r = t" + ("" if quantity == "count" else f"; a cell without a number: fewer than {FEW} rows")
    figure.legend(handles=[Patch(color=EMPTY, label="nothing to average")], loc="outside lower center", title=note)
    return figure


def _scale(values: Grid) -> LogNorm:
    """Return logarithmic colours over at least a factor of 2, lest noise look like structure."""
    positive = values[values > 0]
    low, high = (positive.min(), positive.max()) if positive.size else (1.0, 1.0)
    centre, reach = np.sqrt(low * high), max(np.sqrt(high / low), np.sqrt(2))
    return LogNorm(centre / reach, centre * reach)


def _map(ax: Axes, ds: xr.Dataset, values: Grid, shown: Grid, scale: LogNorm) -> None:
    """Draw values [t bin, gap bin] as cells of equal size, numbers where `shown`; the r = t rows stand apart."""
    times, gaps = bin_edges(ds, "t_bin"), bin_edges(ds, "gap_bin")
    x, y = np.array([0, 1, *(np.arange(len(gaps)) + 1 + SPACE)]), np.arange(len(times) + 1)
    possible = np.array([[smallest < latest for smallest, _ in gaps] for _, latest in times])
    ax.pcolormesh(x, y, _apart(np.where(possible, 1.0, np.nan)), cmap=ListedColormap([EMPTY]))
    ax.pcolormesh(x, y, _apart(values), cmap=SEQUENTIAL, norm=scale, edgecolor="white", linewidth=0.6)
    for i, j in np.argwhere(shown):
        colour = "white" if scale(values[i, j]) < 0.45 else "black"
        centre = 0.5 + j + SPACE * (j > 0), 0.47 + i
        ax.text(*centre, _short(values[i, j]), fontsize=7.5, color=colour, ha="center", va="center")
    ax.set(xticks=[0.5, *x[2:]], yticks=y)
    ax.set_xticklabels(["v", *(f"{low:g}" for low, _ in gaps[1:]), f"{gaps[-1][1]:g}"])
    ax.set_yticklabels([*(f"{low:g}" for low, _ in times), f"{times[-1][1]:g}"])
    plain_grid(ax)
    ax.tick_params(length=2)


def _apart(table: Grid) -> Grid:
    """Put an empty column behind the first one."""
    return np.insert(table, 1, np.nan, axis=1)


def _short(value: float) -> str:
    """Return a number in at most four characters.

    Example:
        >>> [_short(x) for x in (0.9996, 8.04, 123.4, 1049.0)]
        ['1.0', '8.0', '123', '1.0k']
    """
    if value >= 999.5:
        return f"{value / 1000:.1f}k" if value < 9950 else f"{value / 1000:.0f}k"
    return f"{value:#.2g}".rstrip(".") if value < 99.5 else f"{value:.0f}"
