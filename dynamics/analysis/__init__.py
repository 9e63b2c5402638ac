"""Numbers and figures from stored results: pure functions of labelled data, no training, no torch.

`gradients` says how tasks get along, `report` how runs compare, `studies` what experiments show; all their figures are
in `plots`.
"""

from dynamics.analysis import plots
from dynamics.analysis.gradients.affinity_by_rows import affinity_of_rows
from dynamics.analysis.gradients.noise_scales import cosine_by_batch, noise_scale
from dynamics.analysis.gradients.step_effects import lookahead
from dynamics.analysis.gradients.task_affinity import affinity, affinity_table, update_cosine
from dynamics.analysis.report.comparison import differences
from dynamics.analysis.report.losses_by_cell import loss_cells, loss_stages
from dynamics.analysis.report.metrics import (
    SEED_SPREAD_EXACT,
    SEED_SPREAD_FRECHET,
    metric,
    metric_columns,
    metric_title,
)
from dynamics.analysis.report.summary_table import protocol, relative_error, summary
from dynamics.analysis.report.written_report import write_report
from dynamics.analysis.run_groups import bin_edges, group, label_runs, run_labels
from dynamics.analysis.studies.average_lengths import at_best_length, at_equal_length, by_ema_length
from dynamics.analysis.studies.beside_papers import beside, published, sentence, sentences
from dynamics.analysis.studies.claims import CLAIMS, Claim, Direction, SpeedUp
from dynamics.analysis.studies.evidence import axes_of, findings, findings_page, findings_table, looks_of
from dynamics.analysis.studies.regime_gates import GATES, regime_gates
from dynamics.analysis.studies.study_report import write_study_report
from dynamics.analysis.studies.study_table import study
from dynamics.analysis.studies.verdicts import Finding, judge

__all__ = [
    "CLAIMS",
    "GATES",
    "SEED_SPREAD_EXACT",
    "SEED_SPREAD_FRECHET",
    "Claim",
    "Direction",
    "Finding",
    "SpeedUp",
    "affinity",
    "affinity_of_rows",
    "affinity_table",
    "at_best_length",
    "at_equal_length",
    "axes_of",
    "beside",
    "bin_edges",
    "by_ema_length",
    "cosine_by_batch",
    "differences",
    "findings",
    "findings_page",
    "findings_table",
    "group",
    "judge",
    "label_runs",
    "lookahead",
    "looks_of",
    "loss_cells",
    "loss_stages",
    "metric",
    "metric_columns",
    "metric_title",
    "noise_scale",
    "plots",
    "protocol",
    "published",
    "regime_gates",
    "relative_error",
    "run_labels",
    "sentence",
    "sentences",
    "study",
    "summary",
    "update_cosine",
    "write_report",
    "write_study_report",
]
