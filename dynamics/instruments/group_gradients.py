"""Gradients of many groups of rows under one objective: a shared pass where the loss allows it, else one each."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dynamics.flow.progress import Progress
from dynamics.flow.rows import Rows, chained
from dynamics.instruments.gradients import Gradients, Sketch, add_layer, tapped, untapped
from dynamics.instruments.tasks import WHOLE, LossOptions, task_loss
from dynamics.models import Network
from dynamics.objectives import Objective
from dynamics.options import invalid
from dynamics.progress_bar import ProgressBar
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


class Group(NamedTuple):
    """Rows whose mean loss is differentiated, and which loss that is."""

    rows: Rows
    loss: str = WHOLE


def collect(
    state: TrainState,
    groups: Sequence[Group],
    recipe: Recipe,
    options: GradientOptions,
    progress: bool = False,
) -> tuple[Gradients, Array]:
    """Take the gradient of every group's mean loss; all groups have equally many rows, those with r = t first.

    Where the loss calls the network once with gradient, on all rows, and all weights lie in linear and embedding
    layers, many groups share a pass; otherwise each group has passes of its own. Both ways are exact.

    Returns:
        The gradients (or their sketches) and each group's mean raw loss, [num_groups].
    """
    weights, n = state.weights(options.weights), len(groups[0].rows)
    sketch = Sketch(recipe.seed, options.sketch_size) if options.backend == "sketch" else None
    into = Gradients(len(groups), sketch, adam_scale(state) if options.precondition == "adam" else {})
    work = _Work(state, options.objective(recipe.objective), recipe.progress(state.step), options, n)
    shared = work.objective.ONE_PASS and not untapped(state.model)
    per_pass = max(1, options.rows_per_pass // n) if shared else 1
    losses, weight = np.zeros(len(groups)), next(iter(weights.values()))
    with ProgressBar("gradients", len(groups) * n, "row", show=progress, leave=False) as bar:
        for first in range(0, len(groups), per_pass):
            chosen = slice(first, min(first + per_pass, len(groups)))
            for start in range(0, n, options.rows_per_pass):
                stop = min(start + options.rows_per_pass, n)
                parts = [
                    Group(g.rows.part(start, stop).to(weight.device, weight.dtype), g.loss) for g in groups[chosen]
                ]
                losses[chosen] += (work.shared if shared else work.alone)(into, chosen, parts) / n
                bar.update((stop - start) * len(parts))
    order = [name for name in weights if name in into.tensors]  # backward passes met the last layers first
    into.tensors = {name: into.tensors[name] for name in order}
    return into, losses


@dataclass(frozen=True)
class _Work:
    """What the passes of all groups have in common; each returns the sum of each group's raw losses."""

    state: TrainState
    objective: Objective
    now: Progress
    options: GradientOptions
    num_rows: int
    """Rows of a group, over which its loss is a mean."""

    def shared(self, into: Gradients, chosen: slice, parts: Sequence[Group]) -> Array:
        """Take the gradients of several groups in one pass."""
        modules = dict(self.state.model.named_modules())

        def take(name: str, a: Tensor, d: Tensor) -> None:
            add_layer(into, modules[name], name, chosen, a, d)

        # bound, also to the raw weights: gradients of the model's own parameters are training's
        net = self.state.network(self.options.weights, self.state.weights(self.options.weights))
        with tapped(self.state.model, take, num_rows=sum(len(part.rows) for part in parts)), torch.enable_grad():
            total, values = self._losses(net, parts)
            total.backward()  # type: ignore[no-untyped-call]
        return values

    def alone(self, into: Gradients, chosen: slice, parts: Sequence[Group]) -> Array:
        """Take the gradient of one group, whatever its loss does with the network."""
        weights = self.state.weights(self.options.weights)
        leaves = {name: weight.detach().clone().requires_grad_() for name, weight in weights.items()}
        with torch.enable_grad():
            total, values = self._losses(self.state.network(self.options.weights, leaves), parts)
            found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        for (name, weight), gradient in zip(leaves.items(), found, strict=True):
            into.add(name, chosen, (torch.zeros_like(weight) if gradient is None else gradient).unsqueeze(0))
        return values

    def _losses(self, net: Network, parts: Sequence[Group]) -> tuple[Tensor, Array]:
        rows = chained([part.rows for part in parts])
        terms = self.objective.loss(net, rows, self.now)
        weight = terms.adaptive if self.options.loss == "adaptive" else torch.ones_like(terms.raw)
        each = len(parts[0].rows)
        owner = torch.arange(len(parts), device=weight.device).repeat_interleave(each)
        values = torch.zeros_like(terms.raw)
        for loss in dict.fromkeys(part.loss for part in parts):
            mine = torch.tensor([part.loss == loss for part in parts], device=weight.device)[owner]
            values = torch.where(mine, task_loss(self.objective, loss, terms, rows), values)
        sums = values.detach().double().view(len(parts), each).sum(1)
        return (weight * values / self.num_rows).sum(), np.asarray(sums.cpu())


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
