"""The differences between runs, judged against the spread over seeds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dynamics.analysis.report.metrics import YARDSTICK, Metric, metric, metric_columns
from dynamics.options import invalid

BEYOND, WITHIN = "beyond the usual spread", "within the usual spread"
NOT_JUDGED, MEASURED_OTHERWISE = "not judged", "not comparable"
"""What is said of a difference."""


def differences(table: pd.DataFrame, baseline: str | None = None) -> pd.DataFrame:
    """Compare every run with one of them.

    One run a setting has no interval over seeds. What is judged is whether a difference is larger than what seeds
    alone usually make (see `dynamics.analysis.metric`); one that is not proves nothing, and one that is may still
    have other causes.

    Args:
        table: From `summary`.
        baseline: A run's label; the first run if None.

    Returns:
        A row per run and metric: run, metric, value, reference (the baseline's value), change (relative to the
        reference), lower_is_better, direction (better, worse, equal), verdict (beyond or within the usual spread, not
        judged, not comparable) and reason.

    Raises:
        ValueError: There is no such run.
    """
    runs = [str(run) for run in table.index]
    baseline = runs[0] if baseline is None else baseline
    if baseline not in runs:
        raise invalid("baseline", baseline, ", ".join(runs), "name one of the runs")
    by_run, columns = table.T, metric_columns(table)
    rows = [row for run in runs if run != baseline for row in _compare(by_run[run], by_run[baseline], run, columns)]
    names = ["run", "metric", "value", "reference", "change", "lower_is_better", "direction", "verdict", "reason"]
    return pd.DataFrame(rows, columns=names)


@dataclass(frozen=True)
class _Pair:
    """One metric's columns of a run and of the baseline."""

    name: str
    run: "pd.Series[Any]"
    base: "pd.Series[Any]"

    @property
    def difference(self) -> float:
        return float(self.run[self.name] - self.base[self.name])

    @property
    def change(self) -> float:
        base = float(self.base[self.name])
        return self.difference / base if base > 0 else float("nan")

    def verdict(self, kind: Metric) -> tuple[str, str]:
        """Judge the difference; the second text is the reason."""
        if kind.by_interval:
            low, high = f"{self.name}_low", f"{self.name}_high"
            apart = self.run[low] > self.base[high] or self.run[high] < self.base[low]
            return (BEYOND, "95% intervals do not overlap") if apart else (WITHIN, "95% intervals overlap")
        if kind.spread is None:
            return NOT_JUDGED, kind.source
        if not np.isfinite(self.change):
            return NOT_JUDGED, "the baseline's value is not positive"
        error = np.hypot(self.run.get(f"{self.name}_sem", 0.0), self.base.get(f"{self.name}_sem", 0.0))
        if kind.independent and abs(self.difference) <= 2 * error:
            return WITHIN, "less than two standard errors of the measurement"
        return (BEYOND if abs(self.change) > kind.spread else WITHIN), kind.source


def _compare(
    run: "pd.Series[Any]", base: "pd.Series[Any]", label: str, columns: Sequence[str]
) -> Iterator[tuple[object, ...]]:
    for name in columns:
        if run.isna()[name] or base.isna()[name]:
            continue
        kind, pair = metric(name), _Pair(name, run, base)
        verdict, reason = pair.verdict(kind)
        if kind.by_protocol and "@" not in name and run["protocol"] != base["protocol"]:
            verdict, reason = MEASURED_OTHERWISE, "the two runs were measured differently (see the protocol)"
        elif kind.by_protocol and run["budget"] != base["budget"]:
            verdict, reason = NOT_JUDGED, f"trained otherwise ({run['budget']}, the baseline {base['budget']})"
        elif kind.spread is not None and base["budget"] != YARDSTICK:
            verdict, reason = NOT_JUDGED, f"how far seeds lie apart is known of {YARDSTICK} alone: train more seeds"
        direction = "equal"
        if pair.difference != 0:
            direction = "better" if (pair.difference < 0) == kind.lower_is_better else "worse"
        values = (float(run[name]), float(base[name]), pair.change)
        yield label, name, *values, kind.lower_is_better, direction, verdict, reason
