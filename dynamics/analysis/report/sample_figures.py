"""What the samples look like, and how far they are from the data."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from dynamics.analysis.figure_style import PAGE_WIDTH, line_legend, log_axis, new_figure, run_colours, styled
from dynamics.analysis.report.summary_table import SampleGroup, wilson_interval
from dynamics.analysis.run_groups import attribute, group, sampled_settings
from dynamics.options import invalid

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

CLASSES = 10
"""Classes shown at most."""
LINES: dict[str, Literal["-", "--"]] = {"u": "-", "v": "--"}
"""Line of each sampled field."""


@styled
def sample_grids(
    tree: xr.DataTree, nfe: Sequence[int] | None = None, rows: int = 3, of: SampleGroup = "evaluation"
) -> Figure:
    """Draw samples of all runs side by side, a row for each field and number of network evaluations.

    Args:
        tree: One run or many.
        nfe: Numbers of evaluations to show; None shows all that were measured.
        rows: Samples of each class; the classes are the columns.
        of: The group they are in; `fid` has those of runs on latents, decoded.

    Raises:
        ValueError: No run has that group.
    """
    ds = group(tree, of)
    shown = sampled_settings(ds, pictures=True).values
    settings = [
        (field, n)
        for field in range(ds.sizes["field"])
        for n in range(ds.sizes["nfe"])
        if shown[:, field, n].any() and (nfe is None or ds.nfe.values[n] in nfe)
    ]
    runs = ds.sizes["run"]
    height, width = (n * ds.sizes[dim] for n, dim in ((rows, "height"), (min(CLASSES, ds.sizes["class"]), "width")))
    cell = min(4.5, (14.0 if runs > 3 else PAGE_WIDTH - 0.6) / runs)
    title = "What do the samples look like?"
    figure = new_figure(title, max(cell * runs + 0.6, 5.0), 0.7 + len(settings) * (cell * height / width + 0.12))
    grid = figure.subplots(len(settings), runs, squeeze=False)
    for row, (field, n) in enumerate(settings):
        for column in range(runs):
            ax = grid[row, column]
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if shown[column, field, n]:
                picture = tile(ds.samples.values[column, field, n, :CLASSES, :rows].astype(np.uint8))
                ax.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            if row == 0:
                ax.set_title(str(ds.run.values[column]))
        grid[row, 0].set_ylabel(f"{ds.field.values[field]}, NFE {ds.nfe.values[n]}")
    return figure


def tile(samples: Pixels) -> Pixels:
    """Lay samples [class, row, C, H, W] out as one picture, classes as columns, with a line of one pixel between.

    Three channels are colours [H, W, 3]; of any other number the first is shown [H, W].

    Example:
        >>> tile(np.zeros((10, 3, 1, 8, 8), np.uint8)).shape
        (26, 89)
    """
    framed = np.pad(samples, ((0, 0), (0, 0), (0, 0), (0, 1), (0, 1)), constant_values=255)
    classes, rows, channels, height, width = framed.shape
    picture = framed.transpose(1, 3, 0, 4, 2).reshape(rows * height, classes * width, channels)[:-1, :-1]
    return picture if channels == 3 else picture[..., 0]


@styled
def distance_by_nfe(tree: xr.DataTree) -> Figure:
    """Draw distances to the data, and the class accuracy with its 95% interval, by number of network evaluations.

    Raises:
        ValueError: No run has the group evaluation, or none has distances because the data have no labels.
    """
    ds = group(tree, "evaluation")
    distances, shares = distances_of(ds), "accuracy" in ds
    if not distances:
        allowed = "an evaluation with distances"
        raise invalid("evaluation", sorted(map(str, ds.data_vars)), allowed, "label the data: a classifier needs them")
    classified = "accuracy" in ds
    figure = new_figure("How good are samples of few network evaluations?", PAGE_WIDTH, 3.9)
    axes = np.atleast_1d(figure.subplots(1, len(distances) + shares))
    for ax, name in zip(axes, distances, strict=False):
        _points(ax, ds, name, tree)
        ax.set(ylabel=distances[name], title="lower is better")
        if name != "energy_distance":  # an unbiased estimate, which may be negative
            log_axis(ax)
    if shares:
        _points(axes[-1], ds, "accuracy", tree)
        axes[-1].set(ylabel="share in the class asked for", title="higher is better (bars: 95% interval)")
    line_legend(figure, run_colours(tree), extra=_lines(ds), columns=5)
    return figure


def distances_of(ds: xr.Dataset) -> dict[str, str]:
    """Return the distances in an evaluation, in words."""
    named = {str(name): f"Frechet distance (squared {str(name)[3:]} feature)" for name in ds if str(name)[:3] == "fd_"}
    return named | ({"energy_distance": "energy distance of points"} if "energy_distance" in ds else {})


@styled
def fid_by_nfe(tree: xr.DataTree) -> Figure:
    """Draw FID, Inception score and, where they were measured, precision and recall, by number of evaluations.

    Raises:
        ValueError: No run has the group fid.
    """
    ds = group(tree, "fid")
    shown = {
        "fid_inception": ("FID", "lower is better"),
        "is_inception": ("Inception score", "higher is better"),
        "precision_inception": ("precision", "higher is better"),
        "recall_inception": ("recall", "higher is better"),
    }
    names = [name for name in shown if name in ds]
    figure = new_figure("What does Inception say of samples of few network evaluations?", PAGE_WIDTH, 3.9)
    for ax, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        _points(ax, ds, name, tree)
        text, title = shown[name]
        ax.set(ylabel=text, title=title, xlabel="NFE")
        if name == "fid_inception":
            log_axis(ax)
    line_legend(figure, run_colours(tree), extra=_lines(ds), columns=5)
    return figure


def _lines(ds: xr.Dataset) -> list[Line2D]:
    """Return what the lines of each sampled field look like, for a legend."""
    faces = {"u": "0.3", "v": "white"}
    return [
        Line2D([], [], color="0.3", linestyle=LINES[f], marker="o", markerfacecolor=faces[f], label=f"sampled by {f}")
        for f in map(str, ds.field.values)
    ]


def _points(ax: Axes, ds: xr.Dataset, name: str, tree: xr.DataTree) -> None:
    colours = run_colours(tree)
    for i, (run, field, values) in enumerate(_settings(ds[name])):
        counts = dict(zip(map(str, ds.run.values), attribute(ds, "evaluation", "num_samples"), strict=True))
        shift = 1.05 ** (list(colours).index(run) - (len(colours) - 1) / 2)  # side by side, so that bars can be told
        x, y, bars = values.nfe.values * shift, values.values, None
        if name == "accuracy" and counts[run] is not None:
            bars = np.abs(np.stack(wilson_interval(y, counts[run])) - y)
        colour, line = colours[run], LINES[field]
        face = colour if field == "u" else "white"
        ax.errorbar(x, y, bars, color=colour, linestyle=line, marker="o", markerfacecolor=face, zorder=3 + i)
    ax.set_xscale("log", base=2)
    shown = ds.nfe.values.tolist()
    ax.set_xticks(shown, [str(n) for n in shown])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("network evaluations per sample (NFE)")


def _settings(values: xr.DataArray) -> Iterator[tuple[str, str, xr.DataArray]]:
    for run in range(values.sizes["run"]):
        for field in range(values.sizes["field"]):
            known = values.isel(run=run, field=field).dropna("nfe")
            if known.size:
                yield str(values.run.values[run]), str(values.field.values[field]), known
