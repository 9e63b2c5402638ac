"""What the numbers of a summary mean: title, and which way is better."""

import re
from dataclasses import dataclass

import pandas as pd

from dynamics.analysis.report.summary_table import FLOOR
from dynamics.options import invalid

# (largest - smallest) / mean over four seeds of digits-meanflow, the largest of the metrics of a kind:
# benchmarks/seed_spread.py and its result beside it; a test holds these numbers to that file
SEED_SPREAD_EXACT = 0.11
"""Exact errors."""
SEED_SPREAD_FRECHET = 0.23
"""Frechet distances."""


@dataclass(frozen=True)
class Metric:
    """One kind of number."""

    pattern: str
    """Regular expression of its whole column name; its groups fill the title."""
    title: str
    lower_is_better: bool
    by_protocol: bool = True
    """Depends on how the run was evaluated."""


_FD, _KD = r"fd_(.+)_(.+)_nfe(\d+)", r"kd_(.+)_(.+)_nfe(\d+)"
METRICS = (
    Metric(r"v_error", "exact error of v, mean over t", True),
    Metric(r"v_error_from_(.+)", "exact error of v, mean over t >= {0}", True),
    Metric(r"u_error_(.+)", "exact error of u, gaps {0}", True),
    Metric(r"one_step_error", "exact error of u from (t, r) = (1, 0)", True),
    Metric(r"fid_inception_(.+)_nfe(\d+)", "FID, {0}, NFE {1}", True),
    Metric(r"is_inception_(.+)_nfe(\d+)", "Inception score, {0}, NFE {1}", False),
    Metric(r"kd_inception_(.+)_nfe(\d+)", "kernel distance (Inception features), {0}, NFE {1}", True),
    Metric(r"precision_inception_(.+)_nfe(\d+)", "precision (Inception features), {0}, NFE {1}", False),
    Metric(r"recall_inception_(.+)_nfe(\d+)", "recall (Inception features), {0}, NFE {1}", False),
    Metric(_FD, "Frechet distance ({0} features), {1}, NFE {2}", True),
    Metric(_KD, "kernel distance ({0} features), {1}, NFE {2}", True),
    Metric(r"energy_distance_(.+)_nfe(\d+)", "energy distance of points, {0}, NFE {1}", True),
    Metric(r"accuracy_(.+)_nfe(\d+)", "class accuracy, {0}, NFE {1}", False),
    Metric(r"precision_(.+)_nfe(\d+)", "precision, {0}, NFE {1}", False),
    Metric(r"recall_(.+)_nfe(\d+)", "recall, {0}, NFE {1}", False),
    Metric(r"seconds", "training time in s", True, by_protocol=False),
    Metric(r"peak_memory_mb", "peak memory in MB", True, by_protocol=False),
)
"""Every kind of column of a summary."""


def metric(name: str) -> Metric:
    """Return the kind of a column of a summary.

    Raises:
        ValueError: It is none of them.

    Example:
        >>> metric("accuracy_u_nfe2").lower_is_better
        False
    """
    for kind in METRICS:
        if re.fullmatch(kind.pattern, name.partition("@")[0]):
            return kind
    raise invalid("metric", name, ", ".join(kind.pattern for kind in METRICS), "use the columns of a summary")


def metric_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns of a summary that are numbers of their own: no protocol, no standard error, no end."""
    texts = ("protocol", "budget")
    names = [str(c) for c in table.columns if c not in texts and not str(c).startswith(FLOOR)]
    return [name for name in names if not name.endswith(("_sem", "_low", "_high"))]


def metric_title(name: str) -> str:
    """Return a column's name in words.

    Example:
        >>> metric_title("fd_digits_u_nfe1")
        'Frechet distance (digits features), u, NFE 1'
    """
    kind, (plain, _, protocol) = metric(name), name.partition("@")
    found = re.fullmatch(kind.pattern, plain)
    title = kind.title.format(*(found.groups() if found else ()))
    return f"{title}, {protocol}" if protocol else title
