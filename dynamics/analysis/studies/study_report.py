"""The report of an experiment: its claims first, then its arms, then figures."""

from pathlib import Path

import xarray as xr

from dynamics.analysis.figure_style import save
from dynamics.analysis.report.report_tables import plain
from dynamics.analysis.report.written_report import write_pages
from dynamics.analysis.run_groups import label_runs
from dynamics.analysis.seed_arms import with_arms
from dynamics.analysis.studies.effect_figures import effects
from dynamics.analysis.studies.evidence import axes_of, claims_table, findings, looks_of
from dynamics.analysis.studies.study_regime import regime
from dynamics.analysis.studies.study_table import grid_labels


def write_study_report(tree: xr.DataTree, out: Path, repeat: str) -> Path:
    """Write the report of an experiment's grid into a folder: an arm is a cell of all axes but the seed.

    Args:
        tree: Runs merged as `collect` merges them; those that others start from are left out.
        out: The folder; made if missing.
        repeat: How the runs are made again.

    Returns:
        Path of report.md.

    Raises:
        ValueError: The tree is not that of an experiment.
    """
    axes = axes_of(tree)
    by = [axis for axis in axes if axis != "seed"]
    arms: dict[str, list[str]] = {}
    named: dict[str, str] = {}
    for run, row in grid_labels(tree, axes).iterrows():
        parts = [f"{axis}={row[axis]}" if len(by) > 1 else str(row[axis]) for axis in by]
        named[str(run)] = ", ".join([*parts, *([f"seed={row['seed']:g}"] if "seed" in axes else [])])
        arms.setdefault(", ".join(parts) or "all runs", []).append(named[str(run)])
    grid = with_arms(label_runs(tree, named), arms)
    title = f"{tree.attrs['experiment']}, {tree.attrs['scale']}"
    first = [*map(plain, filter(None, (tree.attrs["question"], regime(tree)))), "## Claims", _claims(tree, out)]
    return write_pages(grid, out, title, next(iter(arms)), repeat, first)


def _claims(tree: xr.DataTree, out: Path) -> str:
    try:
        found = findings(tree)
    except ValueError as error:  # a claim of what these runs do not hold: the rest of the report stands
        return f"The claims cannot be judged: {plain(error)}"
    if not found:
        return "This experiment claims nothing."
    figure = effects(found)
    save(figure, out / "figures" / "claims.png")
    text = "Each interval is that of its claim by itself; p and the verdict hold among all claims of a question."
    if looks := looks_of(tree):
        text += (
            f" Looks at the claims were meant for {', '.join(map(str, looks))} seeds, and {tree.attrs['looks_made']} of"
            " them made so far: p and the intervals of claims hold at every look. Those of arms, further down, do not."
        )
    return f"{claims_table(found)}\n\n{text}\n\n![{figure.get_suptitle()}](figures/claims.png)"
