"""Affinity over bins and weights of single rows, against explicit vectors."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from synthetic_grams import plain, row_dataset, times, unbiased

from dynamics.analysis import affinity_of_rows
from dynamics.analysis.gradients.affinity_by_rows import row_bins


def test_affinity_of_rows_by_hand() -> None:
    t, r = times()
    ds, g = row_dataset(t, r)
    found = affinity_of_rows(ds, gap_edges=(0.1, 0.3, 0.45)).sel(group="model")
    assert found.task.values.tolist() == ["v", "u 0.1-0.3", "u 0.3-0.45"]
    assert found.gap_high.values.tolist() == [0, 0.3, 0.45]
    gap = t - r
    members = [gap == 0, (gap >= 0.1) & (gap < 0.3), gap >= 0.3]
    assert found.num_rows.values.tolist() == [m.sum() for m in members]
    s = np.array([[_mean_product(g, p, q) for q in members] for p in members])
    for i in range(3):
        for j in range(3):
            assert found["product"].values[i, j] == pytest.approx(s[i, j], abs=1e-10)
            assert found.cosine.values[i, j] == pytest.approx(s[i, j] / np.sqrt(s[i, i] * s[j, j]), abs=1e-10)
    p, q = (g[m] for m in members[:2])
    assert found.naive_cosine.values[0, 1] == pytest.approx(plain(p.mean(0), q.mean(0)), abs=1e-10)
    assert found.conflict_share.values[0, 1] == pytest.approx((p @ q.T < 0).mean())
    a, b = p[::2], p[1::2]
    own = a.mean(0) @ b.mean(0) / np.sqrt(unbiased(a, a) * unbiased(b, b))
    assert found.self_cosine.values[0] == pytest.approx(own)
    half = (found.cosine_high - found.cosine).values[0, 1] / found.cosine_sem.values[0, 1]
    assert half == pytest.approx(stats.t.ppf(0.975, min(len(p), len(q)) - 1))


def _mean_product(g: np.ndarray, p: np.ndarray, q: np.ndarray) -> float:
    return float(np.mean([g[a] @ g[b] for a in np.flatnonzero(p) for b in np.flatnonzero(q) if a != b]))


def test_row_bins_by_time() -> None:
    t, r = times()
    ds, g = row_dataset(t, r)
    found = affinity_of_rows(ds, gap_edges=(0.1, 0.45), t_edges=(0.1, 0.75, 1.0)).sel(group="model")
    assert found.task.values.tolist() == ["v t 0.1-0.75", "v t 0.75-1", "u 0.1-0.45 t 0.1-0.75", "u 0.1-0.45 t 0.75-1"]
    expected = _mean_product(g, (t == r) & (t < 0.75), (t > r) & (t >= 0.75))
    assert float(found["product"].sel(task="v t 0.1-0.75", task2="u 0.1-0.45 t 0.75-1")) == pytest.approx(expected)
    # gaps above 0.1 do not fit below t = 0.1: no such task, rather than an empty one
    reached = row_bins(ds.assign(gap=ds.t - ds.r), (0.1, 0.45), (0.05, 0.1, 1.0))
    assert reached.task.values.tolist() == ["v t 0.05-0.1", "v t 0.1-1", "u 0.1-0.45 t 0.1-1"]


def test_edges_belong_to_the_bin_above_and_the_last_one_to_the_last() -> None:
    gap = np.array([0.0, 0.125, 0.25, 0.5, 0.75])
    t = np.array([1.0, 1.0, 0.5, 1.0, 1.0])
    ds, _ = row_dataset(t, t - gap)
    bins = row_bins(ds.assign(gap=ds.t - ds.r), (0.0, 0.25, 0.5), None)
    assert bins.values.astype(int).tolist() == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 1, 0]]
    timed = row_bins(ds.assign(gap=ds.t - ds.r), (0.25, 0.5), (0.25, 0.5, 1.0))
    assert timed.sel(task="u 0.25-0.5 t 0.25-0.5").values.tolist() == [0, 0, 0, 0, 0]
    assert timed.sel(task="u 0.25-0.5 t 0.5-1").values.tolist() == [0, 0, 1, 1, 0]


def test_row_weights_are_bins_made_smooth() -> None:
    t, r = times()
    ds, _ = row_dataset(t, r)
    bins = affinity_of_rows(ds, gap_edges=(0.1, 0.45))
    hard = xr.DataArray(np.stack([t == r, t > r]).astype(float), {"task": ["v", "u"]}, ("task", "row"))
    np.testing.assert_allclose(affinity_of_rows(ds, weights=3 * hard).cosine_low, bins.cosine_low)
    near = xr.concat([np.exp(-(((ds.t - ds.r - c) / 0.05) ** 2)) for c in (0.2, 0.22)], "task")
    smooth = affinity_of_rows(ds, weights=near.assign_coords(task=["0.2", "0.22"]))
    assert float(smooth.cosine.sel(group="model", task="0.2", task2="0.22")) > 0.9


def test_joined_rows() -> None:
    t, r = times()
    ds, _ = row_dataset(t, r)
    fewer, _ = row_dataset(t[5:30], r[5:30], seed=1)
    both = xr.concat(
        [ds, fewer], xr.DataArray(["a", "b"], dims="run", name="run"), join="outer", data_vars="all", coords="minimal"
    )
    found = affinity_of_rows(both, gap_edges=(0.1, 0.3, 0.45))
    for run, alone in (("a", ds), ("b", fewer)):
        expected = affinity_of_rows(alone, gap_edges=(0.1, 0.3, 0.45))
        for name in ("cosine", "cosine_low", "num_rows", "self_cosine"):
            np.testing.assert_allclose(found[name].sel(run=run), expected[name])


def test_errors_name_what_is_wrong() -> None:
    t, r = times()
    rows, _ = row_dataset(t, r)
    cases = [
        (lambda: affinity_of_rows(xr.DataTree(), (0.1, 0.5)), r"the group gram_rows; remedy: dynamics probe DIR"),
        (lambda: affinity_of_rows(rows, (0.5, 0.1)), r"gap_edges: received \(0.5, 0.1\)"),
        (lambda: affinity_of_rows(rows, (0.1, 0.4), (1.0, 0.5)), r"t_edges: received \(1.0, 0.5\)"),
        (lambda: affinity_of_rows(rows, (0.1, 0.4, 0.5, 0.9)), r"rows of u 0.5-0.9: received 0; allowed: at least 2"),
        (lambda: affinity_of_rows(rows), r"tasks: received \[\]"),
        (lambda: affinity_of_rows(rows, weights=rows.t), r"weights: .*dimensions task"),
        (lambda: affinity_of_rows(rows, weights=-_weights(t)), r"weights: received '40 rows from -1.0'"),
        (
            lambda: affinity_of_rows(rows, (0.1, 0.4), weights=_weights(t)),
            r"tasks: .*, 'weights'\]",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


def _weights(t: np.ndarray) -> xr.DataArray:
    return xr.DataArray(np.ones((1, len(t))), {"task": ["all"]}, ("task", "row"))
