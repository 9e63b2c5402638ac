"""Means of values some of which are known only to lie beyond an end, such as lengths that were never reached."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import log_ndtr, stdtr, stdtrit

from dynamics.estimators.intervals import Floats

SPREADS = 120
"""Standard deviations over which the likelihood is maximised."""
FAR = 30.0
"""Ends of an interval that lie farther out than so many widths of the data are infinite."""


@dataclass(frozen=True)
class CensoredEffect:
    """Mean of normal values of which those at or beyond `first` and `last` are censored (Tobin 1958).

    The profile likelihood ratio of a mean, L(mean) = 2 (max log likelihood - max log likelihood at that mean), becomes
    a t-statistic, sqrt((n - 1) (exp(L / n) - 1)): with no value censored that is Student's t exactly, and with all
    beyond one end no p is below that of the sign test, 2^-n. Chi-squared limits of L cover too rarely at five seeds.
    """

    values: Floats
    first: float
    last: float

    @property
    def num_seeds(self) -> int:
        """Number of values, censored or not."""
        return len(self.values)

    @property
    def num_censored(self) -> int:
        """How many lie at or beyond an end."""
        return int(np.sum((self.values <= self.first) | (self.values >= self.last)))

    @property
    def effect(self) -> float:
        """The mean of largest likelihood; infinite if all values lie beyond one end."""
        return self._best[0]

    @property
    def spread(self) -> float:
        """The standard deviation of largest likelihood, with n - 1 in the place of n."""
        return float(self._best[1] * np.sqrt(len(self.values) / max(len(self.values) - 1, 1)))

    def interval(self, level: float) -> tuple[float, float]:
        """Return the ends of the two-sided interval; an end that the data do not bound is infinite."""
        limit = float(stdtrit(len(self.values) - 1, (1 + level) / 2))
        return self._end(-1, limit), self._end(1, limit)

    def p_beyond(self, value: float) -> tuple[float, float]:
        """Return the one-sided p-values of "the mean is above the value" and "below it"."""
        t = self._t(value)
        dof = len(self.values) - 1
        return float(stdtr(dof, -t)), float(stdtr(dof, t))

    def _t(self, mean: float) -> float:
        """Return the signed root of the likelihood ratio of a mean, as Student's t."""
        if not np.ptp(self.values) > 0 and self.num_censored == 0:
            return float(np.sign(self.effect - mean) * np.inf) if self.effect != mean else 0.0
        n = len(self.values)
        ratio = 2 * max(self._best[2] - self._profile(mean)[0], 0.0)
        most = -float(stdtrit(n - 1, 0.5**n)) if np.isinf(self.effect) else np.inf
        return float(np.sign(self.effect - mean) * min(np.sqrt((n - 1) * np.expm1(min(ratio / n, 700.0))), most))

    def _end(self, side: int, limit: float) -> float:
        if side * self.effect == np.inf:
            return self.effect
        start = self.effect if np.isfinite(self.effect) else float(self.values[0])
        far = start + side * FAR * self._width
        if abs(self._t(far)) < limit:
            return side * np.inf
        if abs(self._t(start)) >= limit:
            return start
        return float(brentq(lambda mean: abs(self._t(mean)) - limit, start, far, xtol=1e-6 * self._width))

    @cached_property
    def _width(self) -> float:
        return float(np.std(self.values)) or abs(float(self.values[0])) or 1.0

    @cached_property
    def _best(self) -> tuple[float, float, float]:
        """Return the mean of largest likelihood, its standard deviation and the log likelihood."""
        if self.num_censored == len(self.values) and not np.ptp(self.values) > 0:
            side = 1.0 if self.values[0] >= self.last else -1.0
            return side * np.inf, np.nan, 0.0
        bounds = (self.values.min() - 10 * self._width, self.values.max() + 10 * self._width)
        mean = float(minimize_scalar(lambda x: -self._profile(x)[0], bounds=bounds, method="bounded").x)
        likelihood, spread = self._profile(mean)
        return mean, spread, likelihood

    def _profile(self, mean: float) -> tuple[float, float]:
        """Return the largest log likelihood of a mean, and the standard deviation there."""
        logs = np.log(self._width) + np.linspace(np.log(0.02), np.log(2e4), SPREADS)
        scaled = (np.clip(self.values, self.first, self.last)[:, None] - mean) * np.exp(-logs)
        below, above = self.values <= self.first, self.values >= self.last
        inner = ~(below | above)
        likelihood = (
            log_ndtr(scaled[below]).sum(0)
            + log_ndtr(-scaled[above]).sum(0)
            - (scaled[inner] ** 2 / 2 + logs + np.log(2 * np.pi) / 2).sum(0)
        )
        at = int(np.clip(likelihood.argmax(), 1, SPREADS - 2))
        left, middle, right = likelihood[at - 1 : at + 2]
        bend = left - 2 * middle + right
        shift = float(np.clip((left - right) / (2 * bend), -1, 1)) if bend < 0 else 0.0  # the top of the parabola
        spread = float(np.exp(logs[at] + shift * (logs[1] - logs[0])))
        return float(max(middle - (left - right) * shift / 4, likelihood.max())), spread
