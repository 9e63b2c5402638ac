"""The tasks whose gradients are compared: v, and u in each gap bin, on independent splits of rows."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from dynamics.flow.gap_bins import within_gap_bin
from dynamics.flow.rows import Rows
from dynamics.flow.times import TimeLaw, UniformGap, UniformGapFromTime
from dynamics.instruments.instrument import asking
from dynamics.objectives import LossTerms, Objective
from dynamics.options import Options, check_edges, invalid
from dynamics.rng import generator
from dynamics.training import Recipe

WHOLE = "whole"
"""Name of the loss that is the objective's own, beside the names of its parts."""


class LossOptions(Options):
    """Which loss of which weights is measured."""

    loss: Literal["adaptive", "raw"] = "adaptive"
    """The loss as training weighs it (the objective's adaptive weight of each row), or the raw squared error."""
    guidance: Literal["run", "off"] = "run"
    """Whether the targets are guided as in training or not at all; labels are never dropped."""
    weights: Literal["model", "ema"] = "model"
    """Which weights are measured: the raw ones, which training moves, or the first average."""

    def objective(self, trained: Objective) -> Objective:
        """Return the objective whose gradients are measured: what the one that was trained names.

        Raises:
            ValueError: It has no loss for r < t rows, whose gradients are asked for.
        """
        measured = trained.measured(self.guidance)
        if not measured.TAKES_GAPS:
            allowed = "an objective with a loss for r < t rows, or whose `measured` names one"
            remedy = "measure its exact errors by gaps, or the gradients of a run that starts from it (start.run)"
            raise invalid("instrument of gradients", trained.kind, allowed, remedy)
        return measured


class TaskOptions(LossOptions):
    """Which rows the tasks are measured on."""

    gap_edges: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """Edges of the bins of the gap t - r; each bin is one task, v is another."""
    num_splits: int = 8
    """Independent splits K; error bars come from them."""
    rows_per_split: int = Field(default=24, gt=0)
    """Rows of each task in each split."""
    t_law: Literal["training", "uniform", "matched"] = "training"
    """Law of t: the run's own given the gap bin, uniform, or one law for all tasks (uniform above the last edge)."""
    rows: Literal["shared", "independent"] = "shared"
    """Whether all tasks of a split see the same images and noise; different splits never do."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_edges("gap_edges", self.gap_edges)
        if self.num_splits < 2:
            remedy = "an unbiased product needs two independent gradients; 8 give usable error bars"
            raise invalid("num_splits", self.num_splits, "2 or more", remedy)
        if self.t_law == "matched" and self.gap_edges[-1] >= 1:
            allowed = "edges below 1 with t_law 'matched', where every task has t >= the last edge"
            raise invalid("gap_edges", self.gap_edges, allowed, "leave the last bin out, or choose another t_law")
        return self


@dataclass(frozen=True)
class Task:
    """One loss on one law of (t, r)."""

    name: str
    law: TimeLaw
    equal: bool
    """Whether r = t."""
    low: float = 0.0
    """Smallest gap."""
    high: float = 0.0
    """Largest gap."""
    loss: str = WHOLE
    """What the task minimises: the objective's loss, or one of its parts (see `Objective.parts`)."""


def velocity_task(options: TaskOptions, training_law: TimeLaw) -> Task:
    """Return the task of the instantaneous velocity, r = t."""
    top = options.gap_edges[-1]
    uniform = UniformGap(low=0, high=0)
    laws = {"training": training_law, "uniform": uniform}
    law = laws.get(options.t_law) or UniformGapFromTime(t_min=top, low=0, high=0)
    return Task("v", law, equal=True)


def binned_tasks(options: TaskOptions, training_law: TimeLaw, loss: str = WHOLE, prefix: str = "u") -> list[Task]:
    """Return one task a gap bin.

    Raises:
        ValueError: The training law never draws gaps of a bin.
    """
    tasks = []
    for low, high in pairwise(options.gap_edges):
        if options.t_law == "training":
            law = within_gap_bin(training_law, low, high)
        elif options.t_law == "uniform":
            law = UniformGap(low=low, high=high)
        else:
            law = UniformGapFromTime(t_min=options.gap_edges[-1], low=low, high=high)
        law.quantile(*torch.full((2, 1), 0.5, dtype=torch.float64))  # an impossible bin fails here, before any work
        tasks.append(Task(f"{prefix} {low:g}-{high:g}", law, False, low, high, loss))
    return tasks


def task_rows(task: Task, split: int, options: TaskOptions, recipe: Recipe) -> Rows:
    """Draw the rows of one task in one split.

    Splits are independent draws of the data set, not parts of one pass over it: rows that exclude each other would bias
    products between splits downwards on a small data set. Shared rows also share the uniform numbers behind t and r.
    """
    n, data, seed = options.rows_per_split, recipe.data, recipe.seed
    whose = "all" if options.rows == "shared" else task.name
    x, c = data.batch(generator(seed, "task images", whose, split).initial_seed(), 0, n)
    e = torch.randn(x.shape, generator=generator(seed, "task noise", whose, split))
    t, r = task.law.sample(n, generator(seed, "task times", whose, split))
    if task.equal:
        r = t
    rows = Rows(x, e, t, r, c, torch.zeros(n, dtype=torch.bool), n if task.equal else 0, data.condition)
    return asking(rows, options.objective(recipe.objective), seed, "task more", whose, split)


def check_part(objective: Objective, loss: str) -> None:
    """Refuse a task whose loss is no part of the objective's.

    Raises:
        ValueError: The objective has no part of that name.
    """
    if loss not in (WHOLE, *objective.PARTS):
        received = f"{loss} of {objective.kind}"
        allowed = ", ".join(objective.PARTS) or "an objective whose loss has parts"
        raise invalid("part of the loss", received, allowed, "leave this instrument out")


def task_loss(objective: Objective, loss: str, terms: LossTerms, rows: Rows) -> Tensor:
    """Return a task's loss of each row, [B], with gradient."""
    return terms.raw if loss == WHOLE else objective.parts(terms, rows)[loss]


Coordinate = tuple[str, "list[str] | list[float] | list[int] | np.ndarray[Any, Any]", dict[str, str]]


def task_coordinates(tasks: list[Task], objective: Objective, suffix: str = "") -> dict[str, Coordinate]:
    """Return the labels of a task dimension: name, gap bin and loss."""
    dim = f"task{suffix}"
    labels: dict[str, Coordinate] = {dim: (dim, [task.name for task in tasks], {"long_name": "task"})}
    if not suffix:
        gap = {"units": "1"}
        labels["gap_low"] = (dim, [task.low for task in tasks], {**gap, "long_name": "smallest gap t - r"})
        labels["gap_high"] = (dim, [task.high for task in tasks], {**gap, "long_name": "largest gap t - r"})
        losses = [objective.kind if task.loss == WHOLE else task.loss for task in tasks]
        labels["task_loss"] = (dim, losses, {"long_name": "what the task minimises"})
    return labels
