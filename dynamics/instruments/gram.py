"""The gradient Gram: inner products between the gradients of tasks, on independent splits of rows.

Everything that is said about how tasks get along (cosines and their intervals, noise scale, conflict) is computed from
this array afterwards, in `dynamics.analysis`, so that a new estimator needs no new run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np
import torch
import xarray as xr
from pydantic import Field
from torch import Tensor

from dynamics.instruments.gradients import Gradients
from dynamics.instruments.group_gradients import Array, GradientOptions, Group, check_memory, collect
from dynamics.instruments.instrument import InstrumentOptions, Probe, said
from dynamics.instruments.tasks import (
    Task,
    TaskOptions,
    binned_tasks,
    check_part,
    task_coordinates,
    task_rows,
    velocity_task,
)
from dynamics.objectives import Objective
from dynamics.training import Recipe, TrainState


class TaskInstrument(TaskOptions, InstrumentOptions):
    """An instrument whose tasks are v and u by gap."""


T = TypeVar("T", bound=TaskInstrument)


class GramOptions(GradientOptions, TaskInstrument):
    """Inner products between the gradients of v and of u in each gap bin."""

    kind: Literal["gram"] = "gram"
    every: int = Field(default=500, gt=0)
    """Steps between measurements; the last step is always measured."""

    def observer(self, recipe: Recipe, progress: bool = False) -> "GramProbe":
        return GramProbe(recipe, self, progress)


@dataclass(frozen=True)
class TaskProbe(Probe[T]):
    """An observer of tasks: v, and u in each gap bin, unless a subclass has others."""

    @cached_property
    def tasks(self) -> list[Task]:
        """v, then u in each gap bin."""
        o, times = self.options, self.recipe.times
        return [velocity_task(o, times.equal_law or times.law), *binned_tasks(o, times.law)]

    @property
    def objective(self) -> Objective:
        """The objective whose gradients are measured."""
        return self.options.objective(self.recipe.objective)

    def __post_init__(self) -> None:
        for task in self.tasks:  # what cannot be measured fails here, before any work
            check_part(self.objective, task.loss)


@dataclass(frozen=True)
class GramProbe(TaskProbe[GramOptions]):
    """Measures the Gram of v and each gap bin."""

    def measure(self, state: TrainState) -> xr.Dataset:
        """Return `gram` [group, task, split, task2, split2] of a state; see `task_gram`."""
        return task_gram(state, self.tasks, self.recipe, self.options, self.options, self.progress)


def task_gram(
    state: TrainState,
    tasks: Sequence[Task],
    recipe: Recipe,
    options: TaskOptions,
    gradients: GradientOptions,
    progress: bool = False,
) -> xr.Dataset:
    """Measure the Gram of any list of tasks.

    Args:
        state: The run's state; read only.
        tasks: Named laws of (t, r) and losses, those with r = t first.
        recipe: That of the run. Its seed is that of the rows: every measurement of a run sees the same ones.
        options: Splits and rows.
        gradients: How gradients are taken.
        progress: Show a bar.

    Returns:
        `gram` [group, task, split, task2, split2], inner products of the gradients of the mean loss over
        `rows_per_split` rows; `product_error` [group, task, task2], the standard error that the sketch adds to the
        product averaged over pairs of different splits (0 when exact); `loss` [task, split], the raw mean loss.

    Raises:
        ValueError: Exact gradients would not fit into memory; no optimiser state to precondition with.
    """
    k = options.num_splits
    check_memory(len(tasks) * k, state.model, gradients)
    groups = [Group(task_rows(task, s, options, recipe), task.loss) for task in tasks for s in range(k)]
    collected, losses = collect(state, groups, recipe, gradients, progress)
    names = [task.name for task in tasks]
    out = gram_dataset(collected, gradients.groups, names, losses.reshape(len(tasks), k))
    coordinates = task_coordinates(list(tasks), gradients.objective(recipe.objective))
    return out.assign_coords(coordinates).assign_attrs(said(gradients) | said(options))


def gram_dataset(gradients: Gradients, level: str, names: Sequence[str], losses: Array) -> xr.Dataset:
    """Return the inner products of task x split gradients as a labelled dataset; see `task_gram`.

    Args:
        gradients: Of every task and split, task by task.
        level: model, block or tensor.
        names: Of the tasks.
        losses: Mean losses [task, split].
    """
    k = losses.shape[1]
    labels, gram, errors = products(gradients, level, num_tasks=len(names))
    shape = (len(labels), len(names), k, len(names), k)
    unit = {"units": "squared gradient norm"}
    content = {
        "gram": (
            ("group", "task", "split", "task2", "split2"),
            gram.reshape(shape),
            {**unit, "long_name": "inner product of task gradients"},
        ),
        "product_error": (
            ("group", "task", "task2"),
            errors,
            {**unit, "long_name": "standard error of the mean product of different splits, by the sketch"},
        ),
        "loss": (("task", "split"), losses, {"units": "squared pixel", "long_name": "raw loss, mean over rows"}),
    }
    split = {"units": "1", "long_name": "independent split of rows"}
    coords = {
        "group": ("group", labels, {"long_name": "part of the model"}),
        **{dim: (dim, list(names), {"long_name": "task"}) for dim in ("task", "task2")},
        **{dim: (dim, np.arange(k), split) for dim in ("split", "split2")},
    }
    return xr.Dataset(content, coords)


def products(gradients: Gradients, level: str, num_tasks: int) -> tuple[list[str], Array, Array]:
    """Return labels, inner products and the sketch's error for each part of the model.

    Args:
        gradients: Of num_tasks x K groups, task by task.
        level: model, block or tensor.
        num_tasks: Number of tasks.

    Returns:
        Labels [L], products [L, groups, groups], and [L, task, task] the standard error by the sketch of the product
        averaged over pairs of different splits (of the product itself if K = 1).
    """
    total = gradients.num_groups
    members = parts_of(list(gradients.tensors), level)
    gram = np.zeros((len(members), total, total))
    variance = np.zeros((len(members), num_tasks, num_tasks))
    for name, vectors in gradients.tensors.items():
        gram_of = (vectors @ vectors.T).double().cpu().numpy()
        sketched = gradients.sketch is not None and name in gradients.sketch.used
        variance_of = _sketch_variance(vectors.double().view(num_tasks, -1, vectors.shape[1])) if sketched else 0.0
        for i, part in enumerate(members.values()):
            if name in part:
                gram[i] += gram_of
                variance[i] += variance_of
    return list(members), gram, np.sqrt(variance)


def _sketch_variance(vectors: Tensor) -> Array:
    """Bound the variance, over signs, of mean_{a != b} <g_i^a, g_j^b>; vectors [T, K, features] -> [T, T].

    With K = 1 there are no different splits, and the products are those of single vectors, <g_i, g_j>.
    """
    k = vectors.shape[1]
    if k == 1:
        squares = vectors[:, 0].square()
        return np.asarray((squares @ squares.T).cpu())
    totals = vectors.sum(1)
    out = torch.zeros(len(vectors), len(vectors), dtype=torch.float64)
    for i in range(len(vectors)):
        for j in range(i + 1):
            each = (totals[i] * totals[j] - (vectors[i] * vectors[j]).sum(0)) / (k * (k - 1))
            out[i, j] = out[j, i] = each.square().sum()
    return np.asarray(out)


def parts_of(names: Sequence[str], level: str) -> dict[str, list[str]]:
    """Group tensor names: the whole model, blocks ("blocks.3", "embed"), kinds ("blocks.*.attention"), tensors.

    Example:
        >>> list(parts_of(["embed.weight", "blocks.0.attention.qkv.weight"], "block"))
        ['model', 'embed', 'blocks.0', 'blocks.*.attention']
    """
    parts = {"model": list(names)}
    if level == "model":
        return parts
    for kind in (False, True):
        for name in names:
            words = name.split(".")
            repeated = words[0] == "blocks" and len(words) > 2
            if kind and not repeated:
                continue
            label = f"blocks.*.{words[2]}" if kind else ".".join(words[:2]) if repeated else words[0]
            parts.setdefault(label, []).append(name)
    if level == "tensor":
        parts.update({name: [name] for name in names})
    return parts
