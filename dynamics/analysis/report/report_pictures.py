"""The figures of a report, whatever the number of its runs."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from dynamics.analysis.figure_style import save
from dynamics.analysis.gradients.affinity_figures import affinity_heatmap, affinity_over_training
from dynamics.analysis.gradients.lookahead_figures import lookahead_heatmap
from dynamics.analysis.gradients.noise_figures import noise_scale_by_gap
from dynamics.analysis.gradients.noise_scales import noise_scale
from dynamics.analysis.gradients.step_effects import lookahead
from dynamics.analysis.gradients.task_affinity import affinity
from dynamics.analysis.report.arm_tables import COLUMNS, how_many, main_columns, seeds_of, shown_arms
from dynamics.analysis.report.curriculum_figures import schedule
from dynamics.analysis.report.decomposition_figures import decomposition_stacks
from dynamics.analysis.report.loss_maps import loss_map
from dynamics.analysis.report.plane_figures import points_by_nfe, vector_fields
from dynamics.analysis.report.report_tables import plain, runs_about
from dynamics.analysis.report.sample_figures import distance_by_nfe, distances_of, fid_by_nfe, sample_grids
from dynamics.analysis.report.summary_table import summary
from dynamics.analysis.report.training_figures import error_by_gap, losses, velocity_errors
from dynamics.analysis.run_groups import REMEDIES
from dynamics.analysis.seed_arms import LINES, PANELS, SEEDS_NOTE, arms_of, first_seeds, with_arms
from dynamics.analysis.studies.arm_figures import arms as arms_figure
from dynamics.store import protocol_groups


class ReportPicture(NamedTuple):
    """One figure of the report."""

    name: str
    group: str
    """What it shows."""
    draw: Callable[[xr.DataTree], Figure]
    caption: str
    variable: str = ""
    """What of the group it needs; where a group lacks it, the picture is left out without a word."""
    arms: bool = False
    """Whether it draws arms as lines, with intervals over seeds; else it has panels for one run of each arm."""


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
    ReportPicture(
        "fid_by_nfe", "fid", fid_by_nfe, "FID and its companions by number of network evaluations.", arms=True
    ),
    ReportPicture(
        "distance_by_nfe",
        "evaluation",
        distance_by_nfe,
        "Distance of samples to the data, and share of samples that a classifier puts into the class asked for, by "
        "number of network evaluations.",
        arms=True,
    ),
    ReportPicture(
        "error_by_gap",
        "gaps",
        error_by_gap,
        "Squared error of u relative to the exact average velocity while training, by gap t - r; the last gaps are "
        "those of one-step sampling.",
        "v_error",
        arms=True,
    ),
    ReportPicture(
        "velocity_errors",
        "gaps",
        velocity_errors,
        "Squared error of v relative to the exact instantaneous velocity while training, by time; on a finite data "
        "set the exact v memorises at small t, where its error does not measure quality.",
        "v_error",
        arms=True,
    ),
    ReportPicture(
        "losses",
        "training",
        losses,
        "Raw losses (before any weighting) of the rows with r = t and with r < t; smoothed, the recorded values faint.",
        arms=True,
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
        arms=True,
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


def drawn(tree: xr.DataTree, out: Path, means: pd.DataFrame, baseline: str) -> str:
    """Draw the figures that the groups allow, and link them; say what adds the others."""
    arms = arms_of(tree)
    names = {one_seed: shown_arms(means, baseline, PANELS if one_seed else LINES) for one_seed in (True, False)}
    trees = {one_seed: with_arms(tree, {name: arms[name] for name in own}) for one_seed, own in names.items()}
    trees[True] = first_seeds(trees[True])
    notes = {one_seed: how_many(means, arms, own, one_seed) for one_seed, own in names.items()}
    parts = []
    if any(len(runs) > 1 for runs in arms.values()) or len(arms) > COLUMNS:
        parts.append(_all_arms(tree, out, baseline))
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
        for name, at in protocol_groups([str(name) for name in tree.children], picture.group).items():
            view = _by_protocol(trees[not picture.arms], picture.group, name)
            if view is None or (at and _left_out(view, picture)):
                continue
            figure = picture.draw(view)
            file = picture.name + at.replace("@", "_")
            save(figure, out / "figures" / file)
            by = f" Protocol {at[1:]}." if at else ""
            caption = picture.caption + by + notes[not picture.arms]
            parts.append(f"![{plain(figure.get_suptitle())}](figures/{file}.png)\n\n{plain(caption)}")
    return "\n\n".join(parts)


def _by_protocol(tree: xr.DataTree, group: str, name: str) -> xr.DataTree | None:
    """Return a tree in which one protocol's group takes the place of the first one; None if it shows no such runs."""
    if name not in tree.children:
        return None
    if name == group:
        return tree
    groups = {f"/{other}": child.to_dataset() for other, child in tree.children.items() if other != group}
    measured = groups[f"/{name}"]
    attributes = {str(key): str(key).replace(f"{name}.", f"{group}.", 1) for key in measured.coords}
    groups[f"/{group}"] = measured.rename({old: new for old, new in attributes.items() if old != new})
    return xr.DataTree.from_dict({"/": tree.to_dataset(), **groups})


def _all_arms(tree: xr.DataTree, out: Path, baseline: str) -> str:
    """Draw every arm and seed as dots, whatever their number."""
    table = summary(tree)
    names = main_columns(table)[:3]
    arm_of = {run: arm for arm, runs in arms_of(tree).items() for run in runs}
    seeds = seeds_of(runs_about(tree))
    rows = table.assign(arm=table.index.map(arm_of), seed=table.index.map(seeds))
    figure = arms_figure(rows, "arm", names, baseline)
    save(figure, out / "figures" / "arms.png")
    caption = f"Every arm: each seed a dot, and the mean with the {SEEDS_NOTE}."
    return f"![{figure.get_suptitle()}](figures/arms.png)\n\n{caption}"


def _left_out(tree: xr.DataTree, picture: ReportPicture) -> bool:
    """Whether a figure is left out without a word."""
    group = picture.group
    if group not in tree.children:  # those of FID take the place of the evaluation's, where it alone was measured
        return group in ADDED_LATER or picture.variable in PLANE or (group == "evaluation" and "fid" in tree.children)
    return picture.variable not in ("", *tree[group].data_vars)
