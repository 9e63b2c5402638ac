"""Standard errors and Student's t: how sure a mean or a jackknifed number is."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from dynamics.options import invalid

Floats = np.ndarray[Any, np.dtype[np.float64]]


def t_quantile(level: float, dof: ArrayLike) -> Any:
    """Return the two-sided quantile of Student's t; NaN without a degree of freedom.

    Raises:
        ValueError: The level is no probability strictly between 0 and 1.

    Example:
        >>> round(float(t_quantile(0.95, 7)), 3)
        2.365
    """
    if not 0 < level < 1:
        raise invalid("level", level, "0 < level < 1", "for example 0.95")
    return stats.t.ppf((1 + level) / 2, dof)


def holm(p_values: ArrayLike) -> Floats:
    """Return p-values that hold for all of a family (Holm 1979): the i-th smallest of m times m - i + 1, kept rising.

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    out = np.empty_like(p)
    out[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return out


def mean_sem(values: Floats, axis: int = -1) -> Floats:
    """Return the standard error of the mean of independent values along an axis; NaN if there are fewer than two."""
    n = values.shape[axis]
    return np.asarray(np.sqrt(values.var(axis) / (n - 1)) if n > 1 else np.full_like(values.sum(axis), np.nan))


def jackknife_sem(versions: Floats, axis: int = -3) -> Floats:
    """Return the standard error that delete-one versions give, sqrt((n - 1) / n sum (x_a - mean x)^2); NaN if n < 3."""
    n = versions.shape[axis]
    if n < 3:
        return np.full_like(versions.sum(axis), np.nan)
    return np.asarray(np.sqrt((n - 1) * versions.var(axis)))
