"""What an experiment asks for: a base config, axes that change it, and every run that follows from them."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Literal

from dynamics.analysis import Claim
from dynamics.config import Changes, RunConfig, with_values
from dynamics.data import Latents
from dynamics.evaluation import EvaluationOptions
from dynamics.options import invalid
from dynamics.sweep import machine_files
from dynamics.sweep.machine_files import Evaluation, FidRequest, Files, Prepare
from dynamics.sweep.seeds_begun import SeedsBegun, more_seeds, seeds_of_axes
from dynamics.training import check_averages

NOWHERE = Files()
Knob = str | int | float
Axes = Mapping[str, Mapping[Any, Changes]]
"""Changes by label, by axis: {"gap": {"0.1-0.3": {...}, ...}, "seed": {0: {"seed": 0}, ...}}."""


@dataclass(frozen=True)
class Experiment:
    """One file of the package `experiments`."""

    name: str
    question: str
    """What the runs are to answer."""
    base: Callable[[str], RunConfig]
    """The config that all runs share, by scale."""
    axes: Callable[[str], Axes]
    """The grid: every combination of one label of each axis is a run."""
    before: Callable[[RunConfig, Mapping[str, Knob]], Sequence[RunConfig]]
    """Runs that come first, in order: each starts from the last checkpoint of the one before, the run itself last."""
    evaluation: Callable[[str], Sequence[EvaluationOptions]]
    """How finished runs are evaluated; nothing means not at all."""
    claims: tuple[Claim, ...] = ()
    """What the runs are to decide, written down before they are."""
    prepare: Prepare | None = None
    """Makes files that a scale needs and nobody has."""


@dataclass(frozen=True)
class Planned:
    """One run of a plan."""

    config: RunConfig
    knobs: dict[str, Knob]
    """Label on each axis; "" where a run that comes first serves several."""
    role: Literal["grid", "before"]
    """A cell of the grid, or a run whose checkpoint others start from."""
    evaluations: tuple[Evaluation, ...] = ()
    first: "Planned | None" = None
    """The run that this one starts from."""

    @cached_property
    def run_id(self) -> str:
        """The config's hash, the name of the run's folder."""
        return self.config.run_id


def experiments(package: str) -> list[str]:
    """Return the names of the experiments in a package."""
    paths = importlib.import_module(package).__path__
    return sorted(module.name for module in pkgutil.iter_modules(paths) if not module.name.startswith("_"))


def experiment(package: str, name: str) -> Experiment:
    """Return an experiment by the name of its file.

    Raises:
        ValueError: There is no such file, or it lacks QUESTION, base or axes.
    """
    names = experiments(package)
    if name not in names:
        raise invalid("experiment", name, ", ".join(names), f"add {package}/{name}.py, or choose one of these")
    module = importlib.import_module(f"{package}.{name}")
    missing = [part for part in ("QUESTION", "base", "axes") if not hasattr(module, part)]
    if missing:
        raise invalid(f"{package}/{name}.py", f"no {', '.join(missing)}", "QUESTION, base and axes", "add them")
    return Experiment(
        name,
        module.QUESTION,
        module.base,
        module.axes,
        getattr(module, "before", lambda config, knobs: ()),
        getattr(module, "evaluation", lambda scale: ()),
        tuple(getattr(module, "CLAIMS", ())),
        getattr(module, "prepare", None),
    )


def plan(experiment: Experiment, scale: str, at: Files = NOWHERE, begun: SeedsBegun | None = None) -> list[Planned]:
    """Return every run of an experiment; a run comes after the one that it starts from.

    Args:
        experiment: What to plan.
        scale: One of `RESOURCES`.
        at: Files that the scale needs.
        begun: Seeds of each arm beyond those that the experiment names; None: there are none.

    Raises:
        ValueError: The scale is not there yet, a value does not fit its config, or two cells are the same run.
    """
    try:
        base, axes = experiment.base(scale), experiment.axes(scale)
    except KeyError as error:  # its numbers by scale
        raise invalid("scale", scale, f"a scale of {experiment.name}", "name it in the experiment's file") from error
    on_latents = isinstance(base.data, Latents)
    if isinstance(base.data, Latents) and base.data.path is None:
        base = with_values(base, {"data.path": at.latents})
    evaluations = tuple(machine_files.requested(options, at, on_latents) for options in experiment.evaluation(scale))
    own = seeds_of_axes(experiment.name, axes) if begun else []
    seeds = more_seeds(own, max(begun.looks[-1], len(own))) if begun else []
    axes = {**axes, "seed": {seed: {"seed": seed} for seed in seeds}} if begun else axes
    grid: dict[str, Planned] = {}
    firsts: dict[str, Planned] = {}
    for labels in product(*axes.values()):
        knobs = dict(zip(axes, labels, strict=True))
        if begun and seeds.index(int(knobs["seed"])) >= max(begun.of(knobs), len(own)):
            continue
        config = base
        for axis, label in knobs.items():
            config = with_values(config, axes[axis][label], f"{axis}={label}")
        first, chain = None, experiment.before(config, knobs)
        for left, earlier in zip(range(len(chain), 0, -1), chain, strict=True):
            # each run of a chain draws other rows; those of the grid draw the same ones, whatever they start from
            earlier = with_values(earlier, {"streams": left})
            first = _first(_starting(earlier, first), knobs, first, evaluations, firsts)
        run = Planned(_starting(config, first), knobs, "grid", evaluations, first)
        if run.run_id in grid:
            raise invalid("axes", [dict(grid[run.run_id].knobs), knobs], "cells that differ", "two are the same run")
        grid[run.run_id] = run
    return [*firsts.values(), *grid.values()]


def _starting(config: RunConfig, first: Planned | None) -> RunConfig:
    """Return the config that starts from a run, whose averages go on."""
    if first is None:
        return config
    config = with_values(config, {"start.run": first.run_id, "start.averages": "carried"})
    check_averages(config.start, config.training.averages, first.config.training.averages)
    return config


def _first(
    config: RunConfig,
    knobs: Mapping[str, Knob],
    before: Planned | None,
    evaluations: tuple[Evaluation, ...],
    firsts: dict[str, Planned],
) -> Planned:
    """Return the run that comes first; several cells may share it, then it keeps only the labels they share."""
    there = firsts.get(config.run_id)
    if there is None:
        firsts[config.run_id] = Planned(config, dict(knobs), "before", evaluations, before)
    else:
        there.knobs.update({axis: "" for axis, label in knobs.items() if there.knobs[axis] != label})
    return firsts[config.run_id]


def select(runs: Sequence[Planned], only: Sequence[str]) -> list[Planned]:
    """Return the runs whose ids begin with one of `only` and those they start from; all where nothing is named.

    Raises:
        ValueError: An id that no run has, or that several have.
    """
    if not only:
        return list(runs)
    chosen = []
    for start in only:
        found = [run for run in runs if run.run_id.startswith(start)]
        if len(found) != 1:
            received = f"{start} ({len(found)} runs)"
            raise invalid("run id", received, "the id of one run, or its first letters", "see the ids that plan prints")
        chosen.extend(found)
    return with_firsts(chosen)


def with_firsts(runs: Sequence[Planned]) -> list[Planned]:
    """Return the runs, each behind the one that it starts from, which comes along."""
    out: dict[str, Planned] = {}

    def place(run: Planned) -> None:
        if run.first is not None:
            place(run.first)
        out.setdefault(run.run_id, run)

    for run in runs:
        place(run)
    return list(out.values())


def check_plan(runs: Sequence[Planned]) -> None:
    """Refuse what would fail only inside the jobs: missing files, observers whose bins the law of times never draws.

    Images of one's own are left to the jobs: they need not lie on the machine that submits.

    Raises:
        ValueError: Naming the run.
    """
    seen = set()
    for run in runs:
        config = run.config
        if isinstance(config.data, Latents) and config.data.path is None:
            raise invalid("latents", None, "the folder that `dynamics encode` made", "--latents FOLDER")
        for evaluation in run.evaluations:
            machine_files.check_files(evaluation, on_latents=isinstance(config.data, Latents))
            sampling = evaluation.fid if isinstance(evaluation, FidRequest) else evaluation
            if sampling.ema_length is not None:
                config.training.check_ema_length(sampling.ema_length)
            config.objective.asking_for(sampling.guidance_scale, sampling.guidance_interval)
        key = (config.data, config.objective, config.times, config.observers)
        of_ones_own = not isinstance(config.data, Latents) and getattr(config.data, "path", None) is not None
        if of_ones_own or key in seen:
            continue
        seen.add(key)
        recipe = config.recipe()
        for options in config.observers:
            try:
                options.observer(recipe)
            except ValueError as error:
                allowed = "observers that fit the run"
                raise invalid(f"run {run.run_id} {run.knobs}", options.kind, allowed, str(error)) from error
