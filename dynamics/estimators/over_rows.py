"""Unbiased products and cosines of tasks that are weighted means over single rows."""

import numpy as np

from dynamics.estimators.cosine import cosine_changes, cosine_interval, cosines, signal_norms
from dynamics.estimators.intervals import Floats, jackknife_sem, t_quantile


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
    pairs = _pair_sums(np.ones(gram.shape[-2:]), weights)
    return np.asarray(_pair_sums(gram, weights) / np.where(pairs > 0, pairs, np.nan))


def products_without_rows(gram: Floats, weights: Floats) -> Floats:
    """Return `row_products` without each row in turn, [..., N, T, T], in closed form."""
    ones = np.ones(gram.shape[-2:])
    pairs = _pair_sums(ones, weights) - _involved(ones, weights)
    left = _pair_sums(gram, weights)[..., None, :, :] - _involved(gram, weights)
    return np.asarray(left / np.where(pairs > 0, pairs, np.nan))


def row_affinity(gram: Floats, weights: Floats, level: float = 0.95) -> dict[str, Floats]:
    """Return what N rows say of the cosines of T tasks; `dynamics.analysis.affinity_of_rows` explains each.

    Args:
        gram: [..., N, N].
        weights: W >= 0, [T, N].
        level: Probability that an interval covers the truth.

    Returns:
        `cosine`, `cosine_low`, `cosine_high`, `cosine_sem`, `product`, `product_sem`, `conflict_share`,
        `naive_cosine` [..., T, T], `self_cosine` [..., T] and `num_rows` [T].
    """
    s, left_out = row_products(gram, weights), products_without_rows(gram, weights)
    num_rows = weights.sum(1) ** 2 / (weights**2).sum(1)
    dof = np.minimum(num_rows[:, None], num_rows) - 1
    return {
        **cosine_interval(s, jackknife_sem(cosine_changes(s, left_out)), t_quantile(level, dof)),
        "product_sem": jackknife_sem(left_out),
        "conflict_share": row_products(np.where(np.isfinite(gram), gram < 0, np.nan), weights),
        "naive_cosine": cosines(weights @ gram @ weights.T),
        "self_cosine": _self_cosine(gram, weights),
        "num_rows": num_rows,
    }


def _pair_sums(gram: Floats, weights: Floats) -> Floats:
    """sum_{p != q} W_ip W_jq G_pq."""
    same = np.einsum("ip,...pp,jp->...ij", weights, gram, weights, optimize=True)
    return np.asarray(weights @ gram @ weights.T - same)


def _involved(gram: Floats, weights: Floats) -> Floats:
    """Sum of the terms of `_pair_sums` that row p is part of, [..., N, T, T]."""
    reach = np.moveaxis(weights @ gram, -2, -1)  # sum_q W_jq G_qp, [..., N, T]
    own = np.einsum("...pp->...p", gram)[..., None] * weights.T
    mine = weights.T[:, :, None] * (reach - own)[..., None, :]
    return np.asarray(mine + np.swapaxes(mine, -1, -2))


def _self_cosine(gram: Floats, weights: Floats) -> Floats:
    """Return the cosine of each task's mean gradients over two halves of its rows, [..., T]."""
    first = np.where((np.cumsum(weights > 0, axis=1) % 2) == 1, weights, 0)
    second = weights - first
    norms = [signal_norms(row_products(gram, half)) for half in (first, second)]
    between = np.einsum("ip,...pq,iq->...i", first, gram, second, optimize=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(between / (first.sum(1) * second.sum(1)) / (norms[0] * norms[1]))
