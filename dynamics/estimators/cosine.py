"""Cosines from unbiased products: never clipped, NaN without signal, with their standard errors to first order."""

import numpy as np

from dynamics.estimators.intervals import Floats


def cosines(products: Floats) -> Floats:
    """Return S_ij / sqrt(S_ii S_jj) [..., T, T], never clipped; NaN where S_ii <= 0 or S_jj <= 0: no signal."""
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
        products: S [..., T, T].
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


def cosine_interval(products: Floats, sem: Floats, quantile: Floats) -> dict[str, Floats]:
    """Return the cosines, their ends at quantile times the standard error, that error, and the products.

    Args:
        products: S [..., T, T].
        sem: Standard error of the cosines, [..., T, T].
        quantile: How many standard errors the interval reaches to either side.
    """
    cosine, half = cosines(products), quantile * sem
    ends = {"cosine_low": cosine - half, "cosine_high": cosine + half}
    return {"cosine": cosine, **ends, "cosine_sem": sem, "product": products}
