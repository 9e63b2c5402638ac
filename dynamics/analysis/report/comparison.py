"""The differences between runs: numbers, no verdicts, for one run a setting has no interval over seeds."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from dynamics.analysis.report.metrics import metric, metric_columns
from dynamics.options import invalid


def differences(table: pd.DataFrame, baseline: str | None = None) -> pd.DataFrame:
    """Compare every run with one of them.

    Nothing is judged: what seeds alone would change is not known of runs with one seed each. Studies of several seeds
    have intervals (`dynamics.analysis.findings`).

    Args:
        table: From `summary`.
        baseline: A run's label; the first run if None.

    Returns:
        A row per run and metric: run, metric, value, reference (the baseline's value), change (relative to the
        reference), lower_is_better, direction (better, worse, equal) and reason: why the two cannot be compared; ""
        where they can.

    Raises:
        ValueError: There is no such run.
    """
    runs = [str(run) for run in table.index]
    baseline = runs[0] if baseline is None else baseline
    if baseline not in runs:
        raise invalid("baseline", baseline, ", ".join(runs), "name one of the runs")
    by_run, columns = table.T, metric_columns(table)
    rows = [row for run in runs if run != baseline for row in _compare(by_run[run], by_run[baseline], run, columns)]
    names = ["run", "metric", "value", "reference", "change", "lower_is_better", "direction", "reason"]
    return pd.DataFrame(rows, columns=names)


def _compare(
    run: "pd.Series[Any]", base: "pd.Series[Any]", label: str, columns: Sequence[str]
) -> Iterator[tuple[object, ...]]:
    for name in columns:
        if run.isna()[name] or base.isna()[name]:
            continue
        kind, value, reference, reason = metric(name), float(run[name]), float(base[name]), ""
        if kind.by_protocol and "@" not in name and run["protocol"] != base["protocol"]:
            reason = "the two runs were measured differently (see the protocol)"
        elif kind.by_protocol and run["budget"] != base["budget"]:
            reason = f"trained otherwise ({run['budget']}, the baseline {base['budget']})"
        direction = "equal"
        if value != reference:
            direction = "better" if (value < reference) == kind.lower_is_better else "worse"
        change = (value - reference) / reference if reference > 0 else float("nan")
        yield label, name, value, reference, change, kind.lower_is_better, direction, reason
