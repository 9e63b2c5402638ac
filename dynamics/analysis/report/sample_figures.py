"""What the samples look like, and how far they are from the data."""

from collections.abc import Sequence
from textwrap import fill
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from dynamics.analysis.figure_style import PAGE_WIDTH, WIDEST, arm_colours, line_legend, log_axis, new_figure, styled
from dynamics.analysis.report.summary_table import SampleGroup, wilson_interval
from dynamics.analysis.run_groups import attribute, group, sampled_settings
from dynamics.analysis.seed_arms import SEEDS_NOTE, arms_of, mean_over_seeds
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
    """Draw samples of all runs side by side, a row for each field and number of network evaluations, below the data.

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
    runs, rows = ds.sizes["run"], min(rows, ds.sizes["row"])
    height, width = (n * ds.sizes[dim] for n, dim in ((rows, "height"), (min(CLASSES, ds.sizes["class"]), "width")))
    cell = min(4.5, ((WIDEST if runs > 3 else PAGE_WIDTH) - 0.6) / runs)
    title = "What do the samples look like?"
    lines: list[tuple[str, list[Pixels | None]]] = []
    if "reference_samples" in ds:
        lines.append(("data", [pixels if pixels.any() else None for pixels in ds.reference_samples.fillna(0).values]))
    for field, n in settings:
        pictures = ds.samples.values[:, field, n]
        there = [one if known else None for one, known in zip(pictures, shown[:, field, n], strict=True)]
        lines.append((f"{ds.field.values[field]}, NFE {ds.nfe.values[n]}", there))
    figure = new_figure(title, max(cell * runs + 0.6, 5.0), 1.0 + len(lines) * (cell * height / width + 0.12))
    grid = figure.subplots(len(lines), runs, squeeze=False)
    for axes, (label, pictures) in zip(grid, lines, strict=True):
        for ax, pixels in zip(axes, pictures, strict=True):
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if pixels is not None:
                picture = tile(pixels[:CLASSES, :rows].astype(np.uint8))
                ax.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes[0].set_ylabel(label)
    for ax, run in zip(grid[0], ds.run.values, strict=True):
        ax.set_title(fill(str(run), max(12, int(12 * cell))))
        _name_classes(ax, min(CLASSES, ds.sizes["class"]))
    return figure


def _name_classes(ax: Axes, count: int) -> None:
    """Write the number of each class above its column."""
    if count < 2 or not ax.images:
        return
    right = ax.images[0].get_extent()[1]
    places = (np.arange(count) + 0.5) * (right + 1.5) / count - 0.5
    ax.tick_params(top=True, labeltop=True, labelbottom=False, length=0, pad=1, labelsize=7.5)
    ax.set_xticks(places.tolist(), [str(k) for k in range(count)])


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
    figure = new_figure("How good are samples of few network evaluations?", PAGE_WIDTH, 3.9)
    axes = np.atleast_1d(figure.subplots(1, len(distances) + shares))
    for ax, name in zip(axes, distances, strict=False):
        _points(ax, ds, name, tree, logs=name != "energy_distance")
        ax.set(ylabel=distances[name], title="lower is better")
        if name != "energy_distance":  # an unbiased estimate, which may be negative
            log_axis(ax)
    if shares:
        _points(axes[-1], ds, "accuracy", tree)
        several = any(len(runs) > 1 for runs in arms_of(tree).values())
        bars = "" if several else " (bars: 95% interval)"
        axes[-1].set(ylabel="share in the class asked for", title=f"higher is better{bars}")
    _legend(figure, ds, tree)
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
        _points(ax, ds, name, tree, logs=name == "fid_inception")
        text, title = shown[name]
        ax.set(ylabel=text, title=title, xlabel="NFE")
        if name == "fid_inception":
            log_axis(ax)
    _legend(figure, ds, tree)
    return figure


def _legend(figure: Figure, ds: xr.Dataset, tree: xr.DataTree) -> None:
    several = any(len(runs) > 1 for runs in arms_of(tree).values())
    note = f"mean; bar: {SEEDS_NOTE}" if several else ""
    there = {arm for arm, runs in arms_of(tree).items() if set(runs) & set(map(str, ds.run.values))}
    line_legend(figure, {arm: c for arm, c in arm_colours(tree).items() if arm in there}, note, _lines(ds))


def _lines(ds: xr.Dataset) -> list[Line2D]:
    """Return what the lines of each sampled field look like, for a legend."""
    faces = {"u": "0.3", "v": "white"}
    return [
        Line2D([], [], color="0.3", linestyle=LINES[f], marker="o", markerfacecolor=faces[f], label=f"sampled by {f}")
        for f in map(str, ds.field.values)
    ]


def _points(ax: Axes, ds: xr.Dataset, name: str, tree: xr.DataTree, logs: bool = False) -> None:
    colours = arm_colours(tree)
    counts = dict(zip(map(str, ds.run.values), attribute(ds, "evaluation", "num_samples"), strict=True))
    for i, (arm, runs) in enumerate(arms_of(tree).items()):
        # side by side, so that bars can be told
        shift = min(1.05, 1.2 ** (1 / len(colours))) ** (i - (len(colours) - 1) / 2)
        own = ds[name].isel(run=[str(run) in runs for run in ds.run.values])
        for field in map(str, ds.field.values):
            values = pd.DataFrame(own.sel(field=field).transpose("run", "nfe").to_pandas()).dropna(axis=1, how="all")
            if values.empty:
                continue
            y, bars = values.iloc[0], None
            if len(values) > 1:
                means = mean_over_seeds(values, logs)
                y = means["mean"]
                bars = np.nan_to_num(np.abs([y - means["low"], means["high"] - y]))
            elif name == "accuracy" and counts[str(values.index[0])] is not None:
                bars = np.abs(np.stack(wilson_interval(y.to_numpy(), counts[str(values.index[0])])) - y.to_numpy())
            face = colours[arm] if field == "u" else "white"
            style: dict[str, Any] = {"linestyle": LINES[field], "marker": "o", "markerfacecolor": face, "zorder": 3 + i}
            ax.errorbar(y.index.to_numpy(float) * shift, y, bars, color=colours[arm], capsize=2.5, **style)
    ax.set_xscale("log", base=2)
    shown = ds.nfe.values.tolist()
    ax.set_xticks(shown, [str(n) for n in shown])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("network evaluations per sample (NFE)")
