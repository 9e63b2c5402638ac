"""Numbers and figures from stored results: pure functions of labelled data, no training, no torch."""

from dynamics.analysis import plots
from dynamics.analysis.comparison import differences, protocol, relative_error, summary
from dynamics.analysis.metrics import SEED_SPREAD_EXACT, SEED_SPREAD_FRECHET, metric, metric_title
from dynamics.analysis.report import write_report
from dynamics.analysis.runs import bin_edges, group, label_runs, run_labels

__all__ = [
    "SEED_SPREAD_EXACT",
    "SEED_SPREAD_FRECHET",
    "bin_edges",
    "differences",
    "group",
    "label_runs",
    "metric",
    "metric_title",
    "plots",
    "protocol",
    "relative_error",
    "run_labels",
    "summary",
    "write_report",
]
