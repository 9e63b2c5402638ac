"""The claims of a sweep after the seeds that there are, and which of its arms go on."""

from collections.abc import Sequence
from dataclasses import dataclass

from dynamics.analysis import Finding, axes_of, findings
from dynamics.analysis.studies.open_claims import open_claims, runs_compared
from dynamics.analysis.studies.study_table import grid_labels
from dynamics.sweep.collect import checked_content, merged_runs
from dynamics.sweep.grid import Experiment, Planned
from dynamics.sweep.seeds_begun import SeedsBegun, arm_text
from dynamics.sweep.sweep_folder import SweepFolder


@dataclass(frozen=True)
class Look:
    """What one look found."""

    findings: list[Finding]
    """Of every claim."""
    undecided: list[Finding]
    """Those that more seeds may decide."""
    arms: list[str]
    """Arms that these compare, in the plan's order."""


def look(sweep: SweepFolder, experiment: Experiment, runs: Sequence[Planned], begun: SeedsBegun) -> Look:
    """Judge the claims of a sweep from its finished runs, at limits that hold at every look.

    Args:
        sweep: Where the runs are.
        experiment: Whose plan it is.
        runs: The plan; all its runs are done.
        begun: Looks, made and to come.

    Raises:
        ValueError: A file is damaged, or a claim is about what these runs do not measure.
    """
    grid = [run for run in runs if run.role == "grid"]
    contents = [checked_content(sweep.run(run.run_id), run) for run in grid]
    tree = merged_runs(contents, grid, experiment, sweep.scale, begun)
    found = findings(tree)
    undecided = open_claims(found)
    labels = grid_labels(tree, axes_of(tree))
    compared = {run for finding in undecided for run in runs_compared(labels, finding.claim)}
    arms = dict.fromkeys(arm_text(run.knobs) for run in grid if run.run_id in compared)
    return Look(found, undecided, list(arms))
