"""Lookahead affinity: how much a step on one task's loss lowers another's (TAG, 2109.04617, eq. 1)."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import xarray as xr
from pydantic import Field
from torch import Tensor

from dynamics.flow.path import Velocity
from dynamics.flow.progress import Progress
from dynamics.flow.rows import Rows, chained
from dynamics.instruments.gram import TaskInstrument, TaskProbe
from dynamics.instruments.group_gradients import Array, GradientOptions, Group, collect
from dynamics.instruments.instrument import said
from dynamics.instruments.tasks import Task, task_coordinates, task_rows
from dynamics.models import Network, bound
from dynamics.objectives import Objective, squared_error
from dynamics.options import invalid
from dynamics.training import Recipe, TrainState, Weights


class LookaheadOptions(TaskInstrument):
    """How much a step on each task lowers the loss of each other task."""

    kind: Literal["lookahead"] = "lookahead"
    every: int = Field(default=2000, gt=0)
    """Steps between measurements; the last step is always measured."""
    update: Literal["adam", "plain"] = "adam"
    """The step the run's optimiser would make on that task alone, with its memory, or lr times the gradient."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Step size; the optimiser's present one if left out."""
    evaluate_on: Literal["other_split", "same_split"] = "other_split"
    """Where losses are compared: rows the step has not seen, or the step's own rows as TAG does, biased upwards."""

    def observer(self, recipe: Recipe, progress: bool = False) -> "LookaheadProbe":
        return LookaheadProbe(recipe, self, progress)


@dataclass(frozen=True)
class LookaheadProbe(TaskProbe[LookaheadOptions]):
    """Measures lookahead affinities."""

    def measure(self, state: TrainState) -> xr.Dataset:
        """Measure Z of every ordered pair of tasks.

        Z_{i -> j} = 1 - L_j(theta_i) / L_j(theta), where theta_i is one step on task i from theta. Targets, adaptive
        weights and rows of L_j are those at theta for both losses: only the prediction moves. To first order
        Z = lr <g_j, P g_i> / L_j.

        Returns:
            `lookahead` [task, task2, split]: the step on `task` seen by `task2`; `loss` [task2, split] at theta;
            `biased` [task, task2], 1 where the loss was compared on rows that the step itself has seen.
        """
        o, tasks = self.options, self.tasks
        table = np.zeros((len(tasks), len(tasks), o.num_splits))
        losses = np.zeros((len(tasks), o.num_splits))
        shift = 1 if o.evaluate_on == "other_split" else 0
        for split in range(o.num_splits):
            seen = self._rows(state, tasks, split)
            unseen = self._rows(state, tasks, (split + shift) % o.num_splits)
            net = state.network(o.weights)
            loss_of = _frozen_losses(net, unseen, self.objective, self.recipe.progress(state.step), o.loss)
            losses[:, split] = loss_of(net.frozen)
            for i, weights in enumerate(self._steps(state, seen)):
                table[i, :, split] = 1 - loss_of(bound(state.model, weights)) / losses[:, split]
        seen_by = np.ones((len(tasks), len(tasks))) if o.rows == "shared" else np.eye(len(tasks))
        names = [task.name for task in tasks]
        text = "relative fall of task2's loss by a step on task"
        content = {
            "lookahead": (("task", "task2", "split"), table, {"units": "1", "long_name": text}),
            "loss": (("task2", "split"), losses, {"units": "1", "long_name": "loss of task2 before the step"}),
            "learning_rate": ((), self._learning_rate(state), {"units": "1", "long_name": "step size"}),
            "biased": (
                ("task", "task2"),
                (seen_by * (shift == 0)).astype(np.int8),
                {"units": "1", "long_name": "1 where the step has seen the rows of the loss"},
            ),
        }
        coords = {
            **task_coordinates(tasks, self.objective),
            "task2": ("task2", names, {"long_name": "task whose loss is compared"}),
            "split": ("split", np.arange(o.num_splits), {"units": "1", "long_name": "independent split of rows"}),
        }
        return xr.Dataset(content, coords, said(o))

    def _learning_rate(self, state: TrainState) -> float:
        return self.options.learning_rate or float(state.optimizer.param_groups[0]["lr"])

    def _rows(self, state: TrainState, tasks: Sequence[Task], split: int) -> list[Rows]:
        any_weight = next(state.model.parameters())
        drawn = (task_rows(task, split, self.options, self.recipe) for task in tasks)
        return [rows.to(any_weight.device, any_weight.dtype) for rows in drawn]

    def _steps(self, state: TrainState, rows: Sequence[Rows]) -> Iterator[Weights]:
        """Yield the weights after one step on each task."""
        o = self.options
        asked = GradientOptions(loss=o.loss, guidance=o.guidance, weights=o.weights)
        groups = [Group(each) for each in rows]
        gradients, _ = collect(state, groups, self.recipe, asked, self.progress)
        lr = self._learning_rate(state)
        weights = state.weights(self.options.weights)
        for i in range(len(rows)):
            gradient = {name: gradients.tensors[name][i].view_as(weight) for name, weight in weights.items()}
            if o.update == "plain":
                yield {name: weight - lr * gradient[name] for name, weight in weights.items()}
            else:
                yield adam_step(state, weights, gradient, lr)


def _frozen_losses(
    net: Network, parts: Sequence[Rows], objective: Objective, now: Progress, loss: str
) -> Callable[[Velocity], Array]:
    """Return the losses of all tasks as a function of the velocity, with targets and weights held at those of `net`.

    Raises:
        ValueError: The objective regresses something else than u(z_t, t, r): its target cannot be held.
    """
    rows = chained(parts)
    z, _ = rows.path()
    with torch.no_grad():
        terms = objective.loss(net, rows, now)
    if terms.u is not terms.prediction:
        remedy = "measure its gradients (gram) instead"
        raise invalid("instrument lookahead", objective.kind, "an objective that regresses u(z_t, t, r)", remedy)
    weight = terms.adaptive if loss == "adaptive" else torch.ones_like(terms.raw)

    def losses(other: Velocity) -> Array:
        with torch.no_grad():
            error = squared_error(other(z, rows.t, rows.r, rows.c), terms.target)
        return np.asarray((weight * error).double().view(len(parts), -1).mean(1).cpu())

    return losses


def adam_step(state: TrainState, weights: Mapping[str, Tensor], gradient: Mapping[str, Tensor], lr: float) -> Weights:
    """Return the weights after the step that the run's optimiser, with its memory, would make on a gradient.

    The step is torch's own, on copies; memory and weights of the run stay as they are.
    """
    moved = {name: torch.nn.Parameter(weight.clone()) for name, weight in weights.items()}
    optimizer = torch.optim.AdamW(moved.values())
    optimizer.load_state_dict(copy.deepcopy(state.optimizer.state_dict()))
    for name, parameter in moved.items():
        parameter.grad = gradient[name]
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    return {name: parameter.detach() for name, parameter in moved.items()}
