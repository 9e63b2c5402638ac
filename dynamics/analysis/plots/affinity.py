"""How tasks get along: cosines of their gradients, and the noise that hides them."""

from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from dynamics.analysis.plots.figures import COLUMNS, WIDTH, by_run, known, log_axis, new_figure, panels, runs, styled
from dynamics.options import invalid

Colour = tuple[float, float, float]

MAP, RANGE = "RdBu", Normalize(-1, 1)
"""Blue helps, red hurts; colour-blind safe. A cosine beyond 1, which noise can give, has the last colour."""
NO_SIGNAL = "0.93"
"""Grey of a cell without a number."""

ESTIMATES = {
    "naive": ("same batch (naive)", "s"),
    "independent": ("different batches (naive)", "^"),
    "unbiased": ("unbiased", "o"),
}


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
    chosen = by_run(_part(aff, group), step, run, "product")
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
    bar = figure.colorbar(ScalarMappable(RANGE, MAP), ax=grid[: len(chosen)], shrink=0.8, aspect=30)
    bar.set_label("cosine of the true gradients")
    bar.outline.set_visible(False)
    hatched = Patch(facecolor="white", edgecolor="0.45", hatch="///", linewidth=0, label="interval includes 0")
    figure.legend(handles=[hatched], loc="outside lower center", title=f"small print: {_level(aff)}; group {group}")
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
    values, of, others = _part(aff, group), "the update", [str(name) for name in aff.task.values]
    if "task2" in aff.dims:
        known("task", task, others)
        values, of, others = values.sel(task2=task), task, [name for name in others if name != task]
    columns = 2 if len(others) == 4 else COLUMNS
    height = 1.2 + 2.1 * -(-len(others) // columns)
    figure = new_figure(f"Does {of} pull the same way as each task while training goes on?", WIDTH, height)
    palette = _colours(values)
    for ax, other in zip(panels(figure, len(others), columns), others, strict=True):
        ax.axhline(0, color="0.5", linestyle=":", linewidth=1)
        for label, one in runs(values.sel(task=other)).items():
            _course(ax, one, palette[label])
        ax.set(title=f"{of} and {other}")
    ends = np.concatenate([values.sel(task=others)[name].values.ravel() for name in ("cosine_low", "cosine_high")])
    # next to no signal intervals are huge, and would hide all others
    low, high = np.nanmin(ends, initial=-0.05), np.nanmax(ends, initial=0.05)
    ax.set_ylim(max(low - 0.05, -1.25), min(high + 0.05, 1.25))
    figure.supylabel("cosine of the true gradients", fontsize=9.5)
    _legend(figure, palette, f"band: {_level(aff)}; where the line breaks: no signal; group {group}")
    return figure


@styled
def noise_scale_by_gap(noise: xr.Dataset, step: int | None = None, group: str = "model") -> Figure:
    """Draw each task's gradient noise scale in rows, with intervals, on a logarithmic axis.

    Args:
        noise: From `noise_scale`.
        step: Optimiser step; each run's last one if None.
        group: Part of the model.

    Raises:
        ValueError: There is no such step or group.
    """
    chosen = by_run(_part(noise, group), step, None, "squared_norm")
    tasks = [str(name) for name in noise.task.values]
    figure = new_figure("How many rows does each task need until signal equals noise?", WIDTH, 3.9)
    ax = figure.subplots()
    palette = dict(zip(chosen, sns.color_palette("colorblind", len(chosen)), strict=True))
    ends: list[np.ndarray[Any, Any]] = []
    for i, (label, values) in enumerate(chosen.items()):
        place = np.arange(len(tasks)) + (i - (len(chosen) - 1) / 2) * min(0.16, 0.7 / len(chosen))
        scale, low, high = (values[f"noise_scale{end}"].values for end in ("", "_low", "_high"))
        # an interval of more than this factor says that the noise scale is unknown; its bar leaves the axes
        low, high = np.maximum(low, scale / 1e6), np.minimum(high, scale * 1e6)
        ax.errorbar(place, scale, (scale - low, high - scale), fmt="o", color=palette[label], capsize=3)
        ends += [scale, np.maximum(low, scale / 20), np.minimum(high, scale * 20)]
        for x in place[values.squared_norm.values <= 0]:
            text = ax.text(x, 0.03, "no signal", color=palette[label], fontsize=8.5, rotation=90)
            text.set(transform=ax.get_xaxis_transform(), ha="center", va="bottom")
    ax.set(xticks=range(len(tasks)), xlim=(-0.5, len(tasks) - 0.5), ylabel="noise scale B in rows")
    ax.set_xticklabels(tasks)
    ax.set_xlabel("task: u by gap t - r")
    ax.grid(axis="x", visible=False)
    if np.isfinite(ends).any():
        ax.set_ylim(np.nanmin(ends) / 1.5, np.nanmax(ends) * 1.5)
    log_axis(ax)
    _legend(figure, palette, f"bar: {_level(noise)}; group {group}")
    return figure


@styled
def cosine_by_batch_size(curve: xr.Dataset, step: int | None = None, group: str = "model") -> Figure:
    """Draw the naive and the unbiased cosine of two tasks against the batch size, a panel a run.

    Args:
        curve: From `cosine_by_batch`.
        step: Optimiser step; each run's last one if None.
        group: Part of the model.

    Raises:
        ValueError: There is no such step or group.
    """
    chosen = by_run(_part(curve, group), step, None, "naive")
    names = f"{curve.attrs['task']} and {curve.attrs['task2']}"
    rows = -(-len(chosen) // COLUMNS)
    width = max(5.8, WIDTH * min(len(chosen), COLUMNS) / COLUMNS)
    figure = new_figure(f"Does the cosine of {names}\ndepend on the batch size?", width, 1.5 + 2.5 * rows)
    palette = sns.color_palette("colorblind", len(ESTIMATES))
    for ax, (title, values) in zip(panels(figure, len(chosen)), chosen.items(), strict=True):
        ax.axhline(0, color="0.5", linestyle=":", linewidth=1)
        for (name, (_, marker)), colour in zip(ESTIMATES.items(), palette, strict=True):
            size, mean = values.batch_size.values, values[name].values
            sem = values[f"{name}_sem"].values
            ax.plot(size, mean, color=colour, marker=marker)
            ax.fill_between(size, mean - sem, mean + sem, color=colour, alpha=0.18, linewidth=0)
        ax.set(title=title, xlabel="rows of a batch", xscale="log")
        ax.xaxis.set_major_locator(FixedLocator(np.unique(curve.batch_size).tolist()))
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
    figure.supylabel("cosine", fontsize=9.5)
    shared = {"shared": "both tasks see the same rows of a batch", "independent": "tasks have rows of their own"}
    lines = [
        Line2D([], [], color=colour, marker=marker, label=text)
        for (text, marker), colour in zip(ESTIMATES.values(), palette, strict=True)
    ]
    note = "; ".join(filter(None, ["band: one standard error", shared.get(str(curve.attrs.get("rows")), "")]))
    figure.legend(handles=lines, loc="outside lower center", ncols=3, title=note)
    return figure


def _cells(ax: Axes, values: xr.Dataset) -> None:
    """Draw the pairs of different tasks once each: rows are tasks from the second on, columns those before."""
    tasks = [str(name) for name in values.task.values]
    names = ("cosine", "cosine_low", "cosine_high", "product")
    *fields, measured = (values[name].transpose("task", "task2").values for name in names)
    significant = values.significant.transpose("task", "task2").values.astype(bool)
    colours = mpl.colormaps[MAP]
    for i in range(1, len(tasks)):
        for j in range(i):
            cosine, low, high = (field[i, j] for field in fields)
            finite = np.isfinite(cosine)
            face: Any = colours(RANGE(np.clip(cosine, -1, 1))) if finite else NO_SIGNAL
            ax.add_patch(Rectangle((j - 0.5, i - 1.5), 1, 1, facecolor=face, edgecolor="white", linewidth=1.5))
            if not finite:
                why = "no\nsignal" if np.isfinite(measured[i, j]) else "not\nmeasured"
                ax.text(j, i - 1, why, ha="center", va="center", color="0.4", fontsize=8.5)
                continue
            if not significant[i, j]:
                hatched = Rectangle((j - 0.49, i - 1.49), 0.98, 0.98, fill=False, hatch="///", linewidth=0)
                hatched.set_edgecolor((0, 0, 0, 0.2))
                ax.add_patch(hatched)
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
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _course(ax: Axes, one: xr.Dataset, colour: Colour) -> None:
    """Draw a cosine over the measured steps; those where it is NaN break the line."""
    one = one.isel(step=np.flatnonzero(np.isfinite(one["product"].values)))
    ax.plot(one.step, one.cosine, color=colour, marker="o" if one.sizes["step"] < 25 else None)
    ax.fill_between(one.step, one.cosine_low, one.cosine_high, color=colour, alpha=0.15, linewidth=0)


def _number(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def _part(ds: xr.Dataset, group: str) -> xr.Dataset:
    known("group", group, [str(name) for name in ds.group.values])
    return ds.sel(group=group)


def _level(ds: xr.Dataset) -> str:
    return f"{ds.attrs['level']:.0%} interval" if "level" in ds.attrs else "interval"


def _colours(ds: xr.Dataset) -> dict[str, Colour]:
    labels = list(runs(ds))
    return dict(zip(labels, sns.color_palette("colorblind", len(labels)), strict=True))


def _legend(figure: Figure, palette: dict[str, Colour], note: str) -> None:
    handles = [Line2D([], [], color=colour, linewidth=2.5, label=label) for label, colour in palette.items() if label]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(max(len(handles), 1), 4), title=note)
