"""Every estimator against explicit loops."""

from collections.abc import Callable, Iterator
from itertools import permutations, product

import numpy as np
import pytest

from dynamics.estimators import cosine, intervals, over_rows, over_splits

T, K, D, N = 3, 5, 7, 9
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture
def g() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, T, K, D)) + 1.0


@pytest.fixture
def gram(g: np.ndarray) -> np.ndarray:
    return np.einsum("giad,gjbd->giajb", g, g)


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((N, D)) + 0.4


@pytest.fixture
def weights() -> np.ndarray:
    w = np.random.default_rng(2).uniform(0, 2, (T, N))
    w[0, :4] = 0
    w[2] = np.arange(N) < 2
    return w


def pairs(entries: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    return permutations(entries, 2)


def brute_products(g: np.ndarray, splits: tuple[int, ...]) -> np.ndarray:
    """Gradients [T, K, D]; mean over ordered pairs of different entries of `splits`."""
    out = np.zeros((len(g), len(g)))
    for i, j in product(range(len(g)), repeat=2):
        out[i, j] = np.mean([g[i, a] @ g[j, b] for a, b in pairs(splits) if a != b])
    return out


def brute_rows(rows: np.ndarray, w: np.ndarray, left_out: int | None = None) -> np.ndarray:
    used = [p for p in range(len(rows)) if p != left_out]
    out = np.full((len(w), len(w)), np.nan)
    for i, j in product(range(len(w)), repeat=2):
        total = sum(w[i, p] * w[j, q] * (rows[p] @ rows[q]) for p, q in pairs(tuple(used)))
        count = sum(w[i, p] * w[j, q] for p, q in pairs(tuple(used)))
        out[i, j] = total / count if count else np.nan
    return out


def test_products(g: np.ndarray, gram: np.ndarray) -> None:
    expected = [brute_products(each, tuple(range(K))) for each in g]
    np.testing.assert_allclose(over_splits.split_products(gram), expected, **CLOSE)


def test_products_without_splits(g: np.ndarray, gram: np.ndarray) -> None:
    for c in range(K):
        expected = [brute_products(each, tuple(a for a in range(K) if a != c)) for each in g]
        np.testing.assert_allclose(over_splits.products_without_splits(gram)[:, c], expected, **CLOSE)


def test_bootstrap(g: np.ndarray, gram: np.ndarray) -> None:
    found = over_splits.bootstrap_products(gram, num=40, seed=3)
    draws = np.random.default_rng(3).multinomial(K, np.full(K, 1 / K), size=40)
    for b, counts in enumerate(draws):
        drawn = tuple(np.repeat(np.arange(K), counts))
        expected = [brute_products(each, drawn) for each in g]
        np.testing.assert_allclose(found[:, b], expected, **CLOSE)


def test_bootstrap_leaves_out_resamples_of_one_split(gram: np.ndarray) -> None:
    two = gram[:, :, :2, :, :2]
    found = over_splits.bootstrap_products(two, num=200)
    assert 0 < found.shape[1] < 200
    np.testing.assert_allclose(found, np.broadcast_to(over_splits.split_products(two)[:, None], found.shape), **CLOSE)


def test_combine_tasks(g: np.ndarray, gram: np.ndarray) -> None:
    w = np.random.default_rng(4).standard_normal((2, T))
    mixed = np.stack([w @ g[:, :, a] for a in range(K)], 2)
    np.testing.assert_allclose(over_splits.combine_tasks(gram, w), np.einsum("giad,gjbd->giajb", mixed, mixed), **CLOSE)


def test_merge_splits(g: np.ndarray, gram: np.ndarray) -> None:
    merged = np.stack([g[:, :, :2].mean(2), g[:, :, 2:4].mean(2)], 2)
    np.testing.assert_allclose(
        over_splits.merge_splits(gram, 2), np.einsum("giad,gjbd->giajb", merged, merged), **CLOSE
    )


def test_pair_cosines(g: np.ndarray, gram: np.ndarray) -> None:
    found = over_splits.pair_cosines(gram)
    for i, a, j, b in product(range(T), range(K), range(T), range(K)):
        x, y = g[1, i, a], g[1, j, b]
        assert found[1, i, a, j, b] == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-10)


def test_same_split(g: np.ndarray, gram: np.ndarray) -> None:
    for i, j, a in product(range(T), range(T), range(K)):
        assert over_splits.same_split(gram)[0, i, j, a] == pytest.approx(g[0, i, a] @ g[0, j, a], abs=1e-10)


def test_row_products(rows: np.ndarray, weights: np.ndarray) -> None:
    np.testing.assert_allclose(over_rows.row_products(rows @ rows.T, weights), brute_rows(rows, weights), **CLOSE)


def test_products_without_rows(rows: np.ndarray, weights: np.ndarray) -> None:
    found = over_rows.products_without_rows(rows @ rows.T, weights)
    for p in range(N):
        np.testing.assert_allclose(found[p], brute_rows(rows, weights, p), **CLOSE)
    assert np.isnan(found[0, 2, 2])  # a task of two rows has no pair left


def test_rows_of_equal_weight_are_splits(rows: np.ndarray) -> None:
    gram = rows @ rows.T
    ones = np.ones((1, N))
    np.testing.assert_allclose(
        over_rows.row_products(gram, ones), over_splits.split_products(gram[None, :, None]), **CLOSE
    )
    np.testing.assert_allclose(
        over_rows.products_without_rows(gram, ones), over_splits.products_without_splits(gram[None, :, None]), **CLOSE
    )


def test_cosine_changes_are_the_derivative(gram: np.ndarray) -> None:
    s, left_out = over_splits.split_products(gram), over_splits.products_without_splits(gram)
    h = 1e-6
    step = h * (left_out - s[:, None])
    expected = (cosine.cosines(s[:, None] + step) - cosine.cosines(s[:, None] - step)) / (2 * h)
    np.testing.assert_allclose(cosine.cosine_changes(s, left_out), expected, atol=1e-7)


def test_cosine_error_is_the_delta_method(gram: np.ndarray) -> None:
    s = over_splits.split_products(gram)[0]
    error = np.abs(np.random.default_rng(5).standard_normal((T, T)))
    error = 1e-3 * (error + error.T)
    i, j = 0, 2
    variance, h = 0.0, 1e-6
    for a, b in ((i, j), (i, i), (j, j)):
        moved = s.copy()
        moved[a, b] += h
        variance += ((cosine.cosines(moved) - cosine.cosines(s))[i, j] / h * error[a, b]) ** 2
    assert cosine.cosine_error(s, error)[i, j] == pytest.approx(variance**0.5, rel=1e-4)
    assert (np.diag(cosine.cosine_error(s, error)) == 0).all()


def test_cosines_are_nan_without_signal_and_never_clipped() -> None:
    s = np.array([[1.0, 1.3, 0.2], [1.3, 1.0, 0.2], [0.2, 0.2, -0.1]])
    found = cosine.cosines(s)
    assert found[0, 1] == 1.3
    assert np.isnan(found[2]).all()
    assert np.isnan(found[:, 2]).all()
    assert np.isnan(cosine.cosines(np.zeros((1, 1))))


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    x = np.random.default_rng(6).standard_normal(7)
    without = (x.sum() - x) / 6
    assert intervals.jackknife_sem(without, axis=0) == pytest.approx(x.std(ddof=1) / 7**0.5)
    assert np.isnan(intervals.jackknife_sem(without[:2], axis=0))


@pytest.mark.parametrize(
    "estimate",
    [
        over_splits.split_products,
        over_splits.bootstrap_products,
        over_splits.products_without_splits,
        over_splits.pair_cosines,
    ],
)
def test_a_missing_task_stays_alone(estimate: Callable[[np.ndarray], np.ndarray], gram: np.ndarray) -> None:
    broken = gram.copy()
    broken[:, 1] = np.nan
    broken[:, :, :, 1] = np.nan
    if estimate is over_splits.pair_cosines:
        whole, left = estimate(gram)[:, [0, 2]][:, :, :, [0, 2]], estimate(broken)[:, [0, 2]][:, :, :, [0, 2]]
    else:
        whole, left = estimate(gram)[..., [0, 2], :][..., [0, 2]], estimate(broken)[..., [0, 2], :][..., [0, 2]]
    np.testing.assert_allclose(left, whole, **CLOSE)
