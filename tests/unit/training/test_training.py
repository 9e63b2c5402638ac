"""The trainer's options do what they say."""

import dataclasses
import functools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config

from dynamics import models
from dynamics.atomic import locked
from dynamics.config import RunConfig
from dynamics.curricula import State
from dynamics.instruments import GapsOptions
from dynamics.models import DiTOptions, build
from dynamics.record import StepRecord
from dynamics.runner import RunFolder, run
from dynamics.training import NonFiniteLossError, Recipe, TrainingNetwork, TrainState, draw, start, train_step


def begun(config: RunConfig, **training: object) -> tuple[Recipe, TrainState]:
    """What to train with changed training options, and the state before the first step."""
    options = config.training.model_copy(update=training)
    recipe = config.model_copy(update={"training": options}).recipe()
    model = build(config.model, recipe.data.shape, recipe.condition, 0)
    return recipe, start(model, options, config.curricula)


def after(config: RunConfig, steps: int = 3, **training: object) -> tuple[TrainState, list[StepRecord]]:
    """Train a few steps with changed training options."""
    recipe, state = begun(config, **training)
    net, records = TrainingNetwork(state, recipe.training), []
    for step in range(steps):
        plan = recipe.plan(step, state.curricula)
        records.append(train_step(state, net, recipe, plan, draw(recipe, plan, step)))
    return state, records


def weights(state: TrainState) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in state.model.parameters()])


def test_accumulation_is_one_batch(tiny: RunConfig) -> None:
    whole, parts = after(tiny), after(tiny, accumulation=4)
    torch.testing.assert_close(weights(parts[0]), weights(whole[0]), rtol=1e-4, atol=1e-6)
    for a, b in zip(whole[1], parts[1], strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
        assert a.gap_count == b.gap_count


def test_the_average_follows_its_formula(tiny: RunConfig) -> None:
    one, _ = after(tiny, steps=1)
    start_weights, _ = after(tiny, steps=0)
    expected = 0.9 * weights(start_weights) + 0.1 * weights(one)
    torch.testing.assert_close(torch.cat([w.flatten() for w in one.emas["0.9"].values()]), expected)


def test_other_streams_draw_other_rows_and_measure_the_same_ones(tiny: RunConfig) -> None:
    assert "streams" not in tiny.to_json()
    recipes = [tiny.model_copy(update={"streams": streams}).recipe() for streams in (0, 1, 1)]
    rows = [draw(recipe, recipe.plan(2, start_memory(tiny)), 2) for recipe in recipes]
    for column in ("x", "e", "t", "c", "dropped"):
        first, other, again = (getattr(one, column) for one in rows)
        assert not torch.equal(first, other)
        assert torch.equal(other, again)
    gaps = GapsOptions(rows_per_bin=4)
    assert torch.equal(gaps.observer(recipes[0]).rows.x, gaps.observer(recipes[1]).rows.x)


def start_memory(config: RunConfig) -> list[State]:
    return [curriculum.initial_state() for curriculum in config.curricula]


def test_warmup_scales_the_first_steps(tiny: RunConfig) -> None:
    """Adam's first step is lr * sign(gradient), so its size shows the learning rate."""
    begin = weights(after(tiny, steps=0)[0])
    slow, fast = (weights(after(tiny, steps=1, warmup_steps=n)[0]) - begin for n in (10, 0))
    assert float(slow.abs().max() / fast.abs().max()) == pytest.approx(0.1, rel=1e-3)


def test_clipping_limits_the_gradient_and_records_it_unclipped(tiny: RunConfig) -> None:
    free, clipped = after(tiny, steps=1), after(tiny, steps=1, clip_norm=1e-3)
    assert clipped[1][0].grad_norm == pytest.approx(free[1][0].grad_norm)
    norms = [
        torch.cat([p.grad.flatten() for p in s.model.parameters() if p.grad is not None]).norm()
        for s, _ in (free, clipped)
    ]
    assert float(norms[0]) > 1e-3
    assert float(norms[1]) == pytest.approx(1e-3, rel=1e-3)


def test_bfloat16_is_close_and_is_not_float32(tiny: RunConfig) -> None:
    full, half = after(tiny, steps=8), after(tiny, steps=8, precision="bfloat16")
    assert not torch.equal(weights(full[0]), weights(half[0]))
    assert half[1][-1].raw_v == pytest.approx(full[1][-1].raw_v, rel=0.02)


class Scaled(torch.nn.Module):
    """The smallest network that knows its times: the compiler writes a C++ file for every few operations."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(0.3))

    def forward(self, z: torch.Tensor, t: torch.Tensor, r: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return self.factor * (1 + t * t - r).reshape(-1, 1, 1, 1) * z


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler")
def test_compiled_training_is_eager_training(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)  # others would import torch first
    monkeypatch.setattr("test_training.build", lambda *arguments: Scaled())
    check_compiled(tiny)


@pytest.mark.parametrize("recompute", ["none", "blocks"])
def test_traced_training_is_eager_training(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, recompute: str) -> None:
    """The networks themselves go through the compiler's front, which takes other branches of their code."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr("test_training.build", filled)
    check_compiled(tiny.model_copy(update={"model": DiTOptions(dim=8, depth=1, heads=2)}), recompute=recompute)


def filled(*arguments: Any) -> torch.nn.Module:
    """A network without zero layers, whose derivative by every argument counts."""
    model, stream = models.build(*arguments), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=stream))
    return model


def check_compiled(config: RunConfig, **training: object) -> None:
    torch.compiler.reset()
    config = config.model_copy(update={"curricula": ()})  # the same number of r < t rows in each step
    (one, eager), (other, fast) = after(config, steps=2), after(config, steps=2, compile=True, **training)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2, "a forward pass and a derivative"
    assert fast[1].loss == pytest.approx(eager[1].loss, rel=1e-5)
    assert fast[1].du_dt_norm == pytest.approx(eager[1].du_dt_norm, rel=1e-4)
    assert eager[1].du_dt_norm > 1e-3
    torch.testing.assert_close(weights(other), weights(one), rtol=1e-3, atol=2e-5)


def test_a_non_finite_loss_changes_nothing(tiny: RunConfig) -> None:
    state, _ = after(tiny, steps=1)
    recipe = tiny.recipe()
    plan = recipe.plan(1, state.curricula)
    rows = draw(recipe, plan, 1)
    rows = dataclasses.replace(rows, x=rows.x.clone())
    rows.x[3] = torch.nan
    before = weights(state)
    with pytest.raises(NonFiniteLossError) as stop:
        train_step(state, TrainingNetwork(state, recipe.training), recipe, plan, rows)
    assert torch.equal(before, weights(state))
    assert state.step == 1
    assert [row["row"] for row in stop.value.rows] == [3]
    assert stop.value.rows[0]["t"] == pytest.approx(float(rows.t[3]))


def test_two_processes_do_not_train_one_run(tiny: RunConfig, tmp_path: Path) -> None:
    with locked(RunFolder(tmp_path).log), pytest.raises(ValueError, match="no other process is training"):
        run(tiny, tmp_path, progress=False)


def test_the_recorded_weights_are_those_of_the_curricula(tiny: RunConfig) -> None:
    _, (record,) = after(tiny.model_copy(update={"curricula": ()}), steps=1)
    assert record.total_v_weight == pytest.approx(0.5)
    assert record.total_u_weight == pytest.approx(0.5)
    assert sum(record.gap_count) == 8
