"""The report of one run, or the comparison of several: figures, tables and plain sentences."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import xarray as xr
from matplotlib.figure import Figure

from dynamics.analysis.figure_style import save
from dynamics.analysis.gradients.affinity_figures import affinity_heatmap, affinity_over_training
from dynamics.analysis.gradients.lookahead_figures import lookahead_heatmap
from dynamics.analysis.gradients.noise_figures import noise_scale_by_gap
from dynamics.analysis.gradients.noise_scales import noise_scale
from dynamics.analysis.gradients.step_effects import lookahead
from dynamics.analysis.gradients.task_affinity import affinity
from dynamics.analysis.report.comparison import differences
from dynamics.analysis.report.curriculum_figures import schedule
from dynamics.analysis.report.decomposition_figures import decomposition_stacks
from dynamics.analysis.report.loss_maps import loss_map
from dynamics.analysis.report.plane_figures import points_by_nfe, vector_fields
from dynamics.analysis.report.repeating import how_to_repeat
from dynamics.analysis.report.report_tables import difference_sentences, protocol_table, results_tables, run_tables
from dynamics.analysis.report.sample_figures import distance_by_nfe, distances_of, fid_by_nfe, sample_grids
from dynamics.analysis.report.summary_table import summary
from dynamics.analysis.report.training_figures import error_by_gap, losses, velocity_errors
from dynamics.analysis.run_groups import REMEDIES, label_runs
from dynamics.atomic import replacing
from dynamics.options import invalid
from dynamics.store import collect, read_run, write_tree


class ReportPicture(NamedTuple):
    """One figure of the report."""

    name: str
    group: str
    """What it shows."""
    draw: Callable[[xr.DataTree], Figure]
    caption: str
    variable: str = ""
    """What of the group it needs; where a group lacks it, the picture is left out without a word."""


REPORT_PICTURES = (
    ReportPicture(
        "sample_grids",
        "evaluation",
        sample_grids,
        "Samples of the same noise and labels, by sampled field and number of network evaluations (NFE); "
        "a column is a class.",
        "samples",
    ),
    ReportPicture(
        "points_by_nfe",
        "evaluation",
        points_by_nfe,
        "Points of the data, and samples of the same noise by sampled field and number of network evaluations (NFE); "
        "colours are classes.",
        "points",
    ),
    ReportPicture(
        "vector_fields",
        "evaluation",
        vector_fields,
        "The network's v and u on a grid of z_t, coloured by their distance to the exact velocities in the row below; "
        "only where z_t can be.",
        "velocity",
    ),
    ReportPicture(
        "samples_decoded",
        "fid",
        lambda tree: sample_grids(tree, of="fid"),
        "Samples of the same noise and labels, decoded where they are latents, by sampled field and number of network "
        "evaluations (NFE); a column is a class.",
        "samples",
    ),
    ReportPicture("fid_by_nfe", "fid", fid_by_nfe, "FID and its companions by number of network evaluations."),
    ReportPicture(
        "distance_by_nfe",
        "evaluation",
        distance_by_nfe,
        "Distance of samples to the data, and share of samples that a classifier puts into the class asked for, by "
        "number of network evaluations.",
    ),
    ReportPicture(
        "error_by_gap",
        "gaps",
        error_by_gap,
        "Squared error of u relative to the exact average velocity while training, by gap t - r; the last gaps are "
        "those of one-step sampling.",
        "v_error",
    ),
    ReportPicture(
        "velocity_errors",
        "gaps",
        velocity_errors,
        "Squared error of v relative to the exact instantaneous velocity while training, by time; on a finite data "
        "set the exact v memorises at small t, where its error does not measure quality.",
        "v_error",
    ),
    ReportPicture(
        "losses",
        "training",
        losses,
        "Raw losses (before any weighting) of the rows with r = t and with r < t; smoothed, the recorded values faint.",
    ),
    ReportPicture(
        "loss_map",
        "cells",
        loss_map,
        "Mean raw loss of all training rows by time and gap, in the first, second and last third of training.",
    ),
    ReportPicture(
        "schedule",
        "training",
        schedule,
        "What the curricula did: share of the weight that u gets, their own series, and the gaps that were drawn.",
    ),
    ReportPicture(
        "affinity",
        "gram",
        lambda tree: affinity_heatmap(affinity(tree)),
        "Cosine between the true gradients of v and of u in each gap bin, from products of independent splits of rows, "
        "at the last measured step.",
    ),
    ReportPicture(
        "affinity_over_training",
        "gram",
        lambda tree: affinity_over_training(affinity(tree)),
        "Cosine between the true gradients of v and of u in each gap bin, over training.",
    ),
    ReportPicture(
        "noise_scale",
        "gram",
        lambda tree: noise_scale_by_gap(noise_scale(tree)),
        "Gradient noise scale: the batch size at which noise and signal of a task's gradient are equal.",
    ),
    ReportPicture(
        "decomposition_stacks",
        "decomposition",
        decomposition_stacks,
        "What the loss of v consists of by time, and the error of u by gap: where u contradicts the network's own v, "
        "and what that v has wrong.",
    ),
    ReportPicture(
        "lookahead",
        "lookahead",
        lambda tree: lookahead_heatmap(lookahead(tree)),
        "By how many percent one step on a task lowers each task's loss, on rows that the step has not seen.",
    ),
)
"""The figures of a report, in its order; a new one is drawn by a function of this room and listed here."""
PLANE = ("points", "velocity")
"""What only runs on points of the plane have: others need not hear of these figures."""
ADDED_LATER = ("fid", "gram", "decomposition", "lookahead")
"""Groups that `dynamics probe` and `evaluate --fid` add: their figures are left out without a word where they lack."""


def write_report(
    run_dirs: Sequence[Path],
    out: Path,
    title: str | None = None,
    baseline: str | None = None,
    labels: Sequence[str] | None = None,
) -> Path:
    """Write merged.nc, figures/*.png and *.svg, and report.md into a folder; what is there is replaced.

    Args:
        run_dirs: Folders of finished runs, in the order they are shown.
        out: The folder; made if missing.
        title: The report's title.
        baseline: Label of the run that the others are compared with; the first if None.
        labels: A name for each run; the folders' names if None.

    Returns:
        Path of report.md.

    Raises:
        ValueError: No run, a folder without run.nc, labels that do not fit, an unknown baseline, or neither exact
            errors nor FID.
    """
    folders = [Path(folder) for folder in run_dirs]
    names = _labels(folders, labels)
    if baseline is not None and baseline not in names:
        raise invalid("baseline", baseline, ", ".join(names), "name one of the runs")
    tree = _open(folders, names)
    table = summary(tree)
    out = Path(out)
    write_tree(out / "merged.nc", tree)
    pictures = _pictures(tree, out)
    lead = f"Report of {names[0]}" if len(names) == 1 else f"Comparison of {len(names)} runs"
    parts = [
        f"# {title or lead}",
        "## What was run",
        run_tables(tree),
        "## Results",
        results_tables(table),
    ]
    if len(names) > 1:
        reference = baseline or names[0]
        parts += [f"## Differences against {reference}", difference_sentences(differences(table, reference), reference)]
    parts += ["## Figures", pictures]
    parts += ["## Protocol", protocol_table(tree)]
    parts += ["## How to repeat it", how_to_repeat(tree, dict(zip(names, folders, strict=True)), out, title, baseline)]
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


def _pictures(tree: xr.DataTree, out: Path) -> str:
    """Draw the figures that the groups allow, and link them; say what adds the others."""
    parts = []
    for picture in REPORT_PICTURES:
        if _left_out(tree, picture):
            continue
        if picture.group not in tree.children:
            name, command = picture.name.replace("_", " "), REMEDIES[picture.group]
            parts.append(f"No {name}: no run has the group {picture.group}. {command}")
            continue
        if picture.name == "distance_by_nfe" and not distances_of(tree["evaluation"].to_dataset()):
            parts.append("No distances: the data have no labels to train a feature extractor with.")
            continue
        figure = picture.draw(tree)
        save(figure, out / "figures" / picture.name)
        parts.append(f"![{figure.get_suptitle()}](figures/{picture.name}.png)\n\n{picture.caption}")
    return "\n\n".join(parts)


def _left_out(tree: xr.DataTree, picture: ReportPicture) -> bool:
    """Whether a figure is left out without a word."""
    group = picture.group
    if group not in tree.children:  # those of FID take the place of the evaluation's, where it alone was measured
        return group in ADDED_LATER or picture.variable in PLANE or (group == "evaluation" and "fid" in tree.children)
    return picture.variable not in ("", *tree[group].data_vars)
