"""Affinity over any partition of (t, r), chosen after the measurement, from the Gram of single rows."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import xarray as xr

from dynamics.analysis.gradients.measurements import ONE, PAIR, Labels, over_measurements, row_gram
from dynamics.analysis.gradients.task_affinity import COSINE_LABELS, judged
from dynamics.estimators import Floats, row_affinity
from dynamics.options import check_edges, invalid

ROW_AFFINITY_LABELS: Labels = {
    **COSINE_LABELS,
    "naive_cosine": (PAIR, "1", "cosine of the mean gradients of the tasks' rows, biased"),
    "self_cosine": (ONE, "1", "cosine of a gradient with itself over two halves of the rows, expected 1"),
    "num_rows": (("task",), "rows", "effective number of rows, (sum of weights)^2 / sum of squared weights"),
}


def affinity_of_rows(
    results: xr.DataTree | xr.Dataset,
    gap_edges: Sequence[float] | None = None,
    t_edges: Sequence[float] | None = None,
    weights: xr.DataArray | None = None,
    group: str = "gram_rows",
    level: float = 0.95,
) -> xr.Dataset:
    """Return the cosine of the true gradients of v and of u in gap bins, or of any weighted means over rows.

    S_ij = sum_{p != q} W_ip W_jq G_pq / sum_{p != q} W_ip W_jq, with W the bins' members, or weights: a kernel in
    (t, t - r) gives an affinity that is smooth in both. Intervals are those of the delete-one jackknife over rows, with
    Student's t at the smaller of the two tasks' numbers of rows. For linear regression they covered 96-99% at 48 and 96
    rows a task, and more where rows are so few that a task often shows no signal.

    Args:
        results: Results of one run or many, or the dataset of the group.
        gap_edges: Edges of the bins of the gap t - r; a bin holds its lower edge, the last one both. The task v is
            the r = t rows.
        t_edges: Edges of bins of t that every task is divided by; bins that a gap cannot reach are left out.
        weights: [task, row] (also by run and step), nonnegative, instead of edges; labels of `task` name the tasks.
        group: The group.
        level: Probability that an interval covers the truth.

    Returns:
        As `affinity`, without what needs splits; `naive_cosine`: of the mean gradients of all rows; `num_rows` [task].

    Raises:
        ValueError: No such group; edges do not increase; not one of edges and weights; a task of fewer than two rows.

    Example:
        >>> t, r = np.array([0.5, 0.9, 0.7, 0.9]), np.array([0.5, 0.9, 0.4, 0.7])
        >>> g = np.array([[1.0, 0.1], [1.0, -0.1], [1.0, 1.1], [1.0, 0.9]])
        >>> content = {"gram": (("group", "row", "row2"), (g @ g.T)[None]), "t": ("row", t), "r": ("row", r)}
        >>> ds = xr.Dataset(content, {"group": ["model"]})
        >>> found = affinity_of_rows(ds, gap_edges=(0.1, 0.5)).sel(group="model", task="v")
        >>> found.task2.values.tolist(), found.cosine.values.round(3).tolist()
        (['v', 'u 0.1-0.5'], [1.0, 0.712])
    """
    if (gap_edges is None) == (weights is None) or (t_edges is not None and gap_edges is None):
        given = {"gap_edges": gap_edges, "t_edges": t_edges, "weights": weights}
        received = [name for name, value in given.items() if value is not None]
        raise invalid("tasks", received, "gap_edges, gap_edges and t_edges, or weights", "pass one of the three")
    ds = row_gram(results, group)
    if weights is None:
        weights = row_bins(ds, tuple(gap_edges or ()), t_edges if t_edges is None else tuple(t_edges))
    else:
        weights = _checked(ds, weights)
    weights = weights.transpose(..., "task", "row")

    def compute(gram: Floats, w: Floats) -> dict[str, Floats]:
        rows = np.isfinite(gram).any((0, 2))  # joined runs may have fewer rows
        _check_counts(w[:, rows], weights.task.values)
        return row_affinity(gram[:, rows][..., rows], w[:, rows], level)

    coords = {**{n: c for n, c in weights.coords.items() if c.dims == ("task",)}, "task2": weights.task.values}
    bare = ds.drop_vars([name for name, c in ds.coords.items() if "row" in c.dims or "row2" in c.dims])
    out = over_measurements(bare, [ds.gram, weights], compute, ROW_AFFINITY_LABELS, coords)
    return judged(out.assign_attrs(level=level))


def row_bins(ds: xr.Dataset, gap_edges: tuple[float, ...], t_edges: tuple[float, ...] | None) -> xr.DataArray:
    """Return which rows belong to v and to each gap bin, weights [..., task, row] of 0 and 1.

    Args:
        ds: With `t` and `gap` [..., row].
        gap_edges: As in `affinity_of_rows`.
        t_edges: As there.
    """
    check_edges("gap_edges", gap_edges)
    if t_edges is not None:
        check_edges("t_edges", t_edges)
    bins, members = list(_bins(gap_edges, t_edges)), []
    for _, low, high, t_low, t_high in bins:
        gap = ds.gap == 0 if high == 0 else _inside(ds.gap.where(ds.gap > 0), low, high, high == gap_edges[-1])
        t = _inside(ds.t, t_low, t_high, t_edges is None or t_high == t_edges[-1])
        members.append(gap & t)
    names, lows, highs, *_ = zip(*bins, strict=True)
    stacked = xr.concat(members, dim=xr.DataArray(list(names), dims="task", name="task")).astype(np.float64)
    return stacked.assign_coords(gap_low=("task", list(lows)), gap_high=("task", list(highs)))


def _bins(
    gap_edges: tuple[float, ...], t_edges: tuple[float, ...] | None
) -> Iterator[tuple[str, float, float, float, float]]:
    """Yield name, gap range and time range of each task; v has the gap range 0 to 0."""
    for low, high in [(0.0, 0.0), *pairwise(gap_edges)]:
        name = "v" if high == 0 else f"u {low:g}-{high:g}"
        if t_edges is None:
            yield name, low, high, 0.0, 1.0
            continue
        for t_low, t_high in pairwise(t_edges):
            if t_high > low or high == 0:
                yield f"{name} t {t_low:g}-{t_high:g}", low, high, t_low, t_high


def _inside(values: xr.DataArray, low: float, high: float, closed: bool) -> xr.DataArray:
    return (values >= low) & ((values <= high) if closed else (values < high))


def _checked(ds: xr.Dataset, weights: xr.DataArray) -> xr.DataArray:
    allowed = f"finite numbers >= 0 [task, row] for {ds.sizes['row']} rows"
    if not {"task", "row"} <= set(weights.dims) or "task" not in weights.coords:
        raise invalid("weights", weights.dims, allowed, "give the array the dimensions task (with labels) and row")
    if weights.sizes["row"] != ds.sizes["row"] or not (np.isfinite(weights) & (weights >= 0)).all():
        remedy = "compute them from t and r of the group; 0 leaves a row out"
        raise invalid("weights", f"{weights.sizes['row']} rows from {float(weights.min())}", allowed, remedy)
    return weights.astype(np.float64)


def _check_counts(weights: Floats, names: Sequence[object]) -> None:
    for name, count in zip(names, (weights > 0).sum(1), strict=True):
        if count < 2:
            remedy = "choose wider bins, or measure more rows"
            raise invalid(f"rows of {name}", int(count), "at least 2 rows in every bin", remedy)
