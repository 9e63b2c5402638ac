"""The report of one run, or the comparison of several: figures, tables and plain sentences."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import xarray as xr
from matplotlib.figure import Figure

from dynamics.analysis import plots
from dynamics.analysis.affinity import affinity
from dynamics.analysis.comparison import differences
from dynamics.analysis.lookahead import lookahead
from dynamics.analysis.noise import noise_scale
from dynamics.analysis.runs import REMEDIES, label_runs
from dynamics.analysis.summary import summary
from dynamics.analysis.text import how_to_repeat, protocol_table, results_tables, run_tables, sentences
from dynamics.atomic import replacing
from dynamics.options import invalid
from dynamics.store import collect, read_run, write_tree


@dataclass(frozen=True)
class _Picture:
    """One figure of the report."""

    name: str
    draw: Callable[[xr.DataTree], Figure]
    group: str
    caption: str
    optional: bool = False
    """Left out without a word where no run has the group: `dynamics probe` or `evaluate --fid` adds it."""
    left_out: Callable[[xr.DataTree], bool] = lambda tree: False
    """Left out without a word also where this holds."""


def _no_exact(tree: xr.DataTree) -> bool:
    """Whether nothing can have exact errors, as of latents."""
    return "gaps" in tree.children and "v_error" not in tree["gaps"]


def _fid_alone(tree: xr.DataTree) -> bool:
    """Whether runs were evaluated by FID, which has pictures of its own, and in no other way."""
    return "fid" in tree.children and "evaluation" not in tree.children


PICTURES = (
    _Picture(
        "sample_grids",
        plots.sample_grids,
        "evaluation",
        "Samples of the same noise and labels, by sampled field and number of network evaluations (NFE); "
        "a column is a class.",
        left_out=_fid_alone,
    ),
    _Picture(
        "samples_decoded",
        lambda tree: plots.sample_grids(tree, of="fid"),
        "fid",
        "Samples of the same noise and labels, decoded where they are latents, by sampled field and number of network "
        "evaluations (NFE); a column is a class.",
        optional=True,
    ),
    _Picture(
        "fid_by_nfe",
        plots.fid_by_nfe,
        "fid",
        "FID and its companions by number of network evaluations.",
        optional=True,
    ),
    _Picture(
        "distance_by_nfe",
        plots.distance_by_nfe,
        "evaluation",
        "Frechet distance to the reference images, and share of samples that a classifier puts into the class asked "
        "for, by number of network evaluations.",
        left_out=_fid_alone,
    ),
    _Picture(
        "error_by_gap",
        plots.error_by_gap,
        "gaps",
        "Squared error of u relative to the exact average velocity while training, by gap t - r; the last gaps are "
        "those of one-step sampling.",
        left_out=_no_exact,
    ),
    _Picture(
        "velocity_errors",
        plots.velocity_errors,
        "gaps",
        "Squared error of v relative to the exact instantaneous velocity while training, by time; on a finite data "
        "set the exact v memorises at small t, where its error does not measure quality.",
        left_out=_no_exact,
    ),
    _Picture(
        "losses",
        plots.losses,
        "training",
        "Raw losses (before any weighting) of the rows with r = t and with r < t; smoothed, the recorded values faint.",
    ),
    _Picture(
        "loss_map",
        plots.loss_map,
        "cells",
        "Mean raw loss of all training rows by time and gap, in the first, second and last third of training.",
    ),
    _Picture(
        "schedule",
        plots.schedule,
        "training",
        "What the curricula did: share of the weight that u gets, their own series, and the gaps that were drawn.",
    ),
    _Picture(
        "affinity",
        lambda tree: plots.affinity_heatmap(affinity(tree)),
        "gram",
        "Cosine between the true gradients of v and of u in each gap bin, from products of independent splits of rows, "
        "at the last measured step.",
        optional=True,
    ),
    _Picture(
        "affinity_over_training",
        lambda tree: plots.affinity_over_training(affinity(tree)),
        "gram",
        "Cosine between the true gradients of v and of u in each gap bin, over training.",
        optional=True,
    ),
    _Picture(
        "noise_scale",
        lambda tree: plots.noise_scale_by_gap(noise_scale(tree)),
        "gram",
        "Gradient noise scale: the batch size at which noise and signal of a task's gradient are equal.",
        optional=True,
    ),
    _Picture(
        "decomposition_stacks",
        plots.decomposition_stacks,
        "decomposition",
        "What the loss of v consists of by time, and the error of u by gap: where u contradicts the network's own v, "
        "and what that v has wrong.",
        optional=True,
    ),
    _Picture(
        "lookahead",
        lambda tree: plots.lookahead_heatmap(lookahead(tree)),
        "lookahead",
        "By how many percent one step on a task lowers each task's loss, on rows that the step has not seen.",
        optional=True,
    ),
)


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
        parts += [f"## Differences against {reference}", sentences(differences(table, reference), reference)]
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
    for picture in PICTURES:
        if picture.left_out(tree) or (picture.group not in tree.children and picture.optional):
            continue
        if picture.group not in tree.children:
            parts.append(
                f"No {picture.name.replace('_', ' ')}: no run has the group {picture.group}. {REMEDIES[picture.group]}"
            )
            continue
        if picture.name == "distance_by_nfe" and not _has_distances(tree):
            parts.append("No distances: the data have no labels to train a feature extractor with.")
            continue
        figure = picture.draw(tree)
        plots.save(figure, out / "figures" / picture.name)
        parts.append(f"![{figure.get_suptitle()}](figures/{picture.name}.png)\n\n{picture.caption}")
    return "\n\n".join(parts)


def _has_distances(tree: xr.DataTree) -> bool:
    return any(str(name).startswith("fd_") for name in tree["evaluation"].data_vars)
