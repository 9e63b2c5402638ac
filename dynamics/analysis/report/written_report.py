"""The report of one run, or the comparison of several: figures, tables and plain sentences."""

from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from dynamics.analysis.report.arm_tables import (
    COLUMNS,
    arm_means,
    arms_about,
    arms_compared,
    numbers_by_arm,
    seeds_of,
)
from dynamics.analysis.report.comparison import differences
from dynamics.analysis.report.repeating import how_to_repeat
from dynamics.analysis.report.report_pictures import drawn
from dynamics.analysis.report.report_tables import (
    difference_sentences,
    knobs_table,
    markdown,
    plain,
    protocol_table,
    results_tables,
    runs_about,
    runs_table,
)
from dynamics.analysis.report.summary_table import summary
from dynamics.analysis.run_groups import label_runs
from dynamics.analysis.seed_arms import SEEDS_NOTE, arms_by_config, arms_of, with_arms
from dynamics.atomic import replacing
from dynamics.options import invalid
from dynamics.store import collect, read_run, write_tree


def write_report(
    run_dirs: Sequence[Path],
    out: Path,
    title: str | None = None,
    baseline: str | None = None,
    labels: Sequence[str] | None = None,
) -> Path:
    """Write merged.nc, runs.csv, figures/*.png and *.svg, and report.md into a folder; what is there is replaced.

    Runs that differ in nothing but their seed are one arm, shown by its mean with an interval over seeds.

    Args:
        run_dirs: Folders of finished runs, in the order they are shown.
        out: The folder; made if missing.
        title: The report's title.
        baseline: Label of the run or arm that the others are compared with; the first if None.
        labels: A name for each run; the folders' names if None.

    Returns:
        Path of report.md.

    Raises:
        ValueError: No run, a folder without run.nc, labels that do not fit, an unknown baseline, or neither exact
            errors nor FID.
    """
    folders = [Path(folder) for folder in run_dirs]
    names = _labels(folders, labels)
    tree = _open(folders, names)
    arms = arms_by_config(tree)
    of_run = {run: arm for arm, runs in arms.items() for run in runs}
    if baseline is not None and baseline not in {*of_run, *arms}:
        raise invalid("baseline", baseline, ", ".join(dict.fromkeys([*names, *arms])), "name one of the runs")
    repeat = how_to_repeat(tree, dict(zip(names, folders, strict=True)), Path(out), title, baseline)
    lead = f"Report of {names[0]}" if len(names) == 1 else f"Comparison of {len(names)} runs"
    first = next(iter(arms)) if baseline is None else of_run.get(baseline, baseline)
    return write_pages(with_arms(tree, arms), Path(out), title or lead, first, repeat)


def write_pages(
    tree: xr.DataTree, out: Path, title: str, baseline: str, repeat: str, first: Sequence[str] = ()
) -> Path:
    """Write the report of runs that are merged and know their arms.

    Args:
        tree: From `with_arms`.
        out: The folder; made if missing.
        title: The report's title.
        baseline: The arm that the others are compared with.
        repeat: How the runs are made again.
        first: Sections of Markdown that come before all others.
    """
    arms, table = arms_of(tree), summary(tree)
    means, runs = arm_means(table, arms), runs_table(tree)
    write_tree(out / "merged.nc", tree)
    several = len(arms) < len(table)
    pictures = drawn(tree, out, means, baseline)
    with replacing(out / "runs.csv") as temporary:
        runs.merge(table, left_on="run", right_index=True).to_csv(temporary, index=False)
    parts = [f"# {plain(title)}", *first, "## What was run"]
    shown = {members[0]: arm for arm, members in arms.items()}
    parts.append(markdown(arms_about(runs, arms) if several else runs) + knobs_table(tree, shown))
    parts += ["Every number of every run: [runs.csv](runs.csv)."] if len(table) > 1 else []
    if several:
        note = f"Runs that differ in their seed alone are one arm: its mean with the {SEEDS_NOTE}"
        parts.append(f"{note}, in place of the errors of a single run that the tables name.")
    parts += ["## Results", results_tables(means, numbers_by_arm)]
    if len(arms) > 1:
        seeds = seeds_of(runs_about(tree))
        compared = (
            arms_compared(table, arms, seeds, baseline)
            if several or len(arms) > COLUMNS
            else difference_sentences(differences(means, baseline), baseline)
        )
        parts += [f"## Differences against {plain(baseline)}", compared]
    parts += ["## Figures", pictures]
    parts += ["## Protocol", protocol_table(tree)]
    parts += ["## How to repeat it", repeat]
    with replacing(out / "report.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return out / "report.md"


def _labels(folders: Sequence[Path], labels: Sequence[str] | None) -> list[str]:
    if not folders:
        raise invalid("run_dirs", [], "at least one run folder", "name the folders of finished runs")
    for folder in folders:
        if not (folder / "run.nc").is_file():
            remedy = f"train it to the end: dynamics train PRESET --out {folder}"
            raise invalid("run", str(folder), "a finished run (with run.nc)", remedy)
    if labels is None:
        names = [folder.resolve().name for folder in folders]
        return names if len(set(names)) == len(names) else [str(folder) for folder in folders]
    if len(labels) != len(folders) or len(set(labels)) != len(labels):
        raise invalid("labels", list(labels), f"{len(folders)} different names", "pass one label a run")
    return list(labels)


def _open(folders: Sequence[Path], names: Sequence[str]) -> xr.DataTree:
    files = [folder / "run.nc" for folder in folders]
    tree = collect(files)
    ids = [str(read_run(file).attrs["run_id"]) for file in files]
    return label_runs(tree, dict(zip(ids, names, strict=True)))
