"""How many seeds a question needs, by direct integration over the spread that would be estimated."""

import numpy as np
from scipy import stats

QUANTILES = (np.arange(1000) + 0.5) / 1000
"""Where the distribution of the estimated variance is looked at."""


def decision_power(effect: float, spread: float, num_seeds: int, margin: float, alpha: float = 0.05) -> float:
    """Return the probability that the interval of n seeds leaves out zero or lies inside +-margin.

    Given the estimated standard deviation s the mean is normal, N(effect, spread^2 / n), and the interval mean +- h,
    h = t s / sqrt(n): P(|mean| > h or |mean| < margin - h), averaged over s^2 = spread^2 chi^2(n - 1) / (n - 1). With
    margin 0 that is the power of the two-sided t-test, which the noncentral t has too.

    Args:
        effect: The true effect.
        spread: Standard deviation of one seed's effect.
        num_seeds: Of the study, at least two.
        margin: Half the width of the region of equivalence.
        alpha: One minus the level of the interval.

    Example:
        >>> round(decision_power(0.5, 1.0, 34, 0.0), 2)  # the textbook's 34 pairs for half a standard deviation
        0.81
    """
    dof = num_seeds - 1
    error = spread / np.sqrt(num_seeds)
    half = stats.t.ppf(1 - alpha / 2, dof) * error * np.sqrt(stats.chi2.ppf(QUANTILES, dof) / dof)
    inside = np.minimum(np.maximum(margin - half, 0.0), half)  # beyond half the margin every mean decides

    def within(width: np.ndarray) -> np.ndarray:
        return np.asarray(stats.norm.cdf((width - effect) / error) - stats.norm.cdf((-width - effect) / error))

    return float(np.mean(1 - within(half) + within(inside)))


def seeds_needed(
    effect: float, spread: float, margin: float, alpha: float = 0.05, power: float = 0.8, most: int = 9999
) -> int:
    """Return the smallest number of seeds that decides with a probability `power` if the effect is what it is.

    Args:
        effect: The true effect.
        spread: Standard deviation of one seed's effect.
        margin: Half the width of the region of equivalence.
        alpha: One minus the level of the interval.
        power: The probability.
        most: Returned where even so many would not do.

    Example:
        >>> seeds_needed(0.5, 1.0, 0.0)
        34
    """
    if not spread > 0:
        return 2
    low, high = 1, 2
    while high < most and decision_power(effect, spread, high, margin, alpha) < power:
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decision_power(effect, spread, middle, margin, alpha) >= power else (middle, high)
    return high
