"""Runs on points of the plane: their samples beside the data, and their velocities beside the exact ones."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver

from dynamics.analysis.figure_style import PAGE_WIDTH, new_figure, styled
from dynamics.analysis.run_groups import group
from dynamics.options import invalid

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]

GAP = 0.25
"""Inches between two rows of panels."""
RARE = 0.01
"""Below this share of the largest density of z_t there are no arrows."""


@styled
def points_by_nfe(tree: xr.DataTree, nfe: Sequence[int] | None = None) -> Figure:
    """Draw samples of each run beside the data, by sampled field and number of network evaluations.

    Colours are classes, where there are several.

    Args:
        tree: One run or many.
        nfe: Numbers of evaluations to show; None shows all that were measured.

    Raises:
        ValueError: No run was evaluated on points of the plane.
    """
    ds = _evaluated(tree, "points")
    there = ds.points.notnull().any(("run", "point", "axis"))
    settings = [
        {"field": field, "nfe": n}
        for field in ds.field.values
        for n in ds.nfe.values
        if there.sel(field=field, nfe=n) and (nfe is None or n in nfe)
    ]
    columns = len(settings) + 1
    side = PAGE_WIDTH / max(columns, 3)
    figure = new_figure("Do the samples look like the data?", side * columns, 0.6 + ds.sizes["run"] * (side + GAP))
    grid = figure.subplots(ds.sizes["run"], columns, squeeze=False, sharex=True, sharey=True)
    for i, row in enumerate(grid):
        run = ds.isel(run=i)
        _scatter(row[0], run.reference_points, run.get("class_of_reference_point"))
        row[0].set_ylabel(str(run.run.values))
        for ax, where in zip(row[1:], settings, strict=True):
            _scatter(ax, run.points.sel(where), run.get("class_of_point"))
            distance = float(run.energy_distance.sel(where))
            ax.set_xlabel("not measured" if np.isnan(distance) else f"energy distance {distance:.2g}")
    titles = ["data", *(f"{where['field']}, NFE {where['nfe']}" for where in settings)]
    for ax, title in zip(grid[0], titles, strict=True):
        ax.set_title(title)
    extent = 1.15 * float(np.abs(ds.reference_points).max())
    grid[0, 0].set(xlim=(-extent, extent), ylim=(-extent, extent))
    return figure


@styled
def vector_fields(tree: xr.DataTree) -> Figure:
    """Draw each run's velocities on a grid of z_t, coloured by their distance to the exact ones, and those below.

    Columns are times: v where t = r, u where r < t. All arrows of a column have one scale. Where z_t hardly ever is,
    there are none.

    Raises:
        ValueError: No run was evaluated on points of the plane.
    """
    ds = _evaluated(tree, "velocity")
    ds = ds.where(ds.density > RARE * ds.density.max(("vertical", "horizontal")))
    rows: list[tuple[str, xr.DataArray, xr.DataArray | None]] = []
    for i, label in enumerate(map(str, ds.run.values)):
        exact = ds.velocity_exact.isel(run=i) if "velocity_exact" in ds else None
        if rows and exact is not None and np.array_equal(rows[-1][1], exact, equal_nan=True):
            rows.pop()  # runs on one data set share the row below them
        rows.append((label, ds.velocity.isel(run=i), exact))
        rows += [] if exact is None else [("exact", exact, None)]
    count = ds.sizes["times"]
    side = (PAGE_WIDTH - 1.0) / count
    figure = new_figure("Do the velocities point where they should?", PAGE_WIDTH, 0.6 + len(rows) * (side + 0.1))
    grid = figure.subplots(len(rows), count, squeeze=False, sharex=True, sharey=True)
    largest = float(_distance(ds.velocity, ds.velocity_exact).quantile(0.98)) if "velocity_exact" in ds else 1.0
    longest = _length(rows[-1][1]).quantile(0.95, ("vertical", "horizontal"))
    coloured: Quiver | None = None
    for row, (label, field, exact) in zip(grid, rows, strict=True):
        row[0].set_ylabel(label)
        for k, ax in enumerate(row):
            error = None if exact is None else _distance(field, exact).isel(times=k).values
            drawn = _arrows(ax, field.isel(times=k), error, largest, float(longest[k]))
            coloured = coloured if error is None else drawn
    for ax, t, r in zip(grid[0], ds.t.values, ds.r.values, strict=True):
        ax.set_title(f"v, t = {t:.2g}" if t == r else f"u, t = {t:.2g}, r = {r:.2g}")
    if coloured is not None:
        figure.colorbar(coloured, ax=grid, shrink=0.8, aspect=30, pad=0.01, label="distance to the exact velocity")
    return figure


def _evaluated(tree: xr.DataTree, name: str) -> xr.Dataset:
    """Return the evaluation of the runs that have a variable."""
    ds = group(tree, "evaluation")
    if name not in ds:
        received, allowed = sorted(map(str, ds.data_vars)), f"an evaluation with {name}"
        raise invalid("evaluation", received, allowed, "train on points of the plane, for example spiral-meanflow")
    return ds.isel(run=ds[name].notnull().any([dim for dim in ds[name].dims if dim != "run"]).values)


def _length(field: xr.DataArray) -> xr.DataArray:
    out: xr.DataArray = (field**2).sum("axis", skipna=False) ** 0.5
    return out


def _distance(one: xr.DataArray, two: xr.DataArray) -> xr.DataArray:
    return _length(one - two)


def _scatter(ax: Axes, points: xr.DataArray, classes: xr.DataArray | None) -> None:
    palette, there = np.array(sns.color_palette("colorblind", 10)), points.notnull().all("axis").values
    of = np.zeros(len(there), dtype=int) if classes is None else classes.fillna(0).values.astype(int)
    x, y = points.values[there].T
    ax.scatter(x, y, s=1.5, c=palette[of[there] % len(palette)], linewidths=0)
    _bare(ax)


def _arrows(ax: Axes, field: xr.DataArray, error: Floats | None, largest: float, longest: float) -> Quiver:
    """Draw a field, an arrow of the length `longest` being as long as the distance of two points of the grid."""
    x, y = np.meshgrid(field.horizontal.values, field.vertical.values)
    look: dict[str, Any] = {"color": "0.3"} if error is None else {"cmap": "flare", "clim": (0, largest)}
    scale = longest * len(field.horizontal)
    values = field.transpose("vertical", "horizontal", "axis").values
    parts = [x, y, values[..., 0], values[..., 1], *([] if error is None else [error])]
    arrows = ax.quiver(*parts, angles="xy", pivot="middle", width=0.008, scale=scale, scale_units="width", **look)
    _bare(ax)
    return arrows


def _bare(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[], aspect="equal")
    ax.grid(visible=False)
    ax.spines[:].set(visible=True, color="0.8")
