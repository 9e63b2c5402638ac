"""Looking at data again and again without being fooled: p-values and intervals that hold at every look.

Alpha spending (Lan and DeMets 1983, Biometrika 70:659): of the one-sided level alpha, alpha f^POWER has been spent when
the fraction f of the largest number of seeds is there. The limits follow from the joint distribution of the looks by
numerical integration (Armitage, McPherson and Rowe 1969). They are limits of p-values, not of z, so that they serve
Student's t too (the significance level approach; Jennison and Turnbull 2000, section 4.4): at five seeds that is an
approximation, whose error `benchmarks/coverage.py` shows.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from dynamics.estimators.intervals import Floats
from dynamics.options import invalid

POWER = 1.0
"""Of the fraction; 1 spends evenly and needs the fewest seeds on average (the benchmark), 3 waits for the end."""
POINTS = 401
ALPHAS = np.r_[np.geomspace(1e-12, 1e-3, 28)[:-1], np.geomspace(1e-3, 0.5, 22)]
"""One-sided levels whose limits are worked out; between them they are interpolated."""


@lru_cache
def look_limits(looks: tuple[int, ...], alpha: float, power: float = POWER) -> Floats:
    """Return the one-sided p-value below which each look rejects, alpha being the level of all of them together.

    Args:
        looks: Numbers of seeds, rising; the last one is the largest that there will be.
        alpha: One-sided level, at most a half.
        power: Of the fraction of alpha that is spent.

    Example:
        >>> look_limits((5, 10), 0.025, 1.0).round(4).tolist()  # Bonferroni would give the second 0.0125
        [0.0125, 0.0168]
    """
    check_looks(looks)
    fractions = np.asarray(looks, dtype=float) / looks[-1]
    spent = np.diff(alpha * np.r_[0.0, fractions] ** power)
    limits = [spent[0]]
    bound = float(stats.norm.isf(spent[0]) * np.sqrt(fractions[0]))
    # density of the Brownian path at the first look, on the side where it goes on
    x = np.linspace(-8 * np.sqrt(fractions[0]), bound, POINTS)
    density = stats.norm.pdf(x, scale=np.sqrt(fractions[0]))
    for step, at, part in zip(np.sqrt(np.diff(fractions)), fractions[1:], spent[1:], strict=True):
        weighted = density * _weights(x)
        previous, scale = x, float(step)

        def crossing(b: float, y: Floats = previous, w: Floats = weighted, s: float = scale) -> float:
            return float(w @ stats.norm.sf((b - y) / s))

        bound = float(brentq(lambda b, p=part, f=crossing: np.log(max(f(b), 1e-300) / p), -9, 12))
        limits.append(float(stats.norm.sf(bound / np.sqrt(at))))
        x = np.linspace(-8 * np.sqrt(at), bound, POINTS)
        density = weighted @ stats.norm.pdf((x[None] - previous[:, None]) / scale) / scale
    return np.array(limits)


def repeated_p(p_values: Sequence[float], looks: Sequence[int]) -> float:
    """Return the one-sided p-value of all looks so far: the smallest level at which one of them rejects.

    It holds whatever made one stop (repeated p-values; Jennison and Turnbull 2000, section 9.5), so that Holm's
    procedure may take it as any other p-value.

    Args:
        p_values: One-sided ones of the looks so far.
        looks: Numbers of seeds of all looks that may come.

    Example:
        >>> round(repeated_p([0.5, 0.0049], (5, 10, 15, 20, 25, 32)), 3)
        0.025
    """
    levels = [
        float(np.exp(np.interp(np.log(max(p, 1e-300)), np.log(limits), np.log(ALPHAS)))) if p <= limits[-1] else 1.0
        for p, limits in zip(p_values, _table(tuple(looks)).T, strict=False)
    ]
    return min(levels)


def check_looks(looks: Sequence[int]) -> None:
    """Refuse looks that do not rise from at least two seeds.

    Raises:
        ValueError: They do not.
    """
    if not looks or looks[0] < 2 or any(a >= b for a, b in pairwise(looks)):
        raise invalid("looks", list(looks), "rising numbers of seeds, two or more", "for example 5 10 15 20 25 32")


@lru_cache
def _table(looks: tuple[int, ...]) -> Floats:
    """Return the limits by level and look."""
    return np.array([look_limits(looks, alpha) for alpha in ALPHAS])


def _weights(x: Floats) -> Floats:
    """Return Simpson's weights of an odd number of points."""
    out = np.full(len(x), 2.0)
    out[1::2] = 4
    out[[0, -1]] = 1
    return np.asarray(out * (x[1] - x[0]) / 3)
