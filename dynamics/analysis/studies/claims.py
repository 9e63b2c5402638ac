"""What a paper says of the runs of an experiment, written down before they are made."""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from dynamics.options import invalid

Label = str | int | float

Direction = Literal["lower", "higher"]
BOUNDED = ("cosine", "naive", "accuracy", "precision", "recall", "kd_")
"""Metrics that begin so are compared and averaged as they are: they have an upper bound, or may be negative."""
_OF_SHARES = dict.fromkeys(("accuracy", "precision", "recall"), 0.01)
MARGINS = {**_OF_SHARES, "fd_": 0.1, "fid_": 0.1, "excess_fd_": 0.1, "kd_": 0.0}
"""What counts as no effect, by how a metric begins: shares within 0.01, Frechet distances within 10% (the published
changes are 7 to 16%, and one seed's noise is 12 to 40%); nothing of kernel distances, whose unit is that of their
features; everything else within `MARGIN`."""
MARGIN = 0.05
"""5% of an error or a length, 0.05 of a cosine."""


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
    source: str = ""
    """Paper that says so, by its arXiv number; "" if it is our own idea, which cannot be reproduced."""
    family: str = ""
    """Claims of one name answer one question together."""
    primary: bool = False
    """The one claim that answers the question of its family; the others are its components, judged behind it."""
    margin: float | None = None
    """What counts as no effect: a share of the other side (0.05 is 5%), or a difference where differences are taken.
    None takes that of the metric (`MARGINS`)."""
    by: float | None = None
    """At least by this share (or difference): 0.08 with "lower" is 8% lower, -0.05 at most 5% higher. Such a claim
    is supported or opposite; it has no region of no effect."""
    kind: Literal["comparison"] = "comparison"

    @property
    def threshold(self) -> float:
        """The effect beyond which the claim holds, in the unit of effects (logs of ratios, or differences)."""
        by = (self.by or 0.0) * (-1 if self.expected == "lower" else 1)
        return float(np.log1p(by)) if is_ratio(self.metric) else by

    @property
    def equivalence(self) -> float:
        """Half the width of the region of no effect, in the unit of effects."""
        if self.by is not None:
            return 0.0
        of_metric = next((m for start, m in MARGINS.items() if self.metric.startswith(start)), MARGIN)
        share = of_metric if self.margin is None else self.margin
        return float(np.log1p(share)) if is_ratio(self.metric) else share


@dataclass(frozen=True)
class SpeedUp(Claim):
    """How many steps an arm needs for what the other one reaches at the end of its training."""

    along: str = "steps"
    """The axis with the number of steps."""
    at: float = 0
    """Steps of the other arm whose value is to be reached."""
    kind: Literal["speed_up"] = "speed_up"  # type: ignore[assignment]

    @property
    def equivalence(self) -> float:
        """Half the width of the region of no effect, in logs of ratios of lengths."""
        if self.by is not None:
            return 0.0
        return float(np.log1p(MARGIN if self.margin is None else self.margin))


CLAIMS: TypeAdapter[tuple[Claim | SpeedUp, ...]] = TypeAdapter(
    tuple[Annotated[Claim | SpeedUp, Field(discriminator="kind")], ...]
)
"""Claims as JSON, as `collect` puts them into an experiment's file."""


def is_ratio(metric: str) -> bool:
    """Return whether a metric is compared and averaged by its log, as what is positive and has no upper bound."""
    return not metric.startswith(BOUNDED)


def chosen_runs(table: pd.DataFrame, labels: Mapping[str, Label]) -> pd.Series:
    """Return which rows of a study have these labels."""
    out = pd.Series(True, table.index)
    for axis, label in labels.items():
        out &= table[axis] == str(label)
    return out


def check_claims(claims: Sequence[Claim], axes: Sequence[str], columns: Collection[str]) -> None:
    """Refuse claims of what there is not, and families with two primary claims.

    Raises:
        ValueError: Naming what is wrong.
    """
    for claim in claims:
        for name in (*claim.arm, *claim.against):
            if name not in axes:
                raise invalid("claim", name, ", ".join(axes), "name axes of the experiment")
        for column in filter(None, (claim.metric, claim.relative_to)):
            if column not in columns:
                raise invalid("claim", column, ", ".join(map(str, columns)), "name a column of the study")
    first: dict[str, str] = {}
    for claim in claims:
        if claim.primary and first.setdefault(claim.family, claim.text) != claim.text:
            both = [first[claim.family], claim.text]
            raise invalid("claims", both, "one primary claim a family", "name another family, or take primary away")
