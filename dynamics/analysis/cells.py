"""Mean losses of all training rows by time and by gap, over any stretch of training."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from dynamics.analysis.runs import group
from dynamics.options import invalid


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
        bounds = steps
        if window is not None:
            bounds = np.append(np.arange(steps[0], steps[-1], window or 1), steps[-1])
            if window < 1 or not np.isin(bounds, steps).all():
                allowed = f"a multiple of the {np.diff(steps).max()} steps between records"
                raise invalid("window", window, allowed, "choose such a multiple, or train with cells:every=STEPS")
        parts.append(_means(records, bounds))
    return xr.concat(parts, "run", join="outer", coords="different", compat="equals")


def loss_stages(results: xr.DataTree, stages: int = 3) -> xr.Dataset:
    """Return mean losses by time and gap over equal parts of training: early, middle and late.

    Args:
        results: One run or many, with the group cells.
        stages: Number of parts; they are equal up to the steps between records.

    Returns:
        As `loss_cells`, with `stage` 0, 1, ... for `step`; coordinates `first_step` and `last_step` [run, stage].

    Raises:
        ValueError: no run has the group cells, or one has fewer records than stages.
    """
    parts = []
    for records in _runs(results):
        steps = records.step.values
        if not 1 <= stages < len(steps):
            raise invalid("stages", stages, f"1 to {len(steps) - 1}, the records after the first", "record more often")
        # the nearest record to each bound, and at least one record a stage
        ideal = np.linspace(steps[0], steps[-1], stages + 1)
        nearest = np.abs(steps[:, None] - ideal).argmin(0)
        low = np.arange(stages + 1)
        nearest = np.clip(nearest, low, len(steps) - 1 - low[::-1])
        part = _means(records, steps[nearest])
        last = part.step.values
        first = np.append(steps[0], last[:-1]) + 1
        part = part.assign_coords(first_step=("step", first), last_step=("step", last))
        parts.append(part.drop_vars("step").rename(step="stage").assign_coords(stage=np.arange(stages)))
    return xr.concat(parts, "run", coords="different", compat="equals")


def _runs(results: xr.DataTree) -> list[xr.Dataset]:
    """Return each run's own records, sums [run = 1, step, t_bin, gap_bin]."""
    ds = group(results, "cells")
    runs = []
    for i in range(ds.sizes["run"]):
        one = ds.isel(run=[i])
        known = one["count"].notnull().all([dim for dim in one["count"].dims if dim != "step"])
        runs.append(one.isel(step=known.values))
    return runs


def _means(records: xr.Dataset, bounds: Sequence[int]) -> xr.Dataset:
    """Return means over the rows between each two of the records at `bounds`."""
    sums = records.sel(step=bounds).diff("step")
    count = sums["count"]
    means = xr.Dataset({"count": count.assign_attrs(units="rows", long_name="number of training rows in the window")})
    for name in map(str, sums.data_vars):
        if name == "count":
            continue
        kept = count > 0
        if name == "du_dt_norm":
            kept = kept & (sums.gap_bin_high > 0)
        text = str(records[name].attrs.get("long_name", name)).split(", sum")[0]
        attrs = {"units": records[name].attrs.get("units", "1"), "long_name": f"{text}, mean over the rows of the window"}
        means[name] = (sums[name] / count).where(kept).assign_attrs(attrs)
    return means
