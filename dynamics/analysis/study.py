"""The runs of an experiment as one table: labels on its axes, and what came out."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from dynamics.analysis.affinity import affinity
from dynamics.analysis.comparison import relative_error, summary
from dynamics.analysis.runs import bin_edges, group, run_labels
from dynamics.options import invalid


def study(tree: xr.DataTree, axes: Sequence[str], role: str = "grid") -> pd.DataFrame:
    """Return one row a run: its labels and everything that one number can say of it.

    Args:
        tree: A merged file of an experiment (`dynamics.open_results`).
        axes: Names of the experiment's axes; labels become strings, `seed` stays a number.
        role: grid, or before for the runs that others start from.

    Returns:
        Index `run`. Columns: the axes; those of `summary`, Frechet distances also as `fd_u_nfe1`; first and last value
        of the series of the group gaps, `v_error_start`, `v_error_end`, and likewise of v_error_<low>-<high> (bins of
        t), u_error_<low>-<high> (bins of the gap) and one_step_error; from the group gram the unbiased cosines
        `cosine_v_<low>-<high>_start` and `_end`, and the naive ones (`naive_v_...`); from the group decomposition
        `cosine_forces_<low>-<high>_start`, `_end`.

    Raises:
        ValueError: An axis is not in the file.
    """
    labels = _labels(tree, axes)
    chosen = labels.index[labels["role"] == role] if "role" in labels else labels.index
    numbers = summary(tree)
    # under one name whatever the features: what a claim says holds for every scale
    plain = {name: re.sub(r"^fd_.+_(?=[uv]_nfe)", "fd_", str(name)) for name in numbers if str(name).startswith("fd_")}
    parts = [labels[list(axes)], numbers, numbers[list(plain)].rename(columns=plain)]
    if "gaps" in tree.children:
        parts.append(_error_ends(group(tree, "gaps")))
    if "gram" in tree.children:
        parts.append(_cosine_ends(tree))
    if "decomposition" in tree.children:
        parts.append(_force_ends(tree))
    table = pd.concat(parts, axis=1).reindex(chosen)
    table.index.name = "run"
    return table


def _labels(tree: xr.DataTree, axes: Sequence[str]) -> pd.DataFrame:
    table = pd.DataFrame(index=pd.Index(run_labels(tree), name="run"))
    for name in tree.children:
        ds = group(tree, str(name))
        runs = [str(run) for run in ds.run.values]
        for axis in (*axes, "role"):
            if axis in ds.coords and axis not in table:
                table[axis] = pd.Series(ds[axis].values, runs).reindex(table.index)
    missing = [axis for axis in axes if axis not in table]
    if missing:
        found = sorted({str(c) for name in tree.children for c in group(tree, str(name)).coords})
        raise invalid("axes", missing, ", ".join(found), "name axes of the experiment that made the file")
    for axis in axes:
        table[axis] = [label_text(value) for value in table[axis]] if axis != "seed" else table[axis].astype(float)
    return table


def label_text(value: object) -> str:
    """Return a label as the experiment spells it: a number that merging made a float loses its .0 again."""
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)


def _ends(values: xr.DataArray) -> dict[str, pd.Series]:
    """Return the first and the last finite value of every run of [run, step]."""
    table = values.transpose("run", "step").values
    known = np.isfinite(table)
    first, last = known.argmax(1), table.shape[1] - 1 - known[:, ::-1].argmax(1)
    runs, rows = [str(run) for run in values.run.values], np.arange(len(table))
    return {"start": pd.Series(table[rows, first], runs), "end": pd.Series(table[rows, last], runs)}


def _add(columns: dict[str, pd.Series], name: str, values: xr.DataArray) -> None:
    for end, series in _ends(values).items():
        columns[f"{name}_{end}"] = series


def _error_ends(ds: xr.Dataset) -> pd.DataFrame:
    columns: dict[str, pd.Series] = {}
    of_v = relative_error(ds, "v").relative_error
    _add(columns, "v_error", of_v.mean("t_bin"))
    for index, (low, high) in enumerate(bin_edges(ds, "t_bin")):
        _add(columns, f"v_error_{low:g}-{high:g}", of_v.isel(t_bin=index))
    _add(columns, "one_step_error", relative_error(ds, "one_step").relative_error)
    of_u = relative_error(ds, "u").relative_error
    for index, (low, high) in enumerate(bin_edges(ds, "gap_bin")):
        _add(columns, f"u_error_{low:g}-{high:g}", of_u.isel(gap_bin=index))
    return pd.DataFrame(columns)


def _cosine_ends(tree: xr.DataTree) -> pd.DataFrame:
    found = affinity(tree).sel(group="model")
    columns: dict[str, pd.Series] = {}
    for task in (str(name) for name in found.task.values if str(name) != "v"):
        pair = found.sel(task="v", task2=task)
        gap = task.removeprefix("u ")
        _add(columns, f"cosine_v_{gap}", pair.cosine)
        _add(columns, f"naive_v_{gap}", pair.naive_cosine)
    return pd.DataFrame(columns)


def _force_ends(tree: xr.DataTree) -> pd.DataFrame:
    found = affinity(tree, "decomposition").sel(group="model")
    columns: dict[str, pd.Series] = {}
    for task in (str(name) for name in found.task.values if str(name).startswith("matching ")):
        gap = task.removeprefix("matching ")
        _add(columns, f"cosine_forces_{gap}", found.cosine.sel(task=task, task2=f"consistency {gap}"))
    return pd.DataFrame(columns)
