"""The runs of an experiment as one table: labels on its axes, and what came out."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from dynamics.analysis.figure_style import check_known
from dynamics.analysis.gradients.task_affinity import affinity
from dynamics.analysis.report.summary_table import FLOOR, relative_error, summary
from dynamics.analysis.run_groups import bin_edges, group, run_labels
from dynamics.analysis.studies.claims import is_ratio
from dynamics.options import invalid

GAP_PAIRS = {"gram": ("v", "u "), "decomposition": ("matching {}", "consistency ")}
"""Of each group the two tasks of a bin of gaps."""
ESTIMATED = {"naive_cosine": "naive", "naive_independent": "independent", "cosine": "unbiased"}
"""Estimates of a cosine by the variable of `affinity` that holds them."""
LATE = 0.75
"""Share of a run from which on its measurements are late: the mean of several is less noisy than the last one."""
LARGE_GAP = 0.7
"""Gaps from here on are those of samples in one step."""


def study(tree: xr.DataTree, axes: Sequence[str], role: str = "grid") -> pd.DataFrame:
    """Return one row a run: its labels and everything that one number can say of it.

    Args:
        tree: A merged file of an experiment (`dynamics.open_results`).
        axes: Names of the experiment's axes; labels become strings, `seed` stays a number.
        role: grid, or before for the runs that others start from.

    Returns:
        Index `run`. Columns: the axes; those of `summary`, Frechet distances (FID too) also as `fd_u_nfe1`, and less
        the distance of the population's own samples `excess_fd_u_nfe1` (see `_excess`); first and
        last value of the series of the group gaps, `v_error_start`, `v_error_end`, and the mean over the last quarter
        of training (of logs, `LATE`), `v_error_late`; likewise of v_error_<low>-<high> (bins of t), u_error and
        u_error_from_0.7 (means over bins of the gap), u_error_<low>-<high>, and one_step_error; from the group
        gram the unbiased cosines `cosine_v_<low>-<high>_start` and `_end`, and the naive ones (`naive_v_...`); from the
        group decomposition `cosine_forces_<low>-<high>_start`, `_end`, `_late`.

    Raises:
        ValueError: An axis is not in the file.
    """
    labels, tree = _chosen(tree, axes, role)
    numbers = summary(tree)
    # under one name whatever the features: what a claim says holds for every scale
    distances = [str(name) for name in numbers if str(name).startswith(("fd_", "fid_"))]
    plain = {name: re.sub(r"^(fd|fid)_.+_(?=[uv]_nfe)", "fd_", name) for name in distances}
    parts = [labels[list(axes)], numbers, numbers[list(plain)].rename(columns=plain), _excess(numbers, plain)]
    ends = {
        f"{name}_{end}": s
        for name, series in _series(tree).items()
        for end, s in (_ends(series) | {"late": _late(series, is_ratio(name))}).items()
    }
    parts.append(pd.DataFrame(ends))
    table = pd.concat(parts, axis=1).reindex(labels.index)
    table.index.name = "run"
    return table


def _excess(numbers: pd.DataFrame, distances: Mapping[str, str]) -> pd.DataFrame:
    """Return Frechet distances less that of the population's own samples; NaN where there is no such floor.

    Logs are taken of it, and a run whose samples are as good as the population's may lie below: no run is dropped, for
    those are not just any. A difference smaller than what one draw of the population's samples varies by (its standard
    deviation) counts as that much, which makes a ratio nearer to one than it is.
    """
    out = {}
    for name, plain in distances.items():
        extractor, at = re.fullmatch(r"fi?d_(.+)_[uv]_nfe\d+(.*)", name).groups()  # type: ignore[union-attr]
        nothing = pd.Series(np.nan, numbers.index)
        floor, least = (numbers.get(f"{FLOOR}fd_{extractor}{end}{at}", nothing) for end in ("", "_std"))
        out[f"excess_{plain}"] = (numbers[name] - floor).clip(lower=least)
    return pd.DataFrame(out, numbers.index)


def _series(tree: xr.DataTree) -> dict[str, xr.DataArray]:
    """Return every quantity [run, step] that says something of a run while it trains."""
    out: dict[str, xr.DataArray] = {}
    if "gaps" in tree.children and "v_error" in group(tree, "gaps"):
        out |= _errors(group(tree, "gaps"))
    if "gram" in tree.children:
        pairs = gap_cosines(tree, "gram")
        for gap in map(str, pairs.bin.values):
            out[f"cosine_v_{gap}"] = pairs.unbiased.sel(bin=gap)
            out[f"naive_v_{gap}"] = pairs.naive.sel(bin=gap)
    if "decomposition" in tree.children:
        pairs = gap_cosines(tree, "decomposition")
        out |= {f"cosine_forces_{gap}": pairs.unbiased.sel(bin=gap) for gap in map(str, pairs.bin.values)}
    return out


def gap_cosines(tree: xr.DataTree, source: str) -> xr.Dataset:
    """Return the cosines of the two tasks of each bin of gaps: `naive`, `independent`, `unbiased` [run, step, bin].

    Args:
        tree: Results with that group.
        source: gram for v and u, decomposition for the two forces in u's gradient.
    """
    check_known("source", source, tuple(GAP_PAIRS))
    one, other = GAP_PAIRS[source]
    found = affinity(tree, source).sel(group="model", drop=True)
    gaps = [name.removeprefix(other) for name in map(str, found.task.values) if name.startswith(other)]
    found = found.drop_vars([name for name in found.coords if name not in found.dims])
    found = found[list(ESTIMATED)].rename(ESTIMATED)
    parts: list[xr.Dataset] = [found.sel(task=one.format(gap), task2=other + gap, drop=True) for gap in gaps]
    return xr.concat(parts, xr.DataArray(gaps, dims="bin", name="bin"), coords="minimal", compat="override")


def grid_labels(tree: xr.DataTree, axes: Sequence[str], role: str = "grid") -> pd.DataFrame:
    """Return a row a run with a role: its labels on the axes."""
    labels = _labels(tree, axes)
    return labels[labels["role"] == role] if "role" in labels else labels


def _chosen(tree: xr.DataTree, axes: Sequence[str], role: str) -> tuple[pd.DataFrame, xr.DataTree]:
    """Return labels and results of the runs with a role."""
    labels = grid_labels(tree, axes, role)
    groups = {}
    for name in map(str, tree.children):
        ds = group(tree, name)
        there = [str(run) in labels.index for run in ds.run.values]
        if any(there):
            groups[f"/{name}"] = ds.isel(run=there)
    return labels, xr.DataTree.from_dict({"/": xr.Dataset(attrs=tree.attrs), **groups})


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


def _late(values: xr.DataArray, logs: bool) -> pd.Series:
    """Return the mean over what was measured in the last quarter of every run of [run, step], of logs or as it is."""
    table = values.transpose("run", "step").values.astype(float)
    last = np.where(np.isfinite(table), values.step.values, -np.inf).max(1)
    late = np.where(values.step.values >= LATE * last[:, None], table, np.nan)
    frame = pd.DataFrame(late, [str(run) for run in values.run.values])
    return np.exp(np.log(frame).mean(axis=1)) if logs else frame.mean(axis=1)


def _errors(ds: xr.Dataset) -> dict[str, xr.DataArray]:
    of_v, of_u = (relative_error(ds, what).relative_error for what in ("v", "u"))
    out = {"v_error": of_v.mean("t_bin"), "one_step_error": relative_error(ds, "one_step").relative_error}
    large = [low >= LARGE_GAP for low, _ in bin_edges(ds, "gap_bin")]
    out["u_error"] = of_u.mean("gap_bin")
    if any(large):
        out[f"u_error_from_{LARGE_GAP:g}"] = of_u.isel(gap_bin=large).mean("gap_bin")
    for name, values, dim in (("v_error", of_v, "t_bin"), ("u_error", of_u, "gap_bin")):
        for index, (low, high) in enumerate(bin_edges(ds, dim)):
            out[f"{name}_{low:g}-{high:g}"] = values.isel({dim: index}, drop=True)
    return out
