"""How noisy the tasks' gradients are, and what that noise does to their cosines."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dynamics.analysis.figure_style import (
    COLUMNS,
    PAGE_WIDTH,
    at_step,
    line_legend,
    log_axis,
    log_places,
    new_figure,
    palette,
    panel_figure,
    styled,
)
from dynamics.analysis.gradients.affinity_figures import group_part, level_note

ESTIMATES = {
    "naive": ("same batch (naive)", "s"),
    "independent": ("different batches (naive)", "^"),
    "unbiased": ("unbiased", "o"),
}
"""Label and marker of each estimate of a cosine."""


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
    chosen = at_step(group_part(noise, group), step, None, "squared_norm")
    tasks = [str(name) for name in noise.task.values]
    figure = new_figure("How many rows does each task need until signal equals noise?", PAGE_WIDTH, 3.9)
    ax = figure.subplots()
    colours = palette(list(chosen))
    ends: list[np.ndarray[Any, Any]] = []
    for i, (label, values) in enumerate(chosen.items()):
        place = np.arange(len(tasks)) + (i - (len(chosen) - 1) / 2) * min(0.16, 0.7 / len(chosen))
        scale, low, high = (values[f"noise_scale{end}"].values for end in ("", "_low", "_high"))
        # an interval of more than this factor says that the noise scale is unknown; its bar leaves the axes
        low, high = np.maximum(low, scale / 1e6), np.minimum(high, scale * 1e6)
        ax.errorbar(place, scale, (scale - low, high - scale), fmt="o", color=colours[label], capsize=3)
        ends += [scale, np.maximum(low, scale / 20), np.minimum(high, scale * 20)]
        for x in place[values.squared_norm.values <= 0]:
            text = ax.text(x, 0.03, "no signal", color=colours[label], fontsize=8.5, rotation=90)
            text.set(transform=ax.get_xaxis_transform(), ha="center", va="bottom")
    ax.set(xticks=range(len(tasks)), xlim=(-0.5, len(tasks) - 0.5), ylabel="noise scale B in rows")
    ax.set_xticklabels(tasks)
    ax.set_xlabel("task: u by gap t - r")
    ax.grid(axis="x", visible=False)
    if np.isfinite(ends).any():
        ax.set_ylim(np.nanmin(ends) / 1.5, np.nanmax(ends) * 1.5)
    log_axis(ax)
    line_legend(figure, colours, f"bar: {level_note(noise)}; group {group}")
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
    chosen = at_step(group_part(curve, group), step, None, "naive")
    names = f"{curve.attrs['task']} and {curve.attrs['task2']}"
    width = max(5.8, PAGE_WIDTH * min(len(chosen), COLUMNS) / COLUMNS)
    title = f"Does the cosine of {names}\ndepend on the batch size?"
    figure, axes = panel_figure(title, len(chosen), 1.5, 2.5, width)
    colours = palette(list(ESTIMATES))
    for ax, (title, values) in zip(axes, chosen.items(), strict=True):
        ax.axhline(0, color="0.5", linestyle=":", linewidth=1)
        for name, (_, marker) in ESTIMATES.items():
            size, mean = values.batch_size.values, values[name].values
            sem = values[f"{name}_sem"].values
            ax.plot(size, mean, color=colours[name], marker=marker)
            ax.fill_between(size, mean - sem, mean + sem, color=colours[name], alpha=0.18, linewidth=0)
        ax.set(title=title, xlabel="rows of a batch")
        log_places(ax, np.unique(curve.batch_size).tolist())
    figure.supylabel("cosine", fontsize=9.5)
    shared = {"shared": "both tasks see the same rows of a batch", "independent": "tasks have rows of their own"}
    note = "; ".join(filter(None, ["band: one standard error", shared.get(str(curve.attrs.get("rows")), "")]))
    figure.legend(handles=estimate_handles(), loc="outside lower center", ncols=3, title=note)
    return figure


def estimate_handles(lines: bool = True) -> list[Line2D]:
    """Return what each estimate of a cosine looks like, for a legend."""
    colours = palette(list(ESTIMATES))
    return [
        Line2D([], [], color=colours[name], marker=marker, linestyle="-" if lines else "", label=label)
        for name, (label, marker) in ESTIMATES.items()
    ]
