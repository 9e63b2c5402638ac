"""Which claims more seeds may still decide, and the runs that those need: what goes on after a look.

A claim is *decided* when it has a verdict: supported, opposite or no effect. With p-values that hold at all looks, and
in Holm's procedure, no verdict is taken back by what comes later, so that the runs of a decided claim may stop.

* The primary claim of a family is judged by itself. While it is undecided, no component can have a direction, however
  clear it is by itself; such a component is open, and its runs go on: they wait for the primary claim, and narrow the
  component's own interval meanwhile.
* A primary claim that ends with "no effect" leaves its components that one verdict. A component that has no region of
  no effect, or whose own interval lies outside it, can then get none: it is undecided for good, and nothing is spent
  on it.
* Second looks, and what was not measured, hold up nothing.

An arm goes on while an open claim compares it, the other side of the comparison included; all others stop. The cores
or jobs that they leave go to the arms that go on; none of those gets more seeds than the last look has, because the
limits of all looks were made for that number.
"""

from collections.abc import Sequence

import pandas as pd

from dynamics.analysis.studies.claims import Claim, SpeedUp, chosen_runs
from dynamics.analysis.studies.study_table import label_text
from dynamics.analysis.studies.verdicts import Finding


def open_claims(found: Sequence[Finding]) -> list[Finding]:
    """Return the findings of an experiment that more seeds may decide (see above)."""
    primary = {f.claim.family: f.verdict for f in found if f.claim.primary and not f.claim.post_hoc}

    def settled(f: Finding) -> bool:
        margin = f.claim.equivalence
        outside = not margin or f.low > margin or f.high < -margin
        return bool(f.held_by) and primary[f.claim.family] == "no effect" and outside

    return [f for f in found if f.verdict == "undecided" and not f.claim.post_hoc and not settled(f)]


def runs_compared(labels: pd.DataFrame, claim: Claim) -> list[str]:
    """Return the runs that a claim compares.

    Args:
        labels: Labels of runs on the axes, from `grid_labels`.
        claim: The claim.
    """
    chosen = chosen_runs(labels, claim.arm)
    if claim.than is None and claim.relative_to is None:
        other = {**claim.arm, **claim.against}
        if isinstance(claim, SpeedUp):
            other[claim.along] = label_text(claim.at)
        chosen |= chosen_runs(labels, other)
    return [str(run) for run in labels.index[chosen]]
