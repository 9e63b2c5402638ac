"""Labels around the estimators: stored groups of gradients made clean, and estimators applied to every measurement."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from dynamics.analysis.run_groups import group_or_dataset
from dynamics.estimators import Floats
from dynamics.options import invalid

LEAD = ("run", "step")
"""Dimensions that one measurement does not have."""

Labels = Mapping[str, tuple[tuple[str, ...], str, str]]
"""Dimensions, unit and long name by variable."""
PAIR, ONE = ("group", "task", "task2"), ("group", "task")
SQUARED = "squared gradient norm"


def split_gram(results: xr.DataTree | xr.Dataset, name: str) -> xr.Dataset:
    """Return a group with gradient products over splits, without the labels that merging left empty.

    Args:
        results: A tree, or the group itself.
        name: The group.

    Returns:
        `gram` [run?, step?, group, task, split, task2, split2], with v in front, tasks and splits that are nowhere
        measured left out; `product_error` [run?, step?, group, task, task2].

    Raises:
        ValueError: The group is missing or holds no such products; fewer than two splits.
    """
    ds = _opened(results, name, ("gram", "product_error"), ("task", "split"))
    known = np.isfinite(ds.gram)
    task, split = (known.any([d for d in known.dims if d != dim]).values for dim in ("task", "split"))
    if split.sum() < 2:
        remedy = "measure again with num_splits of 8 or more: one split says nothing about the true gradients"
        raise invalid("split", int(split.sum()), "at least 2 splits", remedy)
    gaps = {name: _once(ds[name]) for name in ("gap_low", "gap_high") if name in ds.coords}
    ds = ds.assign_coords(gaps).isel(task=task, task2=task, split=split, split2=split)
    if "gap_high" in ds.coords:  # joining runs with other bins sorts the labels
        order = np.argsort(ds.gap_high.values > 0, kind="stable")
        ds = ds.isel(task=order, task2=order)
    order_of = (*(d for d in LEAD if d in ds.dims), "group", "task", "split", "task2", "split2")
    return ds.transpose(*order_of, missing_dims="ignore")


def row_gram(results: xr.DataTree | xr.Dataset, name: str) -> xr.Dataset:
    """Return a group with gradient products of single rows: `gram` [run?, step?, group, row, row2], `t`, `r`, `gap`.

    Raises:
        ValueError: The group is missing or holds no such products.
    """
    ds = _opened(results, name, ("gram", "t", "r"), ("row",))
    return ds.assign(gap=ds.t - ds.r).transpose(*(d for d in LEAD if d in ds.dims), "group", "row", "row2")


def over_measurements(
    ds: xr.Dataset,
    arrays: Sequence[xr.DataArray],
    compute: Callable[..., dict[str, Floats]],
    labels: Labels,
    coords: Mapping[Any, Any] | None = None,
) -> xr.Dataset:
    """Apply a function of arrays to every run and step, and label what it returns.

    Args:
        ds: Where the dimensions run and step and coordinates come from.
        arrays: What the function takes, without run and step; those that lack run or step are the same for all.
        compute: From arrays to arrays by name; not called where the first array is all NaN.
        labels: Of every name.
        coords: More coordinates.

    Returns:
        One variable a name, NaN where nothing was measured.
    """
    lead = tuple(dim for dim in LEAD if dim in ds.dims)
    shape = tuple(ds.sizes[dim] for dim in lead)
    found: dict[tuple[int, ...], dict[str, Floats]] = {}
    for index in np.ndindex(shape):
        here = dict(zip(lead, index, strict=True))
        values = [array.isel({d: i for d, i in here.items() if d in array.dims}).values for array in arrays]
        if np.isfinite(values[0]).any():
            found[index] = compute(*values)
    if not found:
        raise invalid("gram", "NaN everywhere", "at least one finite measurement", "measure again with dynamics probe")
    first = next(iter(found.values()))
    variables = {}
    for name, (dims, units, text) in labels.items():
        full = np.full((*shape, *np.shape(first[name])), np.nan)
        for index, results in found.items():
            full[index] = results[name]
        variables[name] = ((*lead, *dims), full, {"units": units, "long_name": text})
    used = {dim for dims, _, _ in variables.values() for dim in dims}
    kept = {name: c for name, c in ds.coords.items() if set(c.dims) <= used}
    return xr.Dataset(variables, {**kept, **(coords or {})}, ds.attrs)


def task_index(ds: xr.Dataset, names: Sequence[str], what: str) -> list[int]:
    """Return the positions of tasks.

    Raises:
        ValueError: A task is unknown.
    """
    known = [str(task) for task in ds.task.values]
    for name in names:
        if name not in known:
            raise invalid(what, name, ", ".join(known), "name one of the measured tasks")
    return [known.index(name) for name in names]


def finite_splits(gram: Floats) -> list[int]:
    """Return the splits that one measurement [group, T, K, T, K] has; runs may have fewer than the merged ones."""
    return [int(i) for i in np.flatnonzero(np.isfinite(gram).any((0, 1, 3, 4)))]


def _opened(
    results: xr.DataTree | xr.Dataset, name: str, needed: tuple[str, ...], twins: tuple[str, ...]
) -> xr.Dataset:
    ds = group_or_dataset(results, name, needed)
    for dim in twins:
        if dim in ds.coords:  # both ends of a product in the same order
            ds = ds.sel({f"{dim}2": ds[dim].values})
    return ds


def _once(coordinate: xr.DataArray) -> xr.DataArray:
    """Return a task's number where merged runs repeat it."""
    return coordinate.max([dim for dim in coordinate.dims if dim != "task"])
