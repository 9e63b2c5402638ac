"""What a paper says, and whether the runs of an experiment bear it out: paired over seeds, corrected for their number.

The unit is the seed. Two arms that share a seed share initial weights, data, times and noise, so that their difference
varies less than either; a cell that an arm does not name (a bin, a noise level) is averaged over within a seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass
from scipy import stats
from statsmodels.stats.power import TTestPower

from dynamics.options import invalid

Label = str | int | float

Direction = Literal["lower", "higher"]
BOUNDED = ("cosine", "naive", "accuracy", "precision", "recall")
"""Metrics that begin so are compared and averaged as they are."""
LEVEL = 0.95
"""Probability that all intervals of one experiment cover at the same time (Bonferroni)."""
POWER = 0.8


@dataclass(frozen=True)
class Claim:
    """One comparison, written down before the runs are."""

    text: str
    """What the paper says."""
    metric: str
    """Column of `study`; with an @, such as fd_u_nfe1@n500_seed0_ema, of samples by another protocol."""
    arm: Mapping[str, Label]
    """Labels that choose the runs in question."""
    expected: Direction
    """On which side of the other runs the paper puts them."""
    against: Mapping[str, Label] = Field(default_factory=dict)
    """Labels of the runs they are compared with; those that are left out are as in `arm`."""
    relative_to: str | None = None
    """Compare with another column of the same run (its start, say) instead of with other runs."""
    than: float | None = None
    """Compare with a number instead."""
    post_hoc: bool = False
    """Thought of after the runs: a second look, which says so wherever it is shown."""
    kind: Literal["comparison"] = "comparison"


@dataclass(frozen=True)
class SpeedUp(Claim):
    """How many steps an arm needs for what the other one reaches at the end of its training."""

    along: str = "steps"
    """The axis with the number of steps."""
    at: float = 0
    """Steps of the other arm whose value is to be reached."""
    kind: Literal["speed_up"] = "speed_up"  # type: ignore[assignment]


CLAIMS: TypeAdapter[tuple[Claim | SpeedUp, ...]] = TypeAdapter(
    tuple[Annotated[Claim | SpeedUp, Field(discriminator="kind")], ...]
)
"""Claims as JSON, as `collect` puts them into an experiment's file."""


@plain_dataclass(frozen=True)
class Finding:
    """A claim and what came out."""

    claim: Claim
    num_seeds: int
    effect: float
    """Mean over seeds: log of the ratio, or difference where `is_ratio` is False."""
    low: float
    high: float
    """Ends of the interval at the corrected level."""
    is_ratio: bool
    p_value: float
    """Of the t-test over seeds, uncorrected."""
    detectable: float
    """Smallest effect that would have been found with probability POWER, same unit as `effect`."""

    @property
    def verdict(self) -> str:
        """What follows from the interval, and from nothing else."""
        if not np.isfinite([self.low, self.high]).all():
            return "not measured"
        if self.low <= 0 <= self.high:
            return "undecided"
        as_expected = (self.effect < 0) == (self.claim.expected == "lower")
        return "reproduced" if as_expected else "opposite"

    def effect_text(self) -> str:
        """Return the effect in words.

        Example:
            >>> claim = Claim("", "v_error", {}, "lower")
            >>> Finding(claim, 5, np.log(0.9), np.log(0.85), np.log(0.95), True, 0.01, 0.02).effect_text()
            '-10% [-15%, -5%]'
        """
        shift = self.claim.than or 0.0 if not self.is_ratio else 0.0  # against a number the cosine itself says more
        values = [value + shift for value in (self.effect, self.low, self.high)]
        if self.is_ratio and max(map(abs, values)) > 0.75:  # percents of more than a doubling are hard to read
            shown = [f"x{np.exp(value):.2g}" for value in values]
        elif self.is_ratio:
            shown = [f"{np.expm1(value):+.0%}" for value in values]
        else:
            shown = [f"{value:+.2f}" for value in values]
        return f"{shown[0]} [{shown[1]}, {shown[2]}]"

    def verdict_text(self) -> str:
        """Return the verdict, and where nothing is decided what the runs could have shown."""
        power = f" ({POWER:.0%} power from {self.detectable_text()})" if self.verdict == "undecided" else ""
        return {"opposite": "the opposite"}.get(self.verdict, self.verdict) + power

    def detectable_text(self) -> str:
        """Return the smallest effect that the runs could have shown."""
        if not self.is_ratio:
            return f"{self.detectable:.2f}"
        factor = np.exp(self.detectable)
        return f"x{factor:.2g}" if factor > 2 else f"{factor - 1:.0%}"


def judge(table: pd.DataFrame, claims: Sequence[Claim], axes: Sequence[str]) -> list[Finding]:
    """Compare the arms of every claim.

    Effects are logs of ratios, except for cosines and shares (`BOUNDED`), whose differences are taken. Each interval
    is mean +- t(n - 1) sem over n seeds at the level 1 - (1 - LEVEL) / number of claims.

    Args:
        table: From `study`.
        claims: All that are made of this experiment: their number sets the correction.
        axes: The experiment's axes, `seed` among them.

    Returns:
        One finding a claim; numbers are NaN where its runs are not there.

    Raises:
        ValueError: A claim names a column or an axis that there is not.

    Example:
        >>> rows = [(arm, seed, e * (1 + seed / 9)) for seed in range(4) for arm, e in (("a", 1.0), ("b", 0.5))]
        >>> found = judge(pd.DataFrame(rows, columns=["arm", "seed", "v_error"]),
        ...     [Claim("b is better", "v_error", {"arm": "b"}, "lower", {"arm": "a"})], ["arm", "seed"])
        >>> found[0].num_seeds, found[0].effect_text()
        (4, '-50% [-50%, -50%]')
    """
    out = []
    for claim in claims:
        for name in (*claim.arm, *claim.against):
            if name not in axes:
                raise invalid("claim", name, ", ".join(axes), "name axes of the experiment")
        for column in filter(None, (claim.metric, claim.relative_to)):
            if column not in table:
                raise invalid("claim", column, ", ".join(map(str, table.columns)), "name a column of the study")
        out.append(_finding(claim, seed_effects(table, claim, axes), is_ratio(claim.metric), len(claims)))
    return out


def seed_effects(table: pd.DataFrame, claim: Claim, axes: Sequence[str]) -> pd.Series:
    """Return a claim's effect for every seed that has both sides."""
    rest = [axis for axis in axes if axis not in {*claim.arm, *claim.against}]
    if isinstance(claim, SpeedUp):
        return _steps(table, claim)
    value = _compared(table, claim.metric)
    mine = _cells(table, value, claim.arm, rest)
    if claim.than is not None:
        other = mine * 0 + (np.log(claim.than) if is_ratio(claim.metric) else claim.than)
    elif claim.relative_to is not None:
        other = _cells(table, _compared(table, claim.relative_to), claim.arm, rest)
    else:
        other = _cells(table, value, {**claim.arm, **claim.against}, rest)
    both = (mine - other).dropna()
    return both.groupby(level="seed").mean() if len(both) else both


def is_ratio(metric: str) -> bool:
    """Return whether a metric is compared and averaged by its log, as everything that has no upper bound."""
    return not metric.startswith(BOUNDED)


def chosen_runs(table: pd.DataFrame, labels: Mapping[str, Label]) -> pd.Series:
    """Return which rows of a study have these labels."""
    out = pd.Series(True, table.index)
    for axis, label in labels.items():
        out &= table[axis] == str(label)
    return out


def _compared(table: pd.DataFrame, metric: str) -> pd.Series:
    return np.log(table[metric]) if is_ratio(metric) else table[metric]


def _cells(table: pd.DataFrame, value: pd.Series, labels: Mapping[str, Label], rest: Sequence[str]) -> pd.Series:
    chosen = chosen_runs(table, labels)
    index = pd.MultiIndex.from_frame(table.loc[chosen, list(rest)])
    return pd.Series(value[chosen].to_numpy(float), index)


def _steps(table: pd.DataFrame, claim: SpeedUp) -> pd.Series:
    """Return the log of the ratio of steps, by log-log interpolation between the lengths that were trained."""
    out = {}
    for seed, rows in table.groupby("seed"):
        mine, other = (_curve(rows, labels, claim) for labels in (claim.arm, {**claim.arm, **claim.against}))
        if not len(mine) or claim.at not in other.index:
            continue
        target, steps = np.log(other[claim.at]), np.log(mine.index.to_numpy(float))
        best = np.minimum.accumulate(np.log(mine.to_numpy(float)))
        # where the falling curve meets the target; beyond its ends the shortest or the longest run
        out[seed] = np.interp(target, best[::-1], steps[::-1]) - np.log(claim.at)
    return pd.Series(out, dtype=float)


def _curve(rows: pd.DataFrame, labels: Mapping[str, Label], claim: SpeedUp) -> pd.Series:
    chosen = chosen_runs(rows, labels)
    values = pd.Series(rows.loc[chosen, claim.metric].to_numpy(float), rows.loc[chosen, claim.along].astype(float))
    return values.dropna().groupby(level=0).mean().sort_index()


def _finding(claim: Claim, values: pd.Series, is_ratio: bool, num_claims: int) -> Finding:
    n, alpha = len(values), (1 - LEVEL) / num_claims
    if n < 2:
        nan = float("nan")
        return Finding(claim, n, float(values.mean()) if n else nan, nan, nan, is_ratio, nan, nan)
    mean, std = float(values.mean()), float(values.std(ddof=1))
    half = float(stats.t.ppf(1 - alpha / 2, n - 1)) * std / np.sqrt(n)
    p_value = float(stats.ttest_1samp(values, 0).pvalue) if std > 0 else float(mean == 0)
    needed = TTestPower().solve_power(nobs=n, alpha=alpha, power=POWER) if std > 0 else 0.0
    return Finding(claim, n, mean, mean - half, mean + half, is_ratio, p_value, float(needed) * std)
