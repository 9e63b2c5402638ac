"""Mean losses of all training rows by time and by gap, over any stretch of training."""

from typing import Any

import numpy as np
import xarray as xr

from dynamics.analysis.run_groups import group
from dynamics.options import invalid

Steps = np.ndarray[Any, np.dtype[np.int64]]


def loss_cells(results: xr.DataTree, window: int | None = None) -> xr.Dataset:
    """Return mean losses by time and gap over consecutive windows of training.

    What was recorded are sums since step 0, so that the rows of a window are the difference of two records.

    Args:
        results: One run or many, with the group cells.
        window: Steps in a window, a multiple of the steps between records; None takes the records as they are. The last
            window of a run ends with its last step and may be shorter.

    Returns:
        `raw`, `weighted`, `target_norm`, `du_dt_norm` [run, step, t_bin, gap_bin], means over the rows of a window, NaN
        where it has none; `count`, how many it has. `step` is the last step of the window; a step that does not end a
        window of a run is NaN there. The first gap bin holds the r = t rows, for which du/dt is not computed.

    Raises:
        ValueError: no run has the group cells, or a window does not end at a record.

    Example:
        >>> sums = {"count": [0.0, 2.0, 4.0], "raw": [0.0, 6.0, 8.0]}
        >>> ds = xr.Dataset({name: (("step", "gap_bin"), np.transpose([values])) for name, values in sums.items()})
        >>> ds = ds.assign_coords(step=[0, 50, 100], gap_bin_high=("gap_bin", [0.1]))
        >>> tree = xr.DataTree.from_dict({"/cells": ds})
        >>> loss_cells(tree).raw.values.ravel(), loss_cells(tree, window=100).raw.values.ravel()
        (array([3., 1.]), array([2.]))
    """
    parts = []
    for records in _runs(results):
        steps = records.step.values
        parts.append(_means(records, steps if window is None else _bounds(steps, window)))
    return xr.concat(parts, "run", join="outer", coords="different", compat="equals")


def loss_stages(results: xr.DataTree, stages: int = 3) -> xr.Dataset:
    """Return mean losses by time and gap over equal parts of training.

    Args:
        results: One run or many, with the group cells.
        stages: Number of parts, equal up to the steps between records; a run with too few records has fewer.

    Returns:
        As `loss_cells`, with `stage` 0, 1, ... for `step`; coordinates `first_step` and `last_step` [run, stage].

    Raises:
        ValueError: no run has the group cells, one has a single record, or there are no stages.
    """
    parts = []
    for records in _runs(results):
        steps = records.step.values
        number = min(stages, len(steps) - 1)
        if number < 1:
            allowed = f"at least 1, of runs with two records or more ({records.run.values[0]} has {len(steps)})"
            raise invalid("stages", stages, allowed, "train to the next record, or leave that run out")
        bounds = steps[np.linspace(0, len(steps) - 1, number + 1).round().astype(int)]
        limits = {"first_step": bounds[:-1] + 1, "last_step": bounds[1:]}
        part = _means(records, bounds).assign_coords({name: (("run", "step"), [v]) for name, v in limits.items()})
        parts.append(part.drop_vars("step").rename(step="stage").assign_coords(stage=np.arange(number)))
    return xr.concat(parts, "run", join="outer", coords="different", compat="equals")


def _runs(results: xr.DataTree) -> list[xr.Dataset]:
    """Return each run's own records, sums [run = 1, step, t_bin, gap_bin]."""
    ds = group(results, "cells")
    runs = []
    for i in range(ds.sizes["run"]):
        one = ds.isel(run=[i])
        known = one["count"].notnull().all([dim for dim in one["count"].dims if dim != "step"])
        runs.append(one.isel(step=known.values))
    return runs


def _bounds(steps: Steps, window: int) -> Steps:
    """Return the steps between which the windows lie."""
    if window >= 1:
        bounds = np.append(np.arange(steps[0], steps[-1], window), steps[-1])
        if np.isin(bounds, steps).all():
            return bounds
    allowed = f"a multiple of the {np.diff(steps).max()} steps between records"
    raise invalid("window", window, allowed, "choose such a multiple, or train with --observe cells:every=STEPS")


def _means(records: xr.Dataset, bounds: Steps) -> xr.Dataset:
    """Return means over the rows between each two of the records at `bounds`."""
    sums = records.sel(step=bounds).diff("step")
    count = sums["count"].assign_attrs(units="rows", long_name="training rows in the window")
    means = {"count": count}
    for name in (str(name) for name in sums.data_vars if name != "count"):
        known = count > 0
        if name == "du_dt_norm":
            known = known & (sums.gap_bin_high > 0)
        units, long_name = (
            records[name].attrs.get("units", "1"),
            f"{name.replace('_', ' ')}, mean over the window's rows",
        )
        means[name] = (sums[name] / count).where(known).assign_attrs(units=units, long_name=long_name)
    return xr.Dataset(means)
