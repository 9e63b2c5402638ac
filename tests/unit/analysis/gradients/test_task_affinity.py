"""Affinity, noise scale, update and batch curves against explicit vectors; merged runs; errors by name."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from synthetic_grams import TASKS, cosine, dataset, gradients, plain, row_dataset, times, training_dataset, unbiased

from dynamics.analysis import affinity, affinity_table, cosine_by_batch, noise_scale, update_cosine
from dynamics.store import collect, write_run


def jackknife(x: np.ndarray, y: np.ndarray) -> float:
    """Standard error by first-order delete-one changes, one loop over splits."""
    k, c = len(x), cosine(x, y)
    changes = []
    for a in range(k):
        p, q = np.delete(x, a, 0), np.delete(y, a, 0)
        xy, xx, yy = unbiased(x, y), unbiased(x, x), unbiased(y, y)
        change = (unbiased(p, q) - xy) / (xx * yy) ** 0.5
        changes.append(change - c / 2 * ((unbiased(p, p) - xx) / xx + (unbiased(q, q) - yy) / yy))
    return float(np.sqrt((k - 1) / k * np.sum((np.array(changes) - np.mean(changes)) ** 2)))


def test_affinity_by_hand() -> None:
    g = gradients()
    found = affinity(dataset(g)).sel(group="blocks.0", task="v", task2="u 0.3-0.5")
    x, y = g[1, 0], g[1, 2]
    splits = range(len(x))
    different = list(permutations(splits, 2))
    assert float(found.cosine) == pytest.approx(cosine(x, y), abs=1e-10)
    assert float(found["product"]) == pytest.approx(unbiased(x, y), abs=1e-10)
    sem = jackknife(x, y)
    assert float(found.cosine_sem) == pytest.approx(sem, abs=1e-10)
    half = stats.t.ppf(0.975, 5) * sem
    assert float(found.cosine_low) == pytest.approx(cosine(x, y) - half, abs=1e-10)
    assert float(found.cosine_high) == pytest.approx(cosine(x, y) + half, abs=1e-10)
    assert bool(found.significant) == (abs(cosine(x, y)) > half)
    assert float(found.naive_cosine) == pytest.approx(np.mean([plain(x[a], y[a]) for a in splits]), abs=1e-10)
    independent = np.mean([plain(x[a], y[b]) for a, b in different])
    assert float(found.naive_independent) == pytest.approx(independent, abs=1e-10)
    conflict = np.mean([x[a] @ y[b] < 0 for a, b in different])
    assert float(found.conflict_share) == pytest.approx(conflict, abs=1e-10)
    a, b = x[:3], x[3:]
    own = a.mean(0) @ b.mean(0) / (unbiased(a, a) * unbiased(b, b)) ** 0.5
    assert float(found.self_cosine) == pytest.approx(own, abs=1e-10)
    assert int(found.num_splits) == 6


def test_the_table_says_why_two_splits_have_no_interval() -> None:
    table = affinity_table(dataset(gradients()[:, :, :2]))
    assert "[no interval of so few splits]" in table
    assert "nan" not in table
    assert "no interval" not in affinity_table(dataset(gradients()))


def test_product_sem_by_hand() -> None:
    g = gradients()
    found = affinity(dataset(g, error=0.3)).sel(group="model", task="v", task2="u 0.1-0.3")
    without = np.array([unbiased(np.delete(g[0, 0], a, 0), np.delete(g[0, 1], a, 0)) for a in range(6)])
    sem = np.sqrt(5 / 6 * np.sum((without - without.mean()) ** 2))
    assert float(found.product_sem) == pytest.approx(np.hypot(sem, 0.3))


@pytest.mark.parametrize("interval", ["jackknife", "bootstrap"])
def test_sketch_error_widens_intervals_in_quadrature(interval: str) -> None:
    g = gradients()
    exact, sketched = (affinity(dataset(g, error), interval=interval) for error in (0.0, 0.5))
    np.testing.assert_array_equal(exact.cosine, sketched.cosine)
    where = {"group": "model", "task": "v", "task2": "u 0.1-0.3"}
    extra = np.sqrt(sketched.cosine_sem**2 - exact.cosine_sem**2).sel(where)
    assert extra > 0.01
    quantile = stats.t.ppf(0.975, 5)
    for end in ("cosine_low", "cosine_high"):
        before, after = (float(abs(ds[end] - ds.cosine).sel(where)) for ds in (exact, sketched))
        assert after == pytest.approx(np.hypot(before, quantile * float(extra)))


def test_bootstrap_percentiles() -> None:
    data = dataset(gradients(splits=8))
    jack, boot = affinity(data), affinity(data, interval="bootstrap")
    np.testing.assert_array_equal(jack.cosine, boot.cosine)
    off = ~np.eye(4, dtype=bool)
    ratio = ((boot.cosine_high - boot.cosine_low) / (jack.cosine_high - jack.cosine_low)).values[:, off]
    assert ((ratio > 0.5) & (ratio < 2)).all()
    narrow = affinity(data, interval="bootstrap", level=0.5)
    assert (narrow.cosine_high <= boot.cosine_high).all()
    assert (narrow.cosine_low >= boot.cosine_low).all()
    xr.testing.assert_identical(boot, affinity(data, interval="bootstrap"))


def test_symmetries() -> None:
    g = gradients()
    found = affinity(dataset(g))
    shuffled = affinity(dataset(g[:, :, [3, 0, 5, 1, 4, 2]])).drop_vars(["self_cosine"])
    xr.testing.assert_allclose(found.drop_vars(["self_cosine"]), shuffled)
    scaled = affinity(dataset(g * np.array([1.0, 3.0, 0.2, 1.0])[:, None, None]))
    for name in ("cosine", "cosine_low", "cosine_high", "naive_cosine", "naive_independent", "conflict_share"):
        np.testing.assert_allclose(scaled[name], found[name], rtol=1e-9, atol=1e-12)
        symmetric = found[name].transpose("group", "task2", "task").values
        np.testing.assert_allclose(found[name], symmetric, rtol=1e-9, atol=1e-12)
    turned = affinity(dataset(g * np.array([1.0, -1.0, 1.0, 1.0])[:, None, None])).sel(task="v", task2="u 0.1-0.3")
    np.testing.assert_allclose(turned.cosine, -found.cosine.sel(task="v", task2="u 0.1-0.3"))


def test_without_noise_everything_is_exact() -> None:
    g = gradients(noise=0.0)
    found = affinity(dataset(g)).sel(group="model", task="v", task2="u 0.5-0.7")
    expected = plain(g[0, 0, 0], g[0, 3, 0])
    for name in ("cosine", "cosine_low", "cosine_high", "naive_cosine", "naive_independent"):
        assert float(found[name]) == pytest.approx(expected, abs=1e-7)
    assert float(found.self_cosine) == pytest.approx(1)


def test_few_splits() -> None:
    two, three = (affinity(dataset(gradients(splits=k))) for k in (2, 3))
    assert np.isfinite(two.cosine).all()
    for name in ("cosine_sem", "cosine_low", "cosine_high", "product_sem", "self_cosine"):
        assert np.isnan(two[name]).all()
    assert not two.significant.any()
    assert np.isfinite(three.cosine_low).all()
    assert np.isnan(three.self_cosine).all()
    assert np.isnan(affinity(dataset(gradients(splits=2)), interval="bootstrap").cosine_low).all()


def test_no_signal_is_nan() -> None:
    g = gradients()
    g[0, 2] = np.kron(np.array([[1.0], [-1.0]]), np.ones((3, 12)))  # opposite splits: S_ii < 0
    found = affinity(dataset(g)).sel(group="model")
    assert found.signal.values.tolist() == [True, True, False, True]
    assert np.isnan(found.cosine.sel(task="u 0.3-0.5")).all()
    assert not found.significant.sel(task="u 0.3-0.5").any()
    assert np.isfinite(found["product"]).all()
    noise = noise_scale(dataset(g)).sel(group="model", task="u 0.3-0.5")
    assert np.isnan(noise.noise_scale)
    assert noise.squared_norm < 0


def test_update_cosine_by_hand() -> None:
    g = gradients()
    weights = {"v": 2.0, "u 0.5-0.7": 0.5}
    update = 2 * g[0, 0] + 0.5 * g[0, 3]
    found = update_cosine(dataset(g), weights).sel(group="model")
    for i, name in enumerate(TASKS):
        here = found.sel(task=name)
        assert float(here.cosine) == pytest.approx(cosine(g[0, i], update), abs=1e-10)
        assert float(here.cosine_sem) == pytest.approx(jackknife(g[0, i], update), abs=1e-10)
    equal = update_cosine(dataset(g)).sel(group="model", task="v")
    assert float(equal.cosine) == pytest.approx(cosine(g[0, 0], g[0].sum(0)), abs=1e-10)
    assert (update_cosine(dataset(g, error=0.5)).cosine_sem > update_cosine(dataset(g)).cosine_sem).all()


def test_noise_scale_by_hand() -> None:
    g = gradients()
    found = noise_scale(dataset(g)).sel(group="model", task="u 0.1-0.3")
    x = g[0, 1]
    signal, variance = unbiased(x, x), float(((x - x.mean(0)) ** 2).sum() / 5)
    assert float(found.squared_norm) == pytest.approx(signal, abs=1e-10)
    assert float(found.covariance_trace) == pytest.approx(32 * variance, abs=1e-8)
    assert float(found.noise_scale) == pytest.approx(32 * variance / signal)
    changes = []
    for a in range(6):
        left = np.delete(x, a, 0)
        s, v = unbiased(left, left), float(((left - left.mean(0)) ** 2).sum() / 4)
        changes.append((v - variance) / variance - (s - signal) / signal)  # of log B
    sem = np.sqrt(5 / 6 * np.sum((np.array(changes) - np.mean(changes)) ** 2))
    factor = np.exp(stats.t.ppf(0.975, 5) * sem)
    assert float(found.noise_scale_low) == pytest.approx(32 * variance / signal / factor)
    assert float(found.noise_scale_high) == pytest.approx(32 * variance / signal * factor)
    wide = noise_scale(dataset(g, error=0.5)).sel(group="model", task="u 0.1-0.3")
    assert wide.noise_scale_high > found.noise_scale_high
    scaled = noise_scale(dataset(5 * g))
    np.testing.assert_allclose(scaled.noise_scale, noise_scale(dataset(g)).noise_scale)


def test_cosine_by_batch_by_hand() -> None:
    g = gradients(splits=9)
    found = cosine_by_batch(dataset(g), "v", "u 0.3-0.5").sel(group="model")
    assert found.batch_size.values.tolist() == [32, 64, 128, 256]
    for m in (1, 2, 4, 8):
        x, y = (g[0, i, : 9 // m * m].reshape(9 // m, m, -1).mean(1) for i in (0, 2))
        here, k = found.sel(merged=m), 9 // m
        same = [plain(x[a], y[a]) for a in range(k)]
        assert float(here.naive) == pytest.approx(np.mean(same), abs=1e-10)
        if k == 1:
            assert np.isnan([here.naive_sem, here.independent, here.unbiased]).all()
            continue
        assert float(here.naive_sem) == pytest.approx(np.std(same, ddof=1) / k**0.5, abs=1e-10)
        different = np.mean([plain(x[a], y[b]) for a, b in permutations(range(k), 2)])
        assert float(here.independent) == pytest.approx(different, abs=1e-10)
        assert float(here.unbiased) == pytest.approx(cosine(x, y), abs=1e-10)
        if k == 2:
            assert np.isnan([here.independent_sem, here.unbiased_sem]).all()
        else:
            assert float(here.unbiased_sem) == pytest.approx(jackknife(x, y), abs=1e-10)
            assert here.independent_sem > 0


def test_steps_are_measured_one_by_one() -> None:
    ds = training_dataset()
    found, noise, update = affinity(ds), noise_scale(ds), update_cosine(ds)
    assert found.cosine.dims == ("step", "group", "task", "task2")
    for step in (0, 100, 200):
        one = dataset(gradients(step))
        np.testing.assert_allclose(found.sel(step=step).cosine_low, affinity(one).cosine_low)
        np.testing.assert_allclose(noise.sel(step=step).noise_scale, noise_scale(one).noise_scale)
        np.testing.assert_allclose(update.sel(step=step).cosine, update_cosine(one).cosine)


@pytest.fixture
def merged(tmp_path: Path) -> xr.DataTree:
    """Two runs that differ in splits, steps, rows and tasks."""
    one = training_dataset()
    few = training_dataset((0, 50), splits=4).isel(task=[0, 1, 3], task2=[0, 1, 3]).assign_attrs(rows_per_split=16)
    files = []
    for name, ds in (("one", one), ("few", few)):
        write_run(tmp_path / f"{name}.nc", {"gram": ds}, {"run_id": name})
        files.append(tmp_path / f"{name}.nc")
    return collect(files)


def test_merged_runs_say_what_each_alone_says(merged: xr.DataTree) -> None:
    one, few = training_dataset(), training_dataset((0, 50), splits=4)
    together = affinity(merged)
    assert together.task.values.tolist() == TASKS
    assert together.num_splits.sel(run="few", step=50) == 4
    assert np.isnan(together.cosine.sel(run="few", step=200)).all()
    assert np.isnan(together.cosine.sel(run="few", task="u 0.3-0.5")).all()
    assert not together.signal.sel(run="few", step=200).any()
    for run, step, alone, tasks in (("one", 100, one, TASKS), ("few", 50, few, ["v", "u 0.1-0.3", "u 0.5-0.7"])):
        where = {"task": tasks, "task2": tasks, "group": ["model", "blocks.0"]}
        expected, found = affinity(alone).sel(step=step, **where), together.sel(run=run, step=step, **where)
        for name in ("cosine", "cosine_low", "naive_cosine", "self_cosine", "conflict_share"):
            np.testing.assert_allclose(found[name], expected[name], err_msg=f"{run} {name}")
    noise = noise_scale(merged).sel(run="few", step=50, task="v", group="model")
    assert float(noise.noise_scale) == pytest.approx(
        float(noise_scale(few).sel(step=50, task="v", group="model").noise_scale) / 2
    )
    sizes = cosine_by_batch(merged, "v", "u 0.1-0.3").batch_size
    assert sizes.sel(run="few").values.tolist() == [16, 32, 64]
    assert sizes.sel(run="one").values.tolist() == [32, 64, 128]
    three = few.sel(task=["v", "u 0.1-0.3", "u 0.5-0.7"], task2=["v", "u 0.1-0.3", "u 0.5-0.7"])
    found = update_cosine(merged).sel(run="few", step=50, group="model")
    expected = update_cosine(three).sel(step=50, group="model", task="v")
    assert float(found.cosine.sel(task="v")) == pytest.approx(float(expected.cosine))
    assert np.isnan(found.cosine.sel(task="u 0.3-0.5"))
    # a weight for a task that the run has not measured: its update is unknown
    weighted = update_cosine(merged, {"v": 1, "u 0.3-0.5": 1})
    assert np.isnan(weighted.cosine.sel(run="few")).all()
    assert np.isfinite(weighted.cosine.sel(run="one", step=100)).all()


def test_one_run_as_a_tree(tmp_path: Path) -> None:
    write_run(tmp_path / "run.nc", {"gram": training_dataset()}, {"run_id": "a"})
    found = affinity(collect([tmp_path / "run.nc"]))
    assert found.run.values.tolist() == ["a"]
    np.testing.assert_allclose(found.cosine.sel(run="a"), affinity(training_dataset()).cosine)


def test_errors_name_what_is_wrong() -> None:
    ds, (rows, _) = dataset(gradients()), row_dataset(*times())
    cases = [
        (lambda: affinity(xr.DataTree()), r"the group gram; remedy: dynamics probe DIR"),
        (lambda: affinity(rows), r"variables of gram: .*product_error; remedy: dynamics probe DIR"),
        (lambda: affinity(dataset(gradients(splits=1))), r"split: received 1; allowed: at least 2 splits"),
        (lambda: affinity(ds.where(ds.split == 0)), r"split: received 1; allowed: at least 2 splits"),
        (lambda: affinity(ds, interval="normal"), r"interval: received 'normal'; allowed: jackknife or bootstrap"),
        (lambda: affinity(ds, level=95), r"level: received 95; allowed: 0 < level < 1"),
        (lambda: cosine_by_batch(ds, "w", "v"), r"task: received 'w'; allowed: v, u 0.1-0.3, u 0.3-0.5, u 0.5-0.7"),
        (lambda: cosine_by_batch(ds, "v", "w"), r"task2: received 'w'; allowed: v, "),
        (lambda: update_cosine(ds, {"w": 1.0}), r"weights: received 'w'; allowed: v, "),
        (lambda: update_cosine(ds, {"v": 0.0}), r"weights: received .*one of them not 0"),
        (lambda: noise_scale(dataset(gradients(), rows_per_split=None)), r"rows_per_split: received \[nan\]"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
