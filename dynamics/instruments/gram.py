"""The gradient Gram: inner products between the gradients of tasks, on independent splits of rows.

Everything that is said about how tasks get along (cosines and their intervals, noise scale, conflict) is computed from
this array afterwards, in `dynamics.analysis`, so that a new estimator needs no new run.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
import xarray as xr
from pydantic import Field
from torch import Tensor, nn
from tqdm import tqdm

from dynamics.flow.progress import Progress
from dynamics.flow.rows import Rows, chained
from dynamics.instruments.gradients import Gradients, Sketch, add_layer, tapped
from dynamics.instruments.instrument import InstrumentOptions, Probe, said
from dynamics.instruments.tasks import (
    WHOLE,
    LossOptions,
    Task,
    TaskOptions,
    gap_tasks,
    task_coordinates,
    task_loss,
    task_rows,
    velocity_task,
)
from dynamics.models import Network
from dynamics.objectives import Objective
from dynamics.options import invalid
from dynamics.training import Recipe, TrainState

Array = np.ndarray[Any, np.dtype[np.float64]]


class GradientOptions(LossOptions):
    """How gradients are taken and what is kept of them."""

    precondition: Literal["none", "adam"] = "none"
    """Plain inner products, or <g_i, P g_j> with P = 1 / (sqrt(v_hat) + eps) of the run's optimiser."""
    groups: Literal["model", "block", "tensor"] = "block"
    """Inner products of the whole model; also of each block and kind of layer; also of each tensor."""
    backend: Literal["exact", "sketch"] = "exact"
    """Keep whole gradients, or a seeded sketch of each for models whose gradients do not fit into memory."""
    sketch_size: int = Field(default=4096, gt=0)
    """Numbers kept of each tensor by the sketch; smaller tensors are kept whole."""
    rows_per_pass: int = Field(default=128, gt=0)
    """Rows that go through the network at once; bounds the memory of activations."""

    @property
    def needs_moments(self) -> bool:
        """Whether the optimiser's moments are read."""
        return self.precondition == "adam"


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


class Group(NamedTuple):
    """Rows whose mean loss is differentiated, and which loss that is."""

    rows: Rows
    loss: str = WHOLE


@dataclass(frozen=True)
class TaskProbe(Probe[T]):
    """An observer of tasks: v, and u in each gap bin, unless a subclass has others."""

    @cached_property
    def tasks(self) -> list[Task]:
        """v, then u in each gap bin."""
        o, law = self.options, self.recipe.times.law
        return [velocity_task(o, law), *gap_tasks(o, law)]

    @property
    def objective(self) -> Objective:
        """The objective whose gradients are measured."""
        return self.options.objective(self.recipe.objective)

    def __post_init__(self) -> None:
        assert self.tasks and self.objective, "what cannot be measured fails here, before any work"


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
    k, names = options.num_splits, [task.name for task in tasks]
    check_memory(len(tasks) * k, state.model, gradients)
    groups = [Group(task_rows(task, s, options, recipe), task.loss) for task in tasks for s in range(k)]
    collected, losses = collect(state, groups, recipe, gradients, progress)
    labels, gram, errors = products(collected, gradients.groups, num_tasks=len(tasks))
    shape = (len(labels), len(tasks), k, len(tasks), k)
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
        "loss": (
            ("task", "split"),
            losses.reshape(len(tasks), k),
            {"units": "squared pixel", "long_name": "raw loss, mean over rows"},
        ),
    }
    split = {"units": "1", "long_name": "independent split of rows"}
    coords = {
        "group": ("group", labels, {"long_name": "part of the model"}),
        **task_coordinates(list(tasks), gradients.objective(recipe.objective)),
        **{"task2": ("task2", names, {"long_name": "task"})},
        **{dim: (dim, np.arange(k), split) for dim in ("split", "split2")},
    }
    return xr.Dataset(content, coords, attrs=said(gradients) | said(options))


def collect(
    state: TrainState,
    groups: Sequence[Group],
    recipe: Recipe,
    options: GradientOptions,
    progress: bool = False,
) -> tuple[Gradients, Array]:
    """Take the gradient of every group's mean loss; all groups have equally many rows, those with r = t first.

    Returns:
        The gradients (or their sketches) and each group's mean raw loss, [num_groups].
    """
    model, n = state.model, len(groups[0].rows)
    weights = state.weights(options.weights)
    sketch = Sketch(recipe.seed, options.sketch_size) if options.backend == "sketch" else None
    scale = adam_scale(state) if options.precondition == "adam" else {}
    into = Gradients(len(groups), sketch, scale)
    objective, now, losses = options.objective(recipe.objective), recipe.progress(state.step), np.zeros(len(groups))
    # bound, also to the raw weights: gradients of the model's own parameters are training's
    net = state.network(options.weights, bind=True)
    modules, any_weight = dict(model.named_modules()), next(iter(weights.values()))
    per_pass = max(1, options.rows_per_pass // n)
    bar = tqdm(total=len(groups) * n, desc="gradients", unit="row", disable=not progress, leave=False)
    for first in range(0, len(groups), per_pass):
        chosen = slice(first, min(first + per_pass, len(groups)))
        for start in range(0, n, options.rows_per_pass):
            stop = min(start + options.rows_per_pass, n)
            parts = [
                Group(g.rows.part(start, stop).to(any_weight.device, any_weight.dtype), g.loss) for g in groups[chosen]
            ]

            def take(name: str, a: Tensor, d: Tensor, chosen: slice = chosen) -> None:
                add_layer(into, modules[name], name, chosen, a, d)

            with tapped(model, take):
                value = _backward(net, objective, now, parts, n, options.loss)
            losses[chosen] += value / n
            bar.update((stop - start) * len(parts))
    bar.close()
    order = [name for name in weights if name in into.tensors]  # backward passes met the last layers first
    into.tensors = {name: into.tensors[name] for name in order}
    return into, losses


def _backward(
    net: Network, objective: Objective, now: Progress, parts: Sequence[Group], n: int, weighting: str
) -> Array:
    """Run the passes of some groups' rows; return the sum of each group's raw losses."""
    rows = chained([part.rows for part in parts])
    with torch.enable_grad():
        terms = objective.loss(net, rows, now)
        weight = terms.adaptive if weighting == "adaptive" else torch.ones_like(terms.raw)
        each = len(parts[0].rows)
        owner = torch.arange(len(parts), device=weight.device).repeat_interleave(each)
        values = torch.zeros_like(terms.raw)
        for loss in dict.fromkeys(part.loss for part in parts):
            mine = torch.tensor([part.loss == loss for part in parts], device=weight.device)[owner]
            values = torch.where(mine, task_loss(objective, loss, terms, rows), values)
        (weight * values / n).sum().backward()  # type: ignore[no-untyped-call]
    return np.asarray(values.detach().double().view(len(parts), each).sum(1).cpu())


def adam_scale(state: TrainState) -> dict[str, Tensor]:
    """Return sqrt(P) by tensor name, P = 1 / (sqrt(v_hat) + eps): <sqrt(P) g_i, sqrt(P) g_j> = <g_i, P g_j>.

    Raises:
        ValueError: The optimiser has not made a step yet.
    """
    out = {}
    for group in state.optimizer.param_groups:
        for parameter in group["params"]:
            memory = state.optimizer.state.get(parameter)
            if not memory:
                remedy = "measure a later checkpoint, or use precondition 'none'"
                raise invalid("precondition", f"adam at step {state.step}", "a state after the first step", remedy)
            v_hat = memory["exp_avg_sq"] / (1 - group["betas"][1] ** float(memory["step"]))
            out[parameter] = (v_hat.sqrt() + group["eps"]).rsqrt()
    return {name: out[parameter] for name, parameter in state.model.named_parameters()}


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
            repeated = words[0] == "blocks"
            if kind and not repeated:
                continue
            label = f"blocks.*.{words[2]}" if kind else ".".join(words[:2]) if repeated else words[0]
            parts.setdefault(label, []).append(name)
    if level == "tensor":
        parts.update({name: [name] for name in names})
    return parts


def check_memory(num_groups: int, model: nn.Module, options: GradientOptions) -> None:
    """Refuse exact gradients that would take more than half of this machine's memory.

    Raises:
        ValueError: with the size.
    """
    if options.backend == "sketch":
        return
    needed = num_groups * sum(p.numel() * p.element_size() for p in model.parameters())
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there / 2:
        received = f"exact, {needed / 1e9:.1f} GB for {num_groups} gradients"
        raise invalid("backend", received, f"at most half of the {there / 1e9:.0f} GB of memory", "use backend sketch")
