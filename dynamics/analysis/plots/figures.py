"""The look all figures share, and how they are saved."""

import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec

import matplotlib as mpl
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from dynamics.analysis.runs import run_labels
from dynamics.atomic import replacing
from dynamics.options import invalid

P = ParamSpec("P")
Colour = str | tuple[float, float, float]

WIDTH = 9.0
"""Inches; text of 9 points stays legible when a page shows the figure 800 pixels wide."""
DPI = 150
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


def panels(figure: Figure, count: int, columns: int = COLUMNS) -> list[Axes]:
    """Return `count` panels in rows that share both axes."""
    columns = min(columns, count)
    rows = -(-count // columns)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for spare in grid[count:]:
        spare.remove()
    for lowest in grid[max(0, count - columns) : count]:
        lowest.xaxis.set_tick_params(labelbottom=True)
        lowest.set_xlabel("optimiser step")
    return list(grid[:count])


def log_axis(ax: Axes) -> None:
    """Make the y axis logarithmic, with plain numbers on it; call it when everything is drawn."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    numbers = (1.0, 2.0, 5.0) if high < 500 * low else (1.0,)
    ax.yaxis.set_major_locator(MaxNLocator(5) if high < 5 * low else LogLocator(subs=numbers))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_locator(NullLocator())


def colours(tree: xr.DataTree) -> dict[str, tuple[float, float, float]]:
    """Return a colour for each run, the same in every figure of a tree."""
    runs = run_labels(tree)
    palette = sns.color_palette("colorblind", max(len(runs), 1))
    return dict(zip(runs, palette, strict=True))


def legend(figure: Figure, tree: xr.DataTree, extra: Sequence[Line2D] = (), note: str = "") -> None:
    """Name the runs, and what else needs a name, below the panels."""
    handles = [Line2D([], [], color=colour, linewidth=2.5, label=run) for run, colour in colours(tree).items()]
    handles += list(extra)
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5), title=note or None)


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


def runs(ds: xr.Dataset) -> dict[str, xr.Dataset]:
    """Return a dataset's runs by label; a dataset without runs is one, without a label."""
    if "run" not in ds.dims:
        return {"": ds}
    return {str(label): ds.isel(run=i) for i, label in enumerate(ds.run.values)}


def by_run(ds: xr.Dataset, step: int | None, run: str | None, name: str) -> dict[str, xr.Dataset]:
    """Return each run at a step, or at its last one, by a title that names both; runs not measured then are left out.

    Args:
        ds: With or without the dimensions run and step.
        step: Optimiser step.
        run: One run; all if None.
        name: A variable that is finite wherever there was a measurement.
    """
    members = runs(ds)
    if run is not None:
        known("run", run, list(members))
        members = {run: members[run]}
    if "step" not in ds.dims:
        return members
    chosen, steps = {}, set()
    for label, one in members.items():
        there = one[name].notnull().any([dim for dim in one[name].dims if dim != "step"]).values
        measured = one.step.values[there].tolist()
        steps |= set(measured)
        if measured and step in (None, *measured):
            here = measured[-1] if step is None else step
            chosen[f"{label}, step {here}" if label else f"step {here}"] = one.sel(step=here)
    if not chosen:
        known("step", step, sorted(steps))
    return chosen


def known(name: str, received: object, allowed: Sequence[object]) -> None:
    """Refuse what is not among the allowed."""
    if received not in allowed:
        raise invalid(name, received, ", ".join(map(str, allowed)), "choose one of them")
