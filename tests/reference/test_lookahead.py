"""Lookahead against a real step by hand, and against its first order."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import LAW, NOW, Pieces, state_of
from test_gram import DIT, RECIPE, SMALL, double
from torch import Tensor, nn

from dynamics.flow.rows import Rows
from dynamics.instruments.gram import GramOptions, GramProbe
from dynamics.instruments.lookahead import LookaheadOptions, LookaheadProbe
from dynamics.instruments.tasks import binned_tasks, task_rows, velocity_task
from dynamics.models import Network
from dynamics.objectives import LossTerms, MeanFlow
from dynamics.training import TrainState


def by_hand(state: TrainState, options: LookaheadOptions, i: int, j: int, split: int) -> float:
    """Step the real model and the real optimiser on copies, with targets and weights held."""
    tasks = [velocity_task(options, LAW), *binned_tasks(options, LAW)]
    other = (split + 1) % options.num_splits if options.evaluate_on == "other_split" else split

    def rows_of(task: int, split: int) -> Rows:
        return double(task_rows(tasks[task], split, options, RECIPE))

    def terms_of(rows: Rows) -> LossTerms:
        return MeanFlow().loss(Network(state.model), rows, NOW)

    rows = rows_of(j, other)
    held = terms_of(rows)
    z, _ = rows.path()

    def loss_of(model: nn.Module) -> Tensor:
        error = (model(z, rows.t, rows.r, rows.c) - held.target).flatten(1).square().sum(1)
        return ((held.adaptive if options.loss == "adaptive" else 1) * error).mean()

    model = copy.deepcopy(state.model)
    seen = terms_of(rows_of(i, split))
    loss = (seen.raw * (seen.adaptive if options.loss == "adaptive" else 1)).mean()
    gradient = torch.autograd.grad(loss, list(state.model.parameters()))
    for p, g in zip(model.parameters(), gradient, strict=True):
        p.grad = g
    lr = options.learning_rate or state.optimizer.param_groups[0]["lr"]
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    if options.update == "adam":
        optimizer = torch.optim.AdamW(model.parameters())
        optimizer.load_state_dict(copy.deepcopy(state.optimizer.state_dict()))
        optimizer.param_groups[0]["lr"] = lr
    optimizer.step()
    with torch.no_grad():
        return float(1 - loss_of(model) / loss_of(state.model))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"update": "plain", "loss": "raw", "learning_rate": 1e-4},
        {"evaluate_on": "same_split", "rows": "independent", "learning_rate": 3e-3},
    ],
    ids=str,
)
def test_lookahead_is_a_real_step(changes: dict[str, str]) -> None:
    state, options = state_of(RECIPE, DIT), LookaheadOptions.model_validate({**SMALL, **changes})
    measured = LookaheadProbe(RECIPE, options).measure(state)
    for i, j, split in ((0, 0, 0), (0, 2, 1), (2, 1, 2), (1, 0, 0)):
        assert float(measured.lookahead[i, j, split]) == pytest.approx(by_hand(state, options, i, j, split), rel=1e-9)


def test_small_plain_steps_agree_with_the_gram() -> None:
    """Z_{i -> j} = lr <g_j, g_i> / L_j to first order, with the gradients of the Gram of the same rows."""
    state, lr = state_of(RECIPE, DIT), 1e-7
    options = LookaheadOptions.model_validate({**SMALL, "update": "plain", "learning_rate": lr})
    z = LookaheadProbe(RECIPE, options).measure(state)
    gram = GramProbe(RECIPE, GramOptions.model_validate(SMALL)).measure(state).gram.sel(group="model")
    for split in range(3):
        product = gram.values[:, split, :, (split + 1) % 3]
        expected = lr * product / z.loss.values[:, split][None, :]
        np.testing.assert_allclose(z.lookahead.values[:, :, split], expected, rtol=2e-3, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "marked"),
    [
        ({}, np.zeros((3, 3))),
        ({"evaluate_on": "same_split"}, np.ones((3, 3))),
        ({"evaluate_on": "same_split", "rows": "independent"}, np.eye(3)),
    ],
)
def test_values_on_rows_that_the_step_has_seen_are_marked(changes: dict[str, str], marked: np.ndarray) -> None:
    options = LookaheadOptions.model_validate({**SMALL, **changes})
    measured = LookaheadProbe(RECIPE, options).measure(state_of(RECIPE, DIT))
    np.testing.assert_array_equal(measured.biased, marked)


def test_the_run_is_left_alone() -> None:
    state = state_of(RECIPE, DIT)
    before = copy.deepcopy((state.model.state_dict(), state.optimizer.state_dict()["state"]))
    LookaheadProbe(RECIPE, LookaheadOptions.model_validate(SMALL)).measure(state)
    for name, weight in state.model.state_dict().items():
        assert torch.equal(weight, before[0][name])
    for index, memory in state.optimizer.state_dict()["state"].items():
        for name, value in memory.items():
            assert torch.equal(value, before[1][index][name])


def test_an_objective_that_regresses_something_else_is_refused_by_name() -> None:
    of_pieces = replace(RECIPE, objective=Pieces())
    message = "instrument lookahead: received 'pieces_of_tests'; allowed: an objective that regresses u.*; remedy: "
    with pytest.raises(ValueError, match=message):
        LookaheadProbe(of_pieces, LookaheadOptions.model_validate(SMALL)).measure(state_of(of_pieces, DIT))
