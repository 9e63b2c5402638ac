"""Do tasks pull the weights the same way? Cosines of their gradients, as a table and over training."""

from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from dynamics.analysis.figure_style import (
    HATCHED,
    Colour,
    at_step,
    band,
    check_known,
    line_legend,
    new_figure,
    palette,
    panel_figure,
    plain_grid,
    split_by_run,
    styled,
    table_cell,
)
from dynamics.options import invalid

DIVERGING, COSINE_RANGE = "RdBu", Normalize(-1, 1)
"""Blue helps, red hurts; colour-blind safe. A cosine beyond 1, which noise can give, has the last colour."""
NO_SIGNAL = "0.93"
"""Grey of a cell without a number."""


@styled
def affinity_heatmap(aff: xr.Dataset, step: int | None = None, group: str = "model", run: str | None = None) -> Figure:
    """Draw the cosine of every two tasks with its interval, a panel a run.

    Args:
        aff: From `affinity` or `affinity_of_rows`.
        step: Optimiser step; each run's last one if None.
        group: Part of the model.
        run: One run; all if None.

    Raises:
        ValueError: There is no such step, group or run, or only one task.
    """
    if aff.sizes["task"] < 2:
        raise invalid("tasks", aff.task.values.tolist(), "two tasks or more", "compute the affinity of more tasks")
    chosen = at_step(group_part(aff, group), step, run, "product")
    cells, columns = aff.sizes["task"] - 1, min(2, len(chosen))
    rows, size = -(-len(chosen) // columns), max(2.4, 0.82 * cells)
    figure = new_figure("Do the tasks pull the weights the same way?", max(5.2, columns * (size * 1.12 + 0.8) + 0.8), 1)
    figure.set_figheight(rows * (size * 0.82 + 0.75) + 1.1)
    grid = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for ax, (title, values) in zip(grid, chosen.items(), strict=False):
        _cells(ax, values)
        ax.set_title(title)
    for spare in grid[len(chosen) :]:
        spare.remove()
    bar = figure.colorbar(ScalarMappable(COSINE_RANGE, DIVERGING), ax=grid[: len(chosen)], shrink=0.8, aspect=30)
    bar.set_label("cosine of the true gradients")
    bar.outline.set_visible(False)
    note = f"below each cosine: its {level_note(aff)}; group {group}"
    figure.legend(handles=[HATCHED], loc="outside lower center", title=note)
    return figure


@styled
def affinity_over_training(aff: xr.Dataset, task: str = "v", group: str = "model") -> Figure:
    """Draw the cosine of one task with each other one over training, a panel a task, with intervals.

    Args:
        aff: From `affinity`, `affinity_of_rows` or `update_cosine`, with the dimension step.
        task: The one task; of no account for `update_cosine`.
        group: Part of the model.

    Raises:
        ValueError: There are no steps, or no such task or group.
    """
    if "step" not in aff.dims:
        raise invalid("aff", list(map(str, aff.dims)), "the dimension step", "pass the affinity of a training run")
    values, of, others = group_part(aff, group), "the update", [str(name) for name in aff.task.values]
    if "task2" in aff.dims:
        check_known("task", task, others)
        values, of, others = values.sel(task2=task), task, [name for name in others if name != task]
    title = f"Does {of} pull the same way as each task while training goes on?"
    figure, axes = panel_figure(title, len(others))
    colours = palette(list(split_by_run(values)))
    for ax, other in zip(axes, others, strict=True):
        ax.axhline(0, color="0.5", linestyle=":", linewidth=1)
        for label, one in split_by_run(values.sel(task=other)).items():
            _course(ax, one, colours[label])
        ax.set(title=f"{of} and {other}")
    ends = np.concatenate([values.sel(task=others)[name].values.ravel() for name in ("cosine_low", "cosine_high")])
    # next to no signal intervals are huge, and would hide all others
    low, high = np.nanmin(ends, initial=-0.05), np.nanmax(ends, initial=0.05)
    ax.set_ylim(max(low - 0.05, -1.25), min(high + 0.05, 1.25))
    figure.supylabel("cosine of the true gradients", fontsize=9.5)
    line_legend(figure, colours, f"band: {level_note(aff)}; where the line breaks: no signal; group {group}")
    return figure


def group_part(ds: xr.Dataset, group: str) -> xr.Dataset:
    """Return one part of the model, "model" for all of it."""
    check_known("group", group, [str(name) for name in ds.group.values])
    return ds.sel(group=group)


def level_note(ds: xr.Dataset) -> str:
    """Say which intervals a dataset holds."""
    return f"{ds.attrs['level']:.0%} interval" if "level" in ds.attrs else "interval"


def _cells(ax: Axes, values: xr.Dataset) -> None:
    """Draw the pairs of different tasks once each: rows are tasks from the second on, columns those before."""
    tasks = [str(name) for name in values.task.values]
    names = ("cosine", "cosine_low", "cosine_high", "product")
    *fields, product = (values[name].transpose("task", "task2").values for name in names)
    significant = values.significant.transpose("task", "task2").values.astype(bool)
    colours = mpl.colormaps[DIVERGING]
    for i in range(1, len(tasks)):
        for j in range(i):
            cosine, low, high = (field[i, j] for field in fields)
            finite = np.isfinite(cosine)
            face: Any = colours(COSINE_RANGE(np.clip(cosine, -1, 1))) if finite else NO_SIGNAL
            table_cell(ax, j, i - 1, face, finite and not significant[i, j])
            if not finite:
                why = "no\nsignal" if np.isfinite(product[i, j]) else "not\nmeasured"
                ax.text(j, i - 1, why, ha="center", va="center", color="0.4", fontsize=8.5)
                continue
            colour = "white" if abs(cosine) > 0.62 else "0.1"
            texts = [ax.text(j, i - 1.13, _number(cosine), fontsize=10.5, fontweight="bold", color=colour)]
            if np.isfinite(low):
                texts.append(ax.text(j, i - 0.78, f"{_number(low)} … {_number(high)}", fontsize=7, color=colour))
            for text in texts:
                # a rim in the colour of the cell keeps the hatching off the figures
                text.set(ha="center", va="center", path_effects=[withStroke(linewidth=2.5, foreground=face)])
    ax.set(xlim=(-0.5, len(tasks) - 1.5), ylim=(len(tasks) - 1.5, -0.5))
    ax.set(xticks=range(len(tasks) - 1), yticks=range(len(tasks) - 1))
    ax.set_xticklabels(tasks[:-1])
    ax.set_yticklabels(tasks[1:])
    plain_grid(ax)


def _course(ax: Axes, one: xr.Dataset, colour: Colour) -> None:
    """Draw a cosine over the measured steps; those where it is NaN break the line."""
    one = one.isel(step=np.flatnonzero(np.isfinite(one["product"].values)))
    band(ax, one.step.values, one.cosine.values, one.cosine_low.values, one.cosine_high.values, colour)


def _number(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")
