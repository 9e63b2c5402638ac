"""Verdicts: what follows from the effects of an experiment's claims, with all its families in mind.

Two kinds of mistakes are kept rare in each family of claims, each at 1 - LEVEL for all its claims together: to see a
direction that is not there, and to see no effect where there is one.

* A direction: the primary claim at the full level; its components only if the primary claim has a direction (serial
  gatekeeping), by Holm's procedure among themselves. A family without a primary claim: Holm.
* No effect: the interval lies inside the region that the claim fixed beforehand (two one-sided tests, each at half of
  1 - LEVEL); the primary claim by itself, its components by Holm, and whatever the primary claim came to.

What was not measured, and second looks, count for nothing; a second look is judged as if it were alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from dynamics.analysis.studies.claim_effects import StudyEffects
from dynamics.analysis.studies.claims import Claim, check_claims, is_ratio
from dynamics.estimators import CensoredEffect, SeedEffect, check_looks, holm, look_limits, repeated_p, seeds_needed

LEVEL = 0.95
"""Of each interval, and of each family's claims of either kind together."""
POWER = 0.8
"""Probability with which the seeds that an undecided claim asks for would decide it."""
WORDS = {"supported": "reproduced", "opposite": "the opposite", "no effect": "no effect"}
"""Verdicts on what a paper says."""


@dataclass(frozen=True)
class Finding:
    """A claim and what came out."""

    claim: Claim
    num_seeds: int
    effect: float
    """Log of the ratio, or difference where `is_ratio` is False."""
    low: float
    high: float
    """Ends of this claim's own interval at LEVEL (with `looks`: what the intervals of all looks so far share)."""
    is_ratio: bool
    p_value: float
    """Of "there is an effect", this claim by itself."""
    adjusted: float
    """The same among the family's other claims."""
    p_no_effect: float = 1.0
    """One minus the level of the widest interval that lies inside the region of equivalence, among the others."""
    spread: float = float("nan")
    """Standard deviation of one seed's effect."""
    num_rivals: int = 1
    """Undecided claims among which this one shares the level."""
    held_by: str = ""
    """Text of the primary claim without whose direction this claim can have none."""
    num_censored: int = 0
    """Seeds whose length lies beyond those that were trained."""
    last_level: float = LEVEL
    """Of the interval at the last of several looks."""

    @property
    def verdict(self) -> str:
        """supported, opposite, no effect, undecided or not measured."""
        if np.isnan([self.low, self.high]).any():
            return "not measured"
        if self.p_no_effect <= 1 - LEVEL:
            return "no effect"
        if self.adjusted > 1 - LEVEL:
            return "undecided"
        below = (self.low + self.high) / 2 < self.claim.threshold
        return "supported" if below == (self.claim.expected == "lower") else "opposite"

    @property
    def budget(self) -> int:
        """Seeds that would decide the claim with probability POWER, its effect and spread being those measured.

        Where one looks several times: at the last look of a study with as many looks.
        """
        if not np.isfinite([self.effect, self.spread]).all():
            return 0
        alpha = (1 - self.last_level) / self.num_rivals
        return seeds_needed(self.effect - self.claim.threshold, self.spread, self.claim.equivalence, alpha, POWER)

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
            shown = [f"x{np.exp(value):.2g}".replace("inf", "\N{INFINITY}") for value in values]
        elif self.is_ratio:
            shown = [f"{np.expm1(value):+.0%}" for value in values]
        else:
            shown = [f"{value:+.2f}" for value in values]
        return f"{shown[0]} [{shown[1]}, {shown[2]}]"

    def verdict_text(self) -> str:
        """Return the verdict in words, and of what is undecided what would decide it."""
        if self.verdict == "undecided":
            return f"undecided ({self.budget_text()})"
        words = {"opposite": WORDS["opposite"] if self.claim.by is None else "not by so much"}
        if self.claim.source and self.verdict in WORDS:
            said = {**WORDS, **words}[self.verdict]
            return f"{'' if self.verdict == 'supported' else 'not reproduced: '}{said}"
        return words.get(self.verdict, self.verdict)

    def budget_text(self) -> str:
        """Return what would decide the claim."""
        held = self.held_by and abs(self.effect) >= self.claim.equivalence  # to have no effect takes no primary claim
        if held and self.budget <= self.num_seeds:
            return "its primary claim has no direction"
        if not self.budget:
            return "longer runs would decide"
        seeds = "more than 1000" if self.budget > 1000 else max(self.budget, self.num_seeds + 1)
        return f"{seeds} seeds would decide" + (", if its primary claim had a direction" if held else "")

    def seeds_text(self) -> str:
        """Return the number of seeds, and how many of them never met what they were to reach."""
        return f"{self.num_seeds}" + (f" ({self.num_censored} censored)" if self.num_censored else "")


def judge(
    table: pd.DataFrame, claims: Sequence[Claim], axes: Sequence[str], looks: Sequence[int] = ()
) -> list[Finding]:
    """Judge every claim of an experiment.

    Args:
        table: From `study`.
        claims: All that are made of this experiment.
        axes: The experiment's axes, `seed` among them.
        looks: Numbers of seeds at which one looks, or has looked, to stop where all is decided; the last is the most
            that there will be. p-values and intervals then hold at every look. None: the seeds there are were planned.

    Returns:
        One finding a claim; numbers are NaN where its runs are not there.

    Raises:
        ValueError: A claim names a column or an axis that there is not, a family has two primary claims, or looks do
            not rise.

    Example:
        >>> rows = [(arm, seed, e * (1 + seed / 9)) for seed in range(4) for arm, e in (("a", 1.0), ("b", 0.5))]
        >>> found = judge(pd.DataFrame(rows, columns=["arm", "seed", "v_error"]),
        ...     [Claim("b is better", "v_error", {"arm": "b"}, "lower", {"arm": "a"})], ["arm", "seed"])
        >>> found[0].num_seeds, found[0].effect_text(), found[0].verdict
        (4, '-50% [-50%, -50%]', 'supported')
    """
    check_claims(claims, axes, list(table.columns))
    seeds = sorted(table["seed"].unique())
    if looks:
        check_looks(looks)
    parts = [table[table["seed"].isin(seeds[:look])] for look in looks if look <= len(seeds)] or [table]
    studies = [StudyEffects(part, axes) for part in parts]
    return verdicts(claims, [[study.of(claim) for study in studies] for claim in claims], looks)


def verdicts(
    claims: Sequence[Claim], effects: Sequence[Sequence[SeedEffect | CensoredEffect]], looks: Sequence[int] = ()
) -> list[Finding]:
    """Return what follows from the effects of claims.

    Args:
        claims: All that are made of an experiment.
        effects: Of each claim, at each look so far; one if there are no looks.
        looks: Numbers of seeds of all looks that may come.
    """
    found = [_alone(claim, own, looks) for claim, own in zip(claims, effects, strict=True)]
    for family in {claim.family for claim in claims}:
        members = [i for i, f in enumerate(found) if f.claim.family == family and not f.claim.post_hoc]
        members = [i for i in members if found[i].verdict != "not measured"]
        for i, finding in zip(members, _together([found[i] for i in members]), strict=True):
            found[i] = finding
    return found


def _alone(claim: Claim, estimates: Sequence[SeedEffect | CensoredEffect], looks: Sequence[int]) -> Finding:
    """Return a claim's finding as if it were the only one, from its estimates at each look."""
    ratio, margin, nan = is_ratio(claim.metric), claim.equivalence, float("nan")
    # an arm that stopped has no new look
    used = [e for i, e in enumerate(estimates) if i == 0 or e.num_seeds > estimates[i - 1].num_seeds]
    last = used[-1]
    if last.num_seeds < 2:
        return Finding(claim, last.num_seeds, last.effect if last.num_seeds else nan, nan, nan, ratio, nan, nan)
    used = [estimate for estimate in used if estimate.num_seeds > 1]

    def p_beyond(value: float, side: int) -> float:
        values = [estimate.p_beyond(value)[side] for estimate in used]
        return repeated_p(values, looks) if looks else values[-1]

    limits = look_limits(tuple(looks), (1 - LEVEL) / 2) if looks else np.array([(1 - LEVEL) / 2])
    ends = np.array([e.interval(1 - 2 * float(limit)) for e, limit in zip(used, limits, strict=False)])
    low, high = sorted((float(ends[:, 0].max()), float(ends[:, 1].min())))  # as p, what was shown once stays shown
    p_value = min(2 * min(p_beyond(claim.threshold, 0), p_beyond(claim.threshold, 1)), 1.0)
    p_no_effect = min(2 * max(p_beyond(-margin, 0), p_beyond(margin, 1)), 1.0)
    censored = last.num_censored if isinstance(last, CensoredEffect) else 0
    return Finding(
        *(claim, last.num_seeds, last.effect, low, high, ratio, p_value, p_value, p_no_effect, last.spread),
        num_censored=censored,
        last_level=1 - 2 * float(limits[-1]),
    )


def _together(family: Sequence[Finding]) -> list[Finding]:
    """Return the findings of a family with p-values that hold for all of them."""
    primary = next((f for f in family if f.claim.primary), None)
    rest = [f for f in family if f is not primary]
    if not rest:
        return list(family)
    adjusted, equal = (holm([getattr(f, name) for f in rest]).tolist() for name in ("p_value", "p_no_effect"))
    undecided = sum(p > 1 - LEVEL and q > 1 - LEVEL for p, q in zip(adjusted, equal, strict=True))
    held = primary.claim.text if primary is not None and primary.adjusted > 1 - LEVEL else ""
    behind = primary.adjusted if primary is not None else 0.0
    judged = iter(
        replace(f, adjusted=max(p, behind), p_no_effect=q, num_rivals=max(undecided, 1), held_by=held)
        for f, p, q in zip(rest, adjusted, equal, strict=True)
    )
    return [f if f is primary else next(judged) for f in family]
