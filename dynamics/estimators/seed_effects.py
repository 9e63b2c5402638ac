"""Effects over seeds: what they are, how sure, and with which p-value they lie beyond a number.

Two arms that share a seed share initial weights, data, times and noise: value = arm + seed + noise. The noise of few
seeds is hardly known, so that what all arms say of it is used as far as their variances agree.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import digamma, fdtrc, polygamma, stdtr, stdtrit

from dynamics.estimators.intervals import Floats

AGREE = 0.35
"""A pair that is noisier than the others at this (one-sided) level of the F-test is judged by itself."""
MOST_DOF = 1e6
"""Stands for infinitely many degrees of freedom."""


@dataclass(frozen=True)
class SeedEffect:
    """An estimate whose error is that of Student's t."""

    effect: float
    sem: float
    dof: float
    num_seeds: int
    spread: float
    """Standard deviation of one seed's effect."""

    def interval(self, level: float) -> tuple[float, float]:
        """Return the ends of the two-sided interval."""
        half = float(stdtrit(self.dof, (1 + level) / 2)) * self.sem
        return self.effect - half, self.effect + half

    def p_beyond(self, value: float) -> tuple[float, float]:
        """Return the one-sided p-values of "the effect is above the value" and "below it"."""
        if not self.sem > 0:
            return float(self.effect <= value), float(self.effect >= value)
        t = (self.effect - value) / self.sem
        return float(stdtr(self.dof, -t)), float(stdtr(self.dof, t))


def mean_effect(values: Floats) -> SeedEffect:
    """Return the mean of one value a seed."""
    n = len(values)
    spread = float(np.std(values, ddof=1)) if n > 1 else np.nan
    return SeedEffect(float(np.mean(values)) if n else np.nan, spread / np.sqrt(max(n, 1)), n - 1, n, spread)


@dataclass(frozen=True)
class TwoWay:
    """Values [seed, arm] (NaN where there is none) of the model arm + seed + noise."""

    values: Floats

    def effect(self, weights: Floats) -> SeedEffect:
        """Return a contrast of arms: the mean over the seeds that all of them have.

        Other arms say nothing of the effect, for one that is unstable would spoil it, but of its noise.
        The variance s^2 of the contrast's own paired differences, with d = n - 1 degrees of freedom, is drawn towards
        that of the other pairs, s0^2 with d0: (d0 s0^2 + d s^2) / (d0 + d), with d0 + d degrees of freedom, at most
        those of the two-way residual (moderated t; Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3:3, section 3). d0 is
        infinite where variances agree, and small where they do not. A pair that is itself noisier than the others
        (F-test, `AGREE`) keeps the paired t-test, since the rule holds for the average pair only. So does a contrast
        of averages: what the cells of a side share in a seed, no pair of cells shows.

        Args:
            weights: Of the arms; their sum is zero.

        Example:
            >>> seeds = np.array([0.0, 3.0, 7.0])[:, None]
            >>> noise = np.array([[0.0, 0.1], [0.1, 0.0], [0.0, 0.1]])
            >>> found = TwoWay(seeds + np.array([1.0, 2.0]) + noise).effect(np.array([-1.0, 1.0]))
            >>> round(found.effect, 3), found.dof, found.num_seeds
            (1.033, 2, 3)
        """
        used = weights != 0
        paired = mean_effect((self.values[:, used] @ weights[used])[np.isfinite(self.values[:, used]).all(1)])
        prior, prior_dof = self.noise
        if paired.dof < 1 or prior_dof == 0 or used.sum() > 2:
            return paired
        scale = float(weights @ weights)
        own = paired.spread**2 / scale
        if fdtrc(paired.dof, prior_dof, own / prior) < AGREE:
            return paired
        noise = (prior_dof * prior + paired.dof * own) / (prior_dof + paired.dof)
        dof = min(prior_dof + paired.dof, self._residual[1])
        spread = float(np.sqrt(noise * scale))
        return SeedEffect(paired.effect, spread / np.sqrt(paired.num_seeds), dof, paired.num_seeds, spread)

    @cached_property
    def noise(self) -> tuple[float, float]:
        """Variance of one value's noise, and how many degrees of freedom it is worth as a guess of a pair's own.

        From the paired variances of all pairs of arms: their logs vary by trigamma(d / 2) if all have one variance;
        what they vary beyond that is trigamma(d0 / 2) (Smyth 2004, section 6.2). (nan, 0) with fewer than three arms.
        """
        first, second = np.triu_indices(self.values.shape[1], 1)
        differences = self.values[:, first] - self.values[:, second]
        dof = np.isfinite(differences).sum(0) - 1
        differences, dof = differences[:, dof > 0], dof[dof > 0]
        variances = np.nanvar(differences, axis=0, ddof=1) / 2
        known = variances > 1e-12 * np.max(variances, initial=0.0)  # arms that are one and the same run say nothing
        if known.sum() < 3:
            return np.nan, 0.0
        half = dof[known] / 2
        logs = np.log(variances[known]) - digamma(half) + np.log(half)
        beyond = float(np.var(logs, ddof=1) - np.mean(polygamma(1, half)))
        if beyond <= 2 / MOST_DOF:
            return self._residual[0], MOST_DOF
        prior_dof = 2 * _inverse_trigamma(beyond)
        return float(np.exp(np.mean(logs) + digamma(prior_dof / 2) - np.log(prior_dof / 2))), prior_dof

    @cached_property
    def _residual(self) -> tuple[float, float]:
        """Mean square of the two-way model's residuals, and their degrees of freedom."""
        if np.isfinite(self.values).all():
            rest = self.values - self.values.mean(0) - self.values.mean(1, keepdims=True) + self.values.mean()
            dof = (self.values.shape[0] - 1) * (self.values.shape[1] - 1)
        else:
            there = np.isfinite(self.values)
            seed, arm = np.nonzero(there)
            design = np.hstack([np.eye(self.values.shape[1])[arm], np.eye(len(self.values))[seed]])
            solution, _, rank, _ = np.linalg.lstsq(design, self.values[there])
            rest = self.values[there] - design @ solution
            dof = len(rest) - int(rank)
        return float(np.sum(rest**2)) / max(dof, 1), dof


def _inverse_trigamma(value: float) -> float:
    """Return x with trigamma(x) = value, by Newton's method (Smyth 2004, appendix)."""
    x = 0.5 + 1 / value
    for _ in range(30):
        trigamma = float(polygamma(1, x))
        x += trigamma * (1 - trigamma / value) / float(polygamma(2, x))
    return x
