"""An alarm before the loss is no number: losses and derivatives, by gap, that leave their usual range."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from dynamics.record import StepRecord

MEMORY = 1000
"""Observations over which the usual value is averaged."""
WARM_UP = 100
"""Observations of a series before it is judged: a network begins at du/dt = 0, from where it must rise."""
NOISES = 4.0
"""How many standard deviations of its noise a value must be above the usual one."""
PATIENCE = 5
"""How many observations in a row must be that high."""


@dataclass(frozen=True)
class Alarm:
    """A series that has left its usual range upwards."""

    step: int
    series: str
    """What was watched, such as "du/dt norm, gap 0.3 to 0.5"."""
    value: float
    """At this step."""
    usual: float
    """Exponential of the running mean of its logarithm."""

    def __str__(self) -> str:
        times = f"{self.value / self.usual:.3g} times the usual {self.usual:.3g}"
        return f"alarm at step {self.step}: {self.series} is {self.value:.3g}, {times}, and was so for {PATIENCE} steps"


@dataclass
class Series:
    """What is remembered of one series of logarithms."""

    count: int = 0
    mean: float = 0.0
    noise: float = 0.0
    """Variance of the noise: half the mean square of successive differences, which a slow trend does not enter."""
    last: float = 0.0
    high: int = 0
    """Observations in a row that were too high."""

    def observe(self, value: float, margin: float) -> bool:
        """Take the next logarithm; return whether the series has just been too high for PATIENCE observations."""
        above = value - self.mean > max(margin, NOISES * math.sqrt(self.noise))
        self.high = self.high + 1 if above and self.count >= WARM_UP else 0
        if self.count:
            self.noise += ((value - self.last) ** 2 / 2 - self.noise) / min(self.count, MEMORY)
        self.count += 1
        self.mean += (value - self.mean) / min(self.count, MEMORY)
        self.last = value
        return self.high == PATIENCE


@dataclass
class Monitor:
    """Watches the raw loss and the norm of du/dt in each bin of the gap, and the norm of the gradient.

    A series is in alarm when its value was, PATIENCE times in a row, above its running geometric mean by `factor` and
    by NOISES standard deviations of the noise of its logarithm; again only after it has come back. What falls never is.
    Steps draw their rows independently, so for noise with a tail no heavier than an exponential one a false alarm has
    probability (e^-5)^5 < 2e-11 an observation: one in 4e9 steps of the 14 series.

    Args:
        factor: See above.
        series: What an earlier monitor remembered, from `remembered`.

    Example:
        >>> series, norms = Series(), [1.0] * 200 + [2.0**i for i in range(12)]
        >>> [step for step, norm in enumerate(norms) if series.observe(math.log(norm), math.log(10.0))]
        [208]
    """

    factor: float
    series: dict[str, Series] = field(default_factory=dict)

    def observe(self, record: StepRecord) -> list[Alarm]:
        """Take a step's values and return the alarms that they raise."""
        alarms = []
        for name, value in {**record.by_gap, "gradient norm": record.grad_norm}.items():
            if not 0 < value < math.inf:  # u = 0 everywhere before the first steps: no logarithm
                continue
            series = self.series.setdefault(name, Series())
            usual = series.mean
            if series.observe(math.log(value), math.log(self.factor)):
                alarms.append(Alarm(record.step, name, value, math.exp(usual)))
        return alarms

    def remembered(self) -> dict[str, dict[str, float]]:
        """Return what the monitor remembers, as plain data that keeps every digit."""
        return {name: asdict(series) for name, series in self.series.items()}


def remembering(factor: float, remembered: Mapping[str, Mapping[str, float]]) -> Monitor:
    """Return a monitor that goes on where another left off."""
    return Monitor(factor, {name: Series(**values) for name, values in remembered.items()})  # type: ignore[arg-type]
