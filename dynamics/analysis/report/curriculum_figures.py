"""What the curricula did."""

from collections.abc import Mapping
from textwrap import fill

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from dynamics.analysis.figure_style import COLUMNS, PAGE_WIDTH, arm_colours, line_legend, new_figure, styled
from dynamics.analysis.report.training_figures import draw_arm, recorded, seeds_note, smooth
from dynamics.analysis.run_groups import group
from dynamics.analysis.seed_arms import arms_of
from dynamics.estimators import Floats

RECORDED = {
    *("loss", "raw_v", "raw_u", "weighted_v", "weighted_u", "total_v_weight", "total_u_weight"),
    *("du_dt_norm", "grad_norm", "step_seconds"),
}
"""Series of every run; any other is a curriculum's own."""
TIME_BINS = 40
"""Columns of a heat map of gaps."""


@styled
def schedule(tree: xr.DataTree) -> Figure:
    """Draw what the curricula did: the share of weight that u gets, their own series, and the gaps that were drawn.

    The heat maps show, for each stretch of training, the share of r < t rows by gap; of each arm the first run.

    Raises:
        ValueError: No run has the group training.
    """
    ds = group(tree, "training")
    share = ds.total_u_weight / (ds.total_u_weight + ds.total_v_weight)
    smoothed = share.transpose("step", "run").to_pandas().apply(smooth)  # a curriculum's own series are exact
    series = {"share of the weight on u": xr.DataArray(smoothed)}
    for name in sorted(str(n) for n in ds.data_vars if ds[n].dims == ("run", "step") and n not in RECORDED):
        series[_wrapped(str(ds[name].attrs.get("long_name", name)), name)] = ds[name]
    first = {arm: ds.sel(run=runs[0]) for arm, runs in arms_of(tree).items() if runs[0] in ds.run.values}
    lines, maps = -(-len(series) // COLUMNS), -(-len(first) // COLUMNS)
    heights = [2.4 * lines + 0.5, 2.4 * maps]
    figure = new_figure("What did the curricula do?", PAGE_WIDTH, sum(heights) + 0.4)
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    grid = top.subplots(lines, COLUMNS if lines > 1 else len(series), sharex=True, squeeze=False).ravel()
    for ax, (title, values) in zip(grid, series.items(), strict=False):
        _series(ax, title, values, tree)
    for spare in grid[len(series) :]:
        spare.remove()
    _heat_maps(bottom, first, maps)
    line_legend(top, arm_colours(tree), seeds_note(tree))
    return figure


def _wrapped(text: str, name: str) -> str:
    return text if text == name else f"{text}\n({name})"


def _series(ax: Axes, title: str, values: xr.DataArray, tree: xr.DataTree) -> None:
    for arm, colour in arm_colours(tree).items():
        draw_arm(ax, recorded(values, arms_of(tree)[arm]), colour, logs=False)
    ax.set(title=title, xlabel="optimiser step", ylim=(min(0.0, float(values.min())), None))


def _heat_maps(bottom: SubFigure, first: Mapping[str, xr.Dataset], rows: int) -> None:
    runs = len(first)
    grid = bottom.subplots(rows, min(COLUMNS, runs), squeeze=False, sharey=True)
    shares = [gap_share(ds.gap_count) for ds in first.values()]
    bins = next(iter(first.values())).gap_bin.values
    top = max((float(np.nanmax(s)) for _, s in shares if np.isfinite(s).any()), default=1.0)
    edges = np.append(bins - 0.5 / len(bins), bins[-1] + 0.5 / len(bins))
    for ax, label, (steps, share) in zip(grid.flat, first, shares, strict=False):
        mesh = ax.pcolormesh(steps, edges, share, cmap="cividis", vmin=0, vmax=top, rasterized=True)
        ax.grid(False)
        ax.set(title=fill(label, 34), xlabel="optimiser step")
    for ax in grid[:, 0]:
        ax.set_ylabel("gap t - r")
    for spare in list(grid.flat)[runs:]:
        spare.remove()
    bottom.colorbar(mesh, ax=list(grid.flat)[:runs], label="share of r < t rows")


def gap_share(counts: xr.DataArray) -> tuple[Floats, Floats]:
    """Return the edges of stretches of training, in steps, and the share of r < t rows by gap in each.

    Args:
        counts: Rows by [step, gap_bin]; steps that a run does not have are NaN.

    Returns:
        Edges [stretches + 1] and shares [gap_bin, stretches]; NaN where no row has r < t.
    """
    kept = counts.transpose("step", "gap_bin").dropna("step")
    parts = np.array_split(kept.values.astype(float), min(TIME_BINS, len(kept)))
    total = np.array([part.sum(0) for part in parts]).T
    starts = np.cumsum([0, *(len(part) for part in parts)])[:-1]
    edges = np.append(kept.step.values[starts], kept.step.values[-1] + 1)
    with np.errstate(invalid="ignore"):
        share = total / total.sum(0)
    return edges.astype(float) - 0.5, share
