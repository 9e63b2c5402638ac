"""How noisy the gradients are, and what that noise does to cosines of batches of every size."""

import numpy as np
import xarray as xr

from dynamics.analysis.gradients.measurements import (
    ONE,
    SQUARED,
    Labels,
    finite_splits,
    over_measurements,
    split_gram,
    task_index,
)
from dynamics.analysis.run_groups import attribute
from dynamics.estimators import Floats, batch_cosines, split_noise
from dynamics.options import invalid

NOISE_LABELS: Labels = {
    "noise_scale": (ONE, "rows", "gradient noise scale"),
    "noise_scale_low": (ONE, "rows", "lower end of the noise scale's interval"),
    "noise_scale_high": (ONE, "rows", "upper end of the noise scale's interval"),
    "squared_norm": (ONE, SQUARED, "squared norm of the true gradient, unbiased"),
    "squared_norm_sem": (ONE, SQUARED, "standard error of the squared norm"),
    "covariance_trace": (ONE, SQUARED, "trace of the covariance of a single row's gradient"),
}
BATCH = ("group", "merged")
BATCH_LABELS: Labels = {
    "naive": (BATCH, "1", "cosine of gradients of the same split, biased"),
    "naive_sem": (BATCH, "1", "its standard error"),
    "independent": (BATCH, "1", "cosine of gradients of different splits, biased towards 0"),
    "independent_sem": (BATCH, "1", "its standard error"),
    "unbiased": (BATCH, "1", "cosine of the true gradients, unbiased products"),
    "unbiased_sem": (BATCH, "1", "its standard error"),
}


def noise_scale(results: xr.DataTree | xr.Dataset, group: str = "gram", level: float = 0.95) -> xr.Dataset:
    """Return the gradient noise scale of each task, in rows (GNS, 1812.06162, section 2.2).

    |G|^2 = S_ii, tr Sigma = n (mean_a |g^a|^2 - S_ii), B = tr Sigma / |G|^2: a batch of B rows has as much noise as
    signal in its squared gradient norm. The interval is that of log B (delete-one jackknife by its derivative,
    Student's t); for linear regression, measured as that of `affinity`, it covered 95-99%.

    Args:
        results: Results of one run or many, or the dataset of the group.
        group: gram or decomposition.
        level: Probability that an interval covers the truth.

    Returns:
        [run?, step?, group, task]: `noise_scale`, `noise_scale_low`, `noise_scale_high`, NaN where there is no signal
        (S_ii <= 0); `squared_norm`, `squared_norm_sem`, `covariance_trace`. The sketch's error of the squared norm is
        added to the interval.

    Raises:
        ValueError: As `affinity`; the rows per split are unknown.

    Example:
        >>> g = np.array([9.0, 10.0, 11.0])                                 # tr Sigma = 4 x 1, |G|^2 = 99.67
        >>> gram = np.multiply.outer(g, g).reshape(1, 1, 3, 1, 3)
        >>> content = {"gram": (("group", "task", "split", "task2", "split2"), gram)}
        >>> content["product_error"] = (("group", "task", "task2"), np.zeros((1, 1, 1)))
        >>> labels = {"group": ["model"], "task": ["v"], "task2": ["v"]}
        >>> found = noise_scale(xr.Dataset(content, labels, {"rows_per_split": 4}))
        >>> round(found.noise_scale.item(), 4), found.covariance_trace.item()
        (0.0401, 4.0)
    """
    ds = split_gram(results, group)

    def compute(gram: Floats, error: Floats, rows: Floats) -> dict[str, Floats]:
        splits = finite_splits(gram)
        return split_noise(gram[:, :, splits][..., splits], error, float(rows), level)

    out = over_measurements(ds, [ds.gram, ds.product_error, _rows_per_split(ds, group)], compute, NOISE_LABELS)
    return out.assign_attrs(level=level)


def cosine_by_batch(results: xr.DataTree | xr.Dataset, task: str, task2: str, group: str = "gram") -> xr.Dataset:
    """Return what the naive and the unbiased cosine of two tasks say at every batch size, from one measurement.

    Averaging m splits gives gradients of n m rows; K // m such batches are left. No new run is needed.

    Args:
        results: Results of one run or many, or the dataset of the group.
        task: A task.
        task2: Another.
        group: gram or decomposition.

    Returns:
        [run?, step?, group, merged] with merged = m = 1, 2, 4, ... and the coordinate `batch_size` = n m: `naive`, the
        cosine of the two gradients of a batch, whose rows are shared or not as the attribute `rows` says;
        `independent`, the cosine of gradients of different batches; `unbiased`; each the mean over disjoint batches,
        with `_sem`. NaN where too few batches are left: one for the last two, two for a standard error of theirs.

    Raises:
        ValueError: As `affinity`; a task is unknown; the rows per split are unknown.
    """
    ds = split_gram(results, group)
    pair = [*task_index(ds, [task], "task"), *task_index(ds, [task2], "task2")]
    rows = _rows_per_split(ds, group)
    sizes = 2 ** np.arange(int(np.log2(ds.sizes["split"])) + 1)

    def compute(gram: Floats) -> dict[str, Floats]:
        splits = finite_splits(gram)
        two = gram[:, pair][:, :, splits][:, :, :, pair][..., splits]
        each = [batch_cosines(two, int(m)) for m in sizes]
        return {name: np.stack([values[name] for values in each], -1) for name in BATCH_LABELS}

    batch_size = (rows * xr.DataArray(sizes, dims="merged")).assign_attrs(units="rows", long_name="rows of a batch")
    merged = ("merged", sizes, {"units": "1", "long_name": "splits averaged"})
    coords = {"merged": merged, "batch_size": batch_size.reset_coords(drop=True)}
    out = over_measurements(ds, [ds.gram], compute, BATCH_LABELS, coords)
    return out.assign_attrs(task=task, task2=task2)


def _rows_per_split(ds: xr.Dataset, group: str) -> xr.DataArray:
    """Return the rows of each split, [run?]."""
    one = ds if "run" in ds.dims else ds.expand_dims("run")
    values = [float(str(v)) if v is not None else np.nan for v in attribute(one, group, "rows_per_split")]
    if not np.isfinite(values).all():
        remedy = "pass the results as the instrument wrote them"
        raise invalid("rows_per_split", values, "the attribute rows_per_split of every run", remedy)
    rows = xr.DataArray(values, dims="run")
    return rows if "run" in ds.dims and len(set(values)) > 1 else rows[0]
