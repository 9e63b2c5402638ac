"""Unbiased products and cosines of tasks' true gradients, from gradients of independent splits of rows.

G[..., i, a, j, b] = <g_i^a, g_j^b>, where g_i^a is the gradient of task i on split a, [..., T, K, T, K]. Different
splits have independent rows, so only products of different splits say something unbiased about the true gradients.
"""

from typing import Literal

import numpy as np
from scipy import stats

from dynamics.estimators.cosine import cosine_changes, cosine_error, cosine_interval, cosines, signal_norms
from dynamics.estimators.intervals import Floats, jackknife_sem, t_quantile
from dynamics.options import invalid

IntervalKind = Literal["jackknife", "bootstrap"]
NUM_RESAMPLES = 2000
"""Bootstrap versions; the expanded interval at K = 8 then lies between the 11th values from either end."""


def split_products(gram: Floats) -> Floats:
    """Return the unbiased products of true gradients.

    S_ij = (<sum_a g_i^a, sum_b g_j^b> - sum_a <g_i^a, g_j^a>) / (K (K - 1)), the mean over pairs of different splits.

    Args:
        gram: [..., T, K, T, K].

    Returns:
        S [..., T, T]; NaN if K = 1.

    Example:
        >>> g = np.array([1.0, 3.0])                     # one task, two splits, gradients in one dimension
        >>> split_products(np.multiply.outer(g, g).reshape(1, 2, 1, 2))
        array([[3.]])
    """
    k = gram.shape[-1]
    return np.asarray((gram.sum((-3, -1)) - same_split(gram).sum(-1)) / (k * (k - 1) or np.nan))


def products_without_splits(gram: Floats) -> Floats:
    """Return the products without each split in turn, all from one set of row and column sums.

    Args:
        gram: [..., T, K, T, K].

    Returns:
        [..., K, T, T]; entry c is `split_products` of the other splits, NaN if K < 3.
    """
    k = gram.shape[-1]
    same = same_split(gram)
    both = gram.sum((-3, -1)) - same.sum(-1)
    involved = np.moveaxis(gram.sum(-1), -2, -1) + gram.sum(-3) - 2 * same  # pairs that split c is part of
    return np.asarray(np.moveaxis(both[..., None] - involved, -1, -3) / ((k - 1) * (k - 2) or np.nan))


def bootstrap_products(gram: Floats, num: int = NUM_RESAMPLES, seed: int = 0) -> Floats:
    """Return the products of resampled splits.

    With w_a the number of times split a was drawn, S = sum_{a != b} w_a w_b G_ab / sum_{a != b} w_a w_b: a split drawn
    twice is never paired with itself, which would bring the bias back.

    Args:
        gram: [..., T, K, T, K], K >= 2.
        num: Resamples; those with a single split in them are left out.
        seed: The same seed draws the same splits.

    Returns:
        [..., B, T, T], B <= num.
    """
    k = gram.shape[-1]
    w = np.random.default_rng(seed).multinomial(k, np.full(k, 1 / k), size=num).astype(np.float64)
    pairs = k**2 - (w**2).sum(1)
    w, pairs = w[pairs > 0], pairs[pairs > 0]
    # splits a in front of tasks: one matrix product sums over both
    flat = np.moveaxis(gram, (-3, -1), (-2, -1)).reshape(*gram.shape[:-4], -1, k * k)
    total = flat @ (w[:, :, None] * w[:, None, :]).reshape(len(w), k * k).T
    same = same_split(gram).reshape(*gram.shape[:-4], -1, k) @ (w**2).T
    tasks = gram.shape[-2]
    return np.asarray(np.moveaxis((total - same) / pairs, -1, -2).reshape(*gram.shape[:-4], len(w), tasks, tasks))


def same_split(gram: Floats) -> Floats:
    """Return <g_i^a, g_j^a>, [..., T, T, K]."""
    return np.asarray(np.einsum("...iaja->...ija", gram))


def combine_tasks(gram: Floats, weights: Floats) -> Floats:
    """Return the Gram of linear combinations of tasks, sum_i weights[n, i] g_i: [..., N, K, N, K]."""
    return np.asarray(np.einsum("ni,...iajb,mj->...namb", weights, gram, weights, optimize=True))


def merge_splits(gram: Floats, num: int) -> Floats:
    """Return the Gram of gradients averaged over `num` splits at a time; splits that are left over are not used.

    Example:
        >>> g = np.array([1.0, 3.0, 5.0])
        >>> merge_splits(np.multiply.outer(g, g).reshape(1, 3, 1, 3), 2)
        array([[[[4.]]]])
    """
    tasks, k = gram.shape[-2], gram.shape[-1] // num
    used = gram[..., : k * num, :, : k * num]
    return np.asarray(used.reshape(*gram.shape[:-4], tasks, k, num, tasks, k, num).mean((-4, -1)))


def pair_cosines(gram: Floats) -> Floats:
    """Return the cosine of every two gradients as they are, [..., T, K, T, K]: the naive cosines."""
    norms = np.sqrt(np.einsum("...iaia->...ia", gram))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(gram / (norms[..., :, :, None, None] * norms[..., None, None, :, :]))


def split_affinity(
    gram: Floats, error: Floats, interval: IntervalKind = "jackknife", level: float = 0.95
) -> dict[str, Floats]:
    """Return what K splits say of the cosines of T tasks' true gradients; `dynamics.analysis.affinity` explains each.

    Args:
        gram: [..., T, K, T, K].
        error: Standard errors of the products that a sketch made, [..., T, T]; 0 for exact ones.
        interval: Where intervals come from.
        level: Probability that an interval covers the truth.

    Returns:
        `cosine`, `cosine_low`, `cosine_high`, `cosine_sem`, `product`, `product_sem`, `conflict_share`,
        `naive_cosine`, `naive_independent` [..., T, T], `self_cosine` [..., T] and `num_splits`.

    Raises:
        ValueError: An unknown interval or level.
    """
    if interval not in ("jackknife", "bootstrap"):
        raise invalid("interval", interval, "jackknife or bootstrap", "use jackknife, which covers at every K >= 3")
    k = gram.shape[-1]
    s, left_out, naive = split_products(gram), products_without_splits(gram), pair_cosines(gram)
    quantile, sketched = t_quantile(level, k - 1), cosine_error(s, error)
    out = cosine_interval(s, np.hypot(jackknife_sem(cosine_changes(s, left_out)), sketched), quantile)
    if interval == "bootstrap":
        low, high = _percentiles(cosines(bootstrap_products(gram)), k, level)
        extra = quantile * sketched
        out["cosine_low"] = out["cosine"] - np.hypot(out["cosine"] - low, extra)
        out["cosine_high"] = out["cosine"] + np.hypot(high - out["cosine"], extra)
    return {
        **out,
        "product_sem": np.hypot(jackknife_sem(left_out), error),
        "conflict_share": split_products(np.where(np.isfinite(gram), gram < 0, np.nan)),
        "naive_cosine": same_split(naive).mean(-1),
        "naive_independent": split_products(naive),
        "self_cosine": _self_cosine(gram),
        "num_splits": np.array(float(k)),
    }


def _self_cosine(gram: Floats) -> Floats:
    """<mean_A, mean_B> / sqrt(S_ii^A S_ii^B) for two halves A, B of the splits, [..., T]; NaN if K < 4."""
    half = gram.shape[-1] // 2
    if half < 2:
        return np.full(gram.shape[:-3], np.nan)
    a, b = slice(half), slice(half, None)
    first, second = (signal_norms(split_products(gram[..., part, :, part])) for part in (a, b))
    between = np.einsum("...iaib->...i", gram[..., a, :, b]) / (half * (gram.shape[-1] - half))
    return np.asarray(between / (first * second))


def _percentiles(versions: Floats, k: int, level: float) -> tuple[Floats, Floats]:
    """Return percentiles of bootstrap versions [..., B, T, T], at the level Phi(-+ sqrt(K / (K - 1)) t(K - 1))."""
    if k < 3:
        empty = np.full(versions[..., 0, :, :].shape, np.nan)
        return empty, empty
    tail = stats.norm.cdf(-np.sqrt(k / (k - 1)) * t_quantile(level, k - 1))
    sorted_versions = np.sort(versions, axis=-3)  # NaN, resamples without signal, come last
    known = np.isfinite(sorted_versions).sum(-3, keepdims=True)
    last = np.maximum(known - 1, 0)
    ends = [np.rint(p * last).astype(int) for p in (tail, 1 - tail)]
    low, high = (np.take_along_axis(sorted_versions, end, axis=-3).squeeze(-3) for end in ends)
    return low, high
