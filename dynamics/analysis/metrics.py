"""What the numbers of a summary mean: title, which way is better, and how much they vary over seeds."""

import re
from dataclasses import dataclass

from dynamics.options import invalid

SEED_SPREAD_EXACT = 0.06
"""Exact errors of equal configurations differ by 1-6% over seeds (facts.md: 8x8 digits, 2-5 seeds)."""

SEED_SPREAD_DISTANCE = 0.40
"""Frechet distances of equal configurations differ by 12-40% over seeds (facts.md, the same runs)."""

_EXACT = f"seeds alone change exact errors by up to {SEED_SPREAD_EXACT:.0%}"
_DISTANCE = f"seeds alone change such distances by up to {SEED_SPREAD_DISTANCE:.0%}"
_PEAK = "the peak of the whole process, which may have held other runs before"
_UNKNOWN = "the spread over seeds was not measured"


@dataclass(frozen=True)
class Metric:
    """One kind of number."""

    pattern: str
    """Regular expression of its whole column name; its groups fill the title."""
    title: str
    lower_is_better: bool
    spread: float | None = None
    """Relative difference that seeds alone make; None if it was not measured."""
    source: str = _UNKNOWN
    """Where the spread comes from, or why there is none."""
    by_interval: bool = False
    """Judged by its own 95% interval instead."""
    independent: bool = False
    """Its standard error applies to differences too; not so for exact errors, which all runs have on the same rows."""
    measured: bool = True
    """Depends on how the run was evaluated."""


METRICS = (
    Metric(r"v_error", "exact error of v, mean over t", True, SEED_SPREAD_EXACT, _EXACT),
    Metric(r"v_error_from_(.+)", "exact error of v, mean over t >= {0}", True, SEED_SPREAD_EXACT, _EXACT),
    Metric(r"u_error_(.+)", "exact error of u, gaps {0}", True, SEED_SPREAD_EXACT, _EXACT),
    Metric(r"one_step_error", "exact error of u from (t, r) = (1, 0)", True, SEED_SPREAD_EXACT, _EXACT),
    Metric(
        r"fd_(.+)_(.+)_nfe(\d+)", "Frechet distance ({0} features), {1}, NFE {2}", True, SEED_SPREAD_DISTANCE, _DISTANCE
    ),
    Metric(
        r"kd_(.+)_(.+)_nfe(\d+)",
        "kernel distance ({0} features), {1}, NFE {2}",
        True,
        SEED_SPREAD_DISTANCE,
        _DISTANCE,
        independent=True,
    ),
    Metric(r"accuracy_(.+)_nfe(\d+)", "class accuracy, {0}, NFE {1}", False, by_interval=True),
    Metric(r"precision_(.+)_nfe(\d+)", "precision, {0}, NFE {1}", False),
    Metric(r"recall_(.+)_nfe(\d+)", "recall, {0}, NFE {1}", False),
    Metric(r"seconds", "training time in s", True, source="wall time on shared cores varies 3-7 times", measured=False),
    Metric(
        r"peak_memory_mb",
        "peak memory in MB",
        True,
        source=_PEAK,
        measured=False,
    ),
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
        if re.fullmatch(kind.pattern, name):
            return kind
    raise invalid("metric", name, ", ".join(kind.pattern for kind in METRICS), "use the columns of a summary")


def metric_title(name: str) -> str:
    """Return a column's name in words.

    Example:
        >>> metric_title("fd_digits_u_nfe1")
        'Frechet distance (digits features), u, NFE 1'
    """
    kind = metric(name)
    found = re.fullmatch(kind.pattern, name)
    return kind.title.format(*(found.groups() if found else ()))
