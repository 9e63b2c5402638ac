"""Kernels on inner products of gradients: unbiased products, their spread, and cosines; plain arrays, no labels.

G[..., i, a, j, b] = <g_i^a, g_j^b>, where g_i^a is the gradient of task i on split a, [..., T, K, T, K]. Different
splits have independent rows, so only products of different splits say something unbiased about the true gradients.
Every kernel takes float64 and any leading dimensions.
"""

from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]

NUM_RESAMPLES = 2000
"""Bootstrap versions; the expanded interval at K = 8 then lies between the 11th values from either end."""


def products(gram: Floats) -> Floats:
    """Return the unbiased products of true gradients.

    S_ij = (<sum_a g_i^a, sum_b g_j^b> - sum_a <g_i^a, g_j^a>) / (K (K - 1)), the mean over pairs of different splits.

    Args:
        gram: [..., T, K, T, K], K >= 2.

    Returns:
        S [..., T, T].

    Example:
        >>> g = np.array([1.0, 3.0])                     # one task, two splits, gradients in one dimension
        >>> products(np.multiply.outer(g, g).reshape(1, 2, 1, 2))
        array([[3.]])
    """
    k = gram.shape[-1]
    return np.asarray((gram.sum((-3, -1)) - same_split(gram).sum(-1)) / (k * (k - 1)))


def delete_one(gram: Floats) -> Floats:
    """Return the products without each split in turn, all from one set of row and column sums.

    Args:
        gram: [..., T, K, T, K], K >= 3.

    Returns:
        [..., K, T, T]; entry c is `products` of the other splits.
    """
    k = gram.shape[-1]
    same = same_split(gram)
    both = gram.sum((-3, -1)) - same.sum(-1)
    involved = np.moveaxis(gram.sum(-1), -2, -1) + gram.sum(-3) - 2 * same  # pairs that split c is part of
    return np.asarray(np.moveaxis(both[..., None] - involved, -1, -3) / ((k - 1) * (k - 2)))


def bootstrap(gram: Floats, num: int = NUM_RESAMPLES, seed: int = 0) -> Floats:
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


def combine(gram: Floats, weights: Floats) -> Floats:
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


def row_products(gram: Floats, weights: Floats) -> Floats:
    """Return unbiased products of tasks that are weighted means over rows.

    S_ij = sum_{p != q} W_ip W_jq G_pq / sum_{p != q} W_ip W_jq.

    Args:
        gram: Inner products of the gradients of single independent rows, [..., N, N].
        weights: W >= 0, [T, N], for each pair of tasks with two different rows of weight.

    Returns:
        S [..., T, T].

    Example:
        >>> g = np.array([1.0, 3.0, 5.0])
        >>> row_products(np.multiply.outer(g, g), np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
        array([[ 3., 10.],
               [10., nan]])
    """
    pairs = _row_sums(np.ones(gram.shape[-2:]), weights)
    return np.asarray(_row_sums(gram, weights) / np.where(pairs > 0, pairs, np.nan))


def row_delete_one(gram: Floats, weights: Floats) -> Floats:
    """Return `row_products` without each row in turn, [..., N, T, T], in closed form."""
    ones = np.ones(gram.shape[-2:])
    pairs = _row_sums(ones, weights) - _involved(ones, weights)
    left = _row_sums(gram, weights)[..., None, :, :] - _involved(gram, weights)
    return np.asarray(left / np.where(pairs > 0, pairs, np.nan))


def _row_sums(gram: Floats, weights: Floats) -> Floats:
    """sum_{p != q} W_ip W_jq G_pq."""
    same = np.einsum("ip,...pp,jp->...ij", weights, gram, weights, optimize=True)
    return np.asarray(weights @ gram @ weights.T - same)


def _involved(gram: Floats, weights: Floats) -> Floats:
    """Sum of the terms of `_row_sums` that row p is part of, [..., N, T, T]."""
    reach = np.moveaxis(weights @ gram, -2, -1)  # sum_q W_jq G_qp, [..., N, T]
    own = np.einsum("...pp->...p", gram)[..., None] * weights.T
    mine = weights.T[:, :, None] * (reach - own)[..., None, :]
    return np.asarray(mine + np.swapaxes(mine, -1, -2))


def cosines(products: Floats) -> Floats:
    """Return S_ij / sqrt(S_ii S_jj), never clipped; NaN where S_ii <= 0 or S_jj <= 0: no signal."""
    norms = signal_norms(products)
    return np.asarray(products / (norms[..., :, None] * norms[..., None, :]))


def signal_norms(products: Floats) -> Floats:
    """Return sqrt(S_ii), NaN where S_ii <= 0, [..., T]."""
    powers = np.einsum("...ii->...i", products)
    return np.sqrt(np.where(powers > 0, powers, np.nan))


def cosine_changes(products: Floats, versions: Floats) -> Floats:
    """Return how the cosines change, to first order, when the products change to other versions of them.

    d cos = dS_ij / sqrt(S_ii S_jj) - cos / 2 (dS_ii / S_ii + dS_jj / S_jj). Linear in the versions, so that
    one in which a task has no signal does no harm.

    Args:
        products: [..., T, T].
        versions: [..., A, T, T].

    Returns:
        [..., A, T, T].
    """
    s = products[..., None, :, :]
    norms = signal_norms(s)
    change = versions - s
    own = np.einsum("...ii->...i", change) / norms**2
    cross = change / (norms[..., :, None] * norms[..., None, :])
    return np.asarray(cross - cosines(s) / 2 * (own[..., :, None] + own[..., None, :]))


def cosine_error(products: Floats, error: Floats) -> Floats:
    """Return the standard error of the cosines that comes from independent errors of the products, [..., T, T].

    On the diagonal it is 0. Errors of one sketch are positively correlated, so this is an upper bound for them.
    """
    norms = signal_norms(products)
    own = (np.einsum("...ii->...i", error) / norms**2) ** 2
    cross = (error / (norms[..., :, None] * norms[..., None, :])) ** 2
    out = np.sqrt(cross + cosines(products) ** 2 / 4 * (own[..., :, None] + own[..., None, :]))
    tasks = np.arange(out.shape[-1])
    out[..., tasks, tasks] *= 0
    return np.asarray(out)


def jackknife_sem(versions: Floats, axis: int = -3) -> Floats:
    """Return the standard error that delete-one versions give, sqrt((n - 1) / n sum (x_a - mean x)^2); NaN if n < 3."""
    n = versions.shape[axis]
    if n < 3:
        return np.full_like(versions.sum(axis), np.nan)
    away = versions - versions.mean(axis, keepdims=True)
    return np.asarray(np.sqrt((n - 1) / n * (away**2).sum(axis)))
