"""The look that all figures share, what they draw alike, and how they are saved."""

import functools
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, Literal, ParamSpec

import matplotlib as mpl
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import (
    FixedLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    StrMethodFormatter,
)

from dynamics.analysis.seed_arms import arms_of
from dynamics.atomic import replacing
from dynamics.options import invalid

P = ParamSpec("P")
Colour = str | tuple[float, float, float]

PAGE_WIDTH = 9.0
"""Inches; text of 9 points stays legible when a page shows the figure 800 pixels wide."""
WIDEST = 12.0
"""Inches of the widest figure."""
DPI = 150
DOTS = 25
"""From so many places on a line has no markers."""
COLUMNS = 3
"""Small multiples in a row."""

STYLE: dict[str, object] = {
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.5,
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.88",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}


class Plot(Figure):
    """A Figure that a notebook shows once, whatever its backend; pyplot does not know it, so nothing piles up."""

    def _repr_png_(self) -> bytes:
        data = io.BytesIO()
        self.savefig(data, format="png", dpi=DPI)
        return data.getvalue()


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the shared style and leave the caller's settings alone."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(STYLE):  # type: ignore[arg-type]
            return draw(*args, **kwargs)

    return wrapper


def new_figure(title: str, width: float, height: float) -> Figure:
    """Return an empty figure whose title is the question it answers."""
    figure = Plot(figsize=(width, height), layout="constrained")
    figure.suptitle(title)
    return figure


def panel_figure(
    title: str, count: int, around: float = 1.3, height: float = 2.1, width: float = PAGE_WIDTH
) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` panels over training, in rows that share both axes.

    Args:
        title: The question it answers.
        count: Number of panels.
        around: Inches for the title, the legend and what else is above and below the panels.
        height: Inches of a row.
        width: Inches of the figure.
    """
    columns = min(2 if count == 4 else COLUMNS, count)
    rows = -(-count // columns)
    figure = new_figure(title, width, around + height * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for spare in grid[count:]:
        spare.remove()
    for lowest in grid[max(0, count - columns) : count]:
        lowest.xaxis.set_tick_params(labelbottom=True)
        lowest.set_xlabel("optimiser step")
    return figure, list(grid[:count])


def log_axis(ax: Axes, which: Literal["x", "y"] = "y") -> None:
    """Make an axis logarithmic, with plain numbers on it; call it when everything is drawn."""
    ax.set(**{f"{which}scale": "log"})
    low, high = ax.get_ylim() if which == "y" else ax.get_xlim()
    axis = ax.yaxis if which == "y" else ax.xaxis
    enough = 4 if which == "y" else 3
    kinds = (_round(low, high, numbers) for numbers in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)))
    ticks = next((ticks for ticks in kinds if len(ticks) >= enough), None)
    axis.set_major_locator(FixedLocator(ticks) if ticks else MaxNLocator(enough))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    if ticks:  # without small ones two or three numbers look linear
        axis.set_minor_locator(FixedLocator(_round(low, high, range(1, 10))))
    else:
        axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _round(low: float, high: float, numbers: Iterable[float]) -> list[float]:
    """Return the multiples of every power of ten that lie in a range, at most six or so powers apart."""
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    own = list(numbers)
    powers = range(first, last + 1, max(1, (last - first) // 6 if own == [1] else 1))
    return [k * 10.0**power for power in powers for k in own if low <= k * 10.0**power <= high]


def log_places(ax: Axes, places: Sequence[float]) -> None:
    """Make the x axis logarithmic, with ticks at these places alone."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(places))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_locator(NullLocator())


def palette(names: Sequence[str]) -> dict[str, Colour]:
    """Return a colour for each name."""
    return dict(zip(names, sns.color_palette("colorblind" if len(names) <= 10 else "husl", len(names)), strict=True))


def arm_colours(tree: xr.DataTree) -> dict[str, Colour]:
    """Return a colour for each arm (each run, where there are none), the same in every figure of a tree."""
    return palette(list(arms_of(tree)))


def band(ax: Axes, x: Any, mean: Any, low: Any, high: Any, colour: Colour) -> None:
    """Draw a line with a band around it; of a single place a dot with a bar, for a band has no width there."""
    if len(x) == 1:
        ends = np.nan_to_num(np.abs([mean - low, high - mean]))
        ax.errorbar(x, mean, ends, fmt="o", color=colour, capsize=3)
        return
    ax.plot(x, mean, color=colour, marker="o" if len(x) < DOTS else None, markersize=3.5)
    ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def line_legend(
    figure: Figure | SubFigure, colours: Mapping[str, Colour], note: str = "", extra: Sequence[Line2D] = ()
) -> None:
    """Name what is drawn in each colour, and what else needs a name: below the panels, or beside them if it is much."""
    labels = {label: fill(label, 30) for label in colours if label}
    handles = [Line2D([], [], color=colours[label], linewidth=2.5, label=text) for label, text in labels.items()]
    handles += list(extra)
    if len(handles) <= 4 and sum(len(str(handle.get_label())) for handle in handles) < 70:
        figure.legend(handles=handles, loc="outside lower center", ncols=max(len(handles), 1), title=note or None)
        return
    figure.legend(handles=handles, loc="outside right upper")
    widest = max(len(line) for handle in handles for line in str(handle.get_label()).splitlines())
    if isinstance(figure, Figure):
        figure.set_figwidth(min(WIDEST, figure.get_figwidth() + 0.6 + 0.075 * widest))
    if note:
        figure.legend(handles=[], loc="outside lower center", title=note)


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PNG (150 dots per inch) and SVG; equal figures give equal files.

    Args:
        figure: Any figure.
        path: Without suffix, or with one that is replaced.

    Returns:
        The two paths.
    """
    written = []
    path.parent.mkdir(parents=True, exist_ok=True)
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        target = path.with_suffix(f".{kind}")
        with mpl.rc_context({"svg.hashsalt": "dynamics"}), replacing(target) as temporary:
            figure.savefig(temporary, format=kind, dpi=DPI, metadata=metadata)
        written.append(target)
    return written


def split_by_run(ds: xr.Dataset) -> dict[str, xr.Dataset]:
    """Return a dataset's runs by label; a dataset without runs is one, without a label."""
    if "run" not in ds.dims:
        return {"": ds}
    return {str(label): ds.isel(run=i) for i, label in enumerate(ds.run.values)}


def at_step(ds: xr.Dataset, step: int | None, run: str | None, name: str) -> dict[str, xr.Dataset]:
    """Return each run at a step, or at its last one, by a title that names both; runs not measured then are left out.

    Args:
        ds: With or without the dimensions run and step.
        step: Optimiser step.
        run: One run; all if None.
        name: A variable that is finite wherever there was a measurement.
    """
    members = split_by_run(ds)
    if run is not None:
        check_known("run", run, list(members))
        members = {run: members[run]}
    if "step" not in ds.dims:
        return members
    chosen, steps = {}, set()
    for label, one in members.items():
        there = one[name].notnull().any([dim for dim in one[name].dims if dim != "step"]).values
        own = one.step.values[there].tolist()
        steps |= set(own)
        if own and step in (None, *own):
            here = own[-1] if step is None else step
            chosen[f"{label}, step {here}" if label else f"step {here}"] = one.sel(step=here)
    if not chosen:
        check_known("step", step, sorted(steps))
    return chosen


def check_known(name: str, received: object, allowed: Sequence[object]) -> None:
    """Refuse what is not among the allowed."""
    if received not in allowed:
        raise invalid(name, received, ", ".join(map(str, allowed)), "choose one of them")


def plain_grid(ax: Axes) -> None:
    """Leave nothing of the axes but their labels, around cells that are drawn as a table."""
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def table_cell(ax: Axes, x: int, y: int, face: Any, hatched: bool) -> None:
    """Draw a cell of a table around a place, hatched where its number shows nothing."""
    ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=face, edgecolor="white", linewidth=1.5))
    if hatched:
        pattern = Rectangle((x - 0.49, y - 0.49), 0.98, 0.98, fill=False, hatch="///", linewidth=0)
        pattern.set_edgecolor((0, 0, 0, 0.2))
        ax.add_patch(pattern)


HATCHED = Patch(facecolor="white", edgecolor="0.45", hatch="///", linewidth=0, label="interval includes 0")
"""What hatching says, for a legend."""
