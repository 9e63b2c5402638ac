"""How noisy gradients are, and what that noise does to cosines of batches."""

import numpy as np

from dynamics.estimators.cosine import cosine_changes, cosines
from dynamics.estimators.intervals import Floats, jackknife_sem, mean_sem, t_quantile
from dynamics.estimators.over_splits import (
    merge_splits,
    pair_cosines,
    products_without_splits,
    same_split,
    split_products,
)


def split_noise(gram: Floats, error: Floats, rows: float, level: float = 0.95) -> dict[str, Floats]:
    """Return what K splits say of each task's gradient noise; `dynamics.analysis.noise_scale` explains each.

    Args:
        gram: [..., T, K, T, K].
        error: Standard errors of the products that a sketch made, [..., T, T]; 0 for exact ones.
        rows: Rows of a split.
        level: Probability that an interval covers the truth.

    Returns:
        `noise_scale`, `noise_scale_low`, `noise_scale_high`, `squared_norm`, `squared_norm_sem`, `covariance_trace`,
        [..., T].
    """
    k = gram.shape[-1]
    norms = np.einsum("...iaia->...ai", gram)
    signal, own_error = (np.einsum("...ii->...i", values) for values in (split_products(gram), error))
    noise = norms.mean(-2) - signal  # of a split's gradient; the trace of a sample covariance, so never negative
    known = np.where(signal > 0, signal, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):  # no noise: nothing to go by
        scale, slope = rows * noise / known, 1 / noise + 1 / known  # slope of log B against the signal
        relative = (norms.sum(-2, keepdims=True) - norms) / (k - 1 or np.nan) / noise[..., None, :]
    signals = np.einsum("...ii->...i", products_without_splits(gram))
    with np.errstate(over="ignore", invalid="ignore"):  # next to no signal: the interval ends at infinity
        spread = jackknife_sem(relative - signals * slope[..., None, :], axis=-2)
        factor = np.exp(t_quantile(level, k - 1) * np.hypot(spread, slope * own_error))
    return {
        "noise_scale": scale,
        "noise_scale_low": scale / factor,
        "noise_scale_high": scale * factor,
        "squared_norm": signal,
        "squared_norm_sem": np.hypot(jackknife_sem(signals, axis=-2), own_error),
        "covariance_trace": rows * noise,
    }


def batch_cosines(gram: Floats, num: int) -> dict[str, Floats]:
    """Return the cosine of two tasks over batches of `num` splits; `dynamics.analysis.cosine_by_batch` explains each.

    Args:
        gram: [..., 2, K, 2, K].
        num: Splits averaged into a batch; K // num batches are left.

    Returns:
        `naive`, `independent`, `unbiased` and their `_sem` [...], NaN where too few batches are left.
    """
    gram = merge_splits(gram, num)
    s, each = split_products(gram), pair_cosines(gram)
    same = same_split(each)
    found = {
        "naive": same.mean(-1) if gram.shape[-1] else np.full_like(s, np.nan),
        "naive_sem": mean_sem(same),
        "independent": split_products(each),
        "independent_sem": jackknife_sem(products_without_splits(each)),
        "unbiased": cosines(s),
        "unbiased_sem": jackknife_sem(cosine_changes(s, products_without_splits(gram))),
    }
    return {name: values[..., 0, 1] for name, values in found.items()}
