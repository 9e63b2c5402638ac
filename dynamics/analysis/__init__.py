"""Numbers and figures from stored results: pure functions of labelled data, no training, no torch."""

from dynamics.analysis import plots
from dynamics.analysis.affinity import affinity, update_cosine
from dynamics.analysis.cells import loss_cells, loss_stages
from dynamics.analysis.claims import Claim, Finding, SpeedUp, judge
from dynamics.analysis.comparison import differences
from dynamics.analysis.findings import axes_of, findings, findings_table
from dynamics.analysis.lookahead import lookahead
from dynamics.analysis.metrics import SEED_SPREAD_EXACT, SEED_SPREAD_FRECHET, metric, metric_title
from dynamics.analysis.noise import cosine_by_batch, noise_scale
from dynamics.analysis.published import beside, published, sentence, sentences
from dynamics.analysis.report import write_report
from dynamics.analysis.rows import affinity_of_rows
from dynamics.analysis.runs import bin_edges, group, label_runs, run_labels
from dynamics.analysis.study import study
from dynamics.analysis.summary import protocol, relative_error, summary

__all__ = [
    "SEED_SPREAD_EXACT",
    "SEED_SPREAD_FRECHET",
    "Claim",
    "Finding",
    "SpeedUp",
    "affinity",
    "affinity_of_rows",
    "axes_of",
    "beside",
    "bin_edges",
    "cosine_by_batch",
    "differences",
    "findings",
    "findings_table",
    "group",
    "judge",
    "label_runs",
    "lookahead",
    "loss_cells",
    "loss_stages",
    "metric",
    "metric_title",
    "noise_scale",
    "plots",
    "protocol",
    "published",
    "relative_error",
    "run_labels",
    "sentence",
    "sentences",
    "study",
    "summary",
    "update_cosine",
    "write_report",
]
