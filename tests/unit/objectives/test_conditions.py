"""Conditions that are no class label, several tensors or vectors of numbers, through training and instruments."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from builders import CPU, MODELS, NOW, Asked, LabelAndScale, batch, gradients, network, recipe, state_of
from torch import Tensor, nn

from dynamics.flow.condition import ClassLabels, Condition
from dynamics.flow.rows import Rows
from dynamics.instruments import (
    DecompositionOptions,
    GapsOptions,
    GramOptions,
    InstrumentOptions,
    LookaheadOptions,
    RowGramOptions,
)
from dynamics.models import Network
from dynamics.models.linear import Linear
from dynamics.objectives import Guidance, MeanFlow, Objective
from dynamics.oracles import GaussianOracle, Oracle
from dynamics.record import StepRecord
from dynamics.rng import generator
from dynamics.training import Recipe, TrainingNetwork, TrainState, draw, train_step

SCALE = 1.5
"""What instruments and samplers ask for."""


@dataclass(frozen=True)
class LabelsAndScales(LabelAndScale):
    """Labels of any number of classes, and a number beside each."""

    labels: ClassLabels

    def embedding(self, dim: int) -> nn.Module:
        return OfBoth(self.labels, dim)

    def null(self, c: Asked) -> Asked:
        return Asked(self.labels.null(c.label), torch.zeros_like(c.scale))


class OfBoth(nn.Module):
    def __init__(self, labels: ClassLabels, dim: int) -> None:
        super().__init__()
        self.label, self.scale = labels.embedding(dim), Linear(1, dim)

    def forward(self, c: Asked) -> Tensor:
        out: Tensor = self.label(c.label) + self.scale(c.scale[:, None])
        return out


@dataclass(frozen=True)
class OfLabels:
    """The velocities of the data, whatever the scale."""

    base: Oracle

    def u(self, z: Tensor, t: Tensor, r: Tensor, c: Asked | None = None) -> Tensor:
        return self.base.u(z, t, r, None if c is None else c.label)

    def v(self, z: Tensor, t: Tensor, c: Asked | None = None) -> Tensor:
        return self.base.v(z, t, None if c is None else c.label)


class Scaled(MeanFlow):
    """MeanFlow of a network that also sees a number, drawn anew for each row of training."""

    kind: Literal["scaled_of_tests"] = "scaled_of_tests"  # type: ignore[assignment]

    def condition(self, base: Condition) -> Condition:
        assert isinstance(base, ClassLabels)
        return LabelsAndScales(base)

    def ask(self, c: Tensor) -> Asked:
        return Asked(c, torch.full((len(c),), SCALE))

    def prepare(self, rows: Rows, seed: int, step: int) -> Rows:
        scale = torch.rand(len(rows), generator=generator(seed, "scale", step))
        rows = replace(rows, c=Asked(rows.c, scale), condition=self.condition(rows.condition))
        return super().prepare(rows, seed, step)

    def truth(self, oracle: Oracle) -> Oracle:
        return OfLabels(super().truth(oracle))

    def measured(self, guidance: Literal["run", "off"]) -> Objective:
        return Scaled(adaptive=self.adaptive, guidance=self.guidance if guidance == "run" else Guidance())


@dataclass(frozen=True)
class Vector(Condition):
    """Three numbers; zeros ask for nothing."""

    def embedding(self, dim: int) -> nn.Module:
        return Linear(3, dim)

    def null(self, c: Tensor) -> Tensor:
        return torch.zeros_like(c)

    def example(self, num_rows: int) -> Tensor:
        return torch.ones(num_rows, 3)

    def draw(self, num_rows: int, mode: Literal["uniform", "balanced"], stream: torch.Generator) -> Tensor:
        return torch.randn(num_rows, 3, generator=stream)


class Clouds:
    """Gaussian images beside vectors that say nothing about them: everything is known."""

    name, shape, condition, drawn_by_rank = "clouds of tests", (1, 8, 8), Vector(), False

    def batch(self, seed: int, step: int, batch_size: int, share: slice = slice(None)) -> tuple[Tensor, Tensor]:
        stream = generator(seed, "clouds", step)
        return 0.5 * torch.randn(batch_size, *self.shape, generator=stream), Vector().draw(
            batch_size, "uniform", stream
        )

    def oracle(self) -> GaussianOracle:
        return GaussianOracle(0.5)


RECIPES: dict[str, Recipe] = {
    "labels and scales": recipe(Scaled(guidance=Guidance(k=0.5, label_drop_prob=0.3)), seed=5),
    "vectors": recipe(MeanFlow(guidance=Guidance(k=0.5, label_drop_prob=0.3)), data=Clouds(), seed=5),  # type: ignore[arg-type]
}


def trained(recipe: Recipe, model: str, steps: int = 3) -> tuple[TrainState, list[StepRecord]]:
    state = state_of(recipe, model, torch.float32)
    net, records = TrainingNetwork(state, recipe.training), []
    for _ in range(steps):
        plan = recipe.plan(state.step, state.curricula)
        records.append(train_step(state, net, recipe, plan, draw(recipe, plan, state.step)))
    return state, records


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", RECIPES)
def test_training_runs_and_accumulates(name: str, model: str) -> None:
    """Shards of unequal conditions still add up to the batch; the embedding of each part learns."""
    of = RECIPES[name]
    parts = replace(of, training=of.training.model_copy(update={"accumulation": 4}))
    (state, whole), (_, again) = trained(of, model), trained(parts, model)
    for a, b in zip(whole, again, strict=True):
        assert np.isfinite(a.loss)
        assert a.loss == pytest.approx(b.loss, rel=1e-4)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-4)
    before = state_of(of, model, torch.float32).model.state_dict()
    embedding = [n for n in before if n.startswith("conditioning.label") and n.endswith("weight")]
    assert len(embedding) == (2 if name == "labels and scales" else 1)
    for parameter in embedding:
        assert not torch.equal(state.model.state_dict()[parameter], before[parameter]), parameter


@pytest.mark.parametrize("name", RECIPES)
def test_rows_of_training_are_prepared_together(name: str) -> None:
    of = RECIPES[name]
    rows = draw(of, of.plan(0, []), step=4)
    assert rows.condition == of.condition
    assert 0 < int(rows.dropped.sum()) < 16
    null = rows.condition.null(rows.c)
    for c, nothing in zip(columns(rows.c), columns(null), strict=True):
        assert torch.equal(c[rows.dropped], nothing[rows.dropped])
        assert not bool((c == nothing)[~rows.dropped].any())
    moved, shard, part = rows.to(CPU, torch.float64), rows.shard(1, 4), rows.part(2, 7)
    for c, again, of_shard, of_part in zip(*(columns(r.c) for r in (rows, moved, shard, part)), strict=True):
        assert torch.equal(of_shard, c[1::4])
        assert torch.equal(of_part, c[2:7])
        assert again.dtype == (torch.float64 if c.is_floating_point() else c.dtype)
        assert torch.equal(again.to(c.dtype), c)
    assert torch.equal(shard.dropped, rows.dropped[1::4])


def columns(c: Any) -> list[Tensor]:
    return [c.label, c.scale] if isinstance(c, Asked) else [c]


INSTRUMENTS: dict[str, InstrumentOptions] = {
    "gaps": GapsOptions(rows_per_bin=4),
    "gram": GramOptions(num_splits=2, rows_per_split=4),
    "gram_rows": RowGramOptions(num_rows=6),
    "lookahead": LookaheadOptions(num_splits=2, rows_per_split=4),
    "decomposition": DecompositionOptions(num_splits=2, rows_per_split=4, rows_per_bin=4, ode_steps=2),
}


@pytest.mark.parametrize("instrument", INSTRUMENTS)
@pytest.mark.parametrize("name", RECIPES)
def test_instruments_measure_them(name: str, instrument: str) -> None:
    of = RECIPES[name]
    measured = INSTRUMENTS[instrument].observer(of).measure(state_of(of, "mlp", torch.float32))
    assert all(bool(np.isfinite(values).all()) for values in measured.data_vars.values())
    assert "y" not in measured, "there is no label to name a row by"
    if instrument == "gaps":
        assert {"v_error", "u_error", "one_step_error"} < set(measured.data_vars)


@pytest.mark.parametrize("name", RECIPES)
def test_instruments_ask_as_the_objective_says(name: str) -> None:
    of, options = RECIPES[name], GapsOptions(rows_per_bin=4)
    asked = options.observer(of).rows
    assert asked.condition == of.condition
    assert not bool(asked.dropped.any())
    if name == "labels and scales":
        assert torch.equal(asked.c.scale, torch.full((len(asked),), SCALE))
        labels = options.observer(replace(of, objective=MeanFlow())).rows.c
        assert torch.equal(asked.c.label, labels), "the same rows of the data"


@pytest.mark.parametrize("model", MODELS)
def test_a_gram_of_vectors_is_one_backward_pass_a_row(model: str) -> None:
    """The embedding is a linear layer on what is given, and not on one-hot rows."""
    of = RECIPES["vectors"]
    state, probe = state_of(of, model), RowGramOptions(num_rows=6, guidance="off").observer(of)
    rows = probe.rows().to(CPU, torch.float64)  # type: ignore[attr-defined]
    table = []
    for i in range(6):
        terms = MeanFlow().loss(Network(state.model), rows.part(i, i + 1), NOW)
        single = gradients(state.model, (terms.raw * terms.adaptive).mean())
        assert float(single["conditioning.label.weight"].norm()) > 0
        table.append(torch.cat([g.flatten() for g in single.values()]))
    expected = torch.stack(table) @ torch.stack(table).T
    np.testing.assert_allclose(probe.measure(state).gram.sel(group="model"), expected, rtol=1e-9)


def test_guidance_takes_the_null_of_the_condition() -> None:
    """Of a joint one, every part; the conditional velocity keeps all."""
    condition = LabelAndScale()
    net, rows = network(condition=condition), batch(8, 8, condition=condition)
    z, _ = rows.path()
    v_unc, v_con = Guidance(k=0.5).velocities(Network(net), rows, z)
    with torch.no_grad():
        torch.testing.assert_close(v_con, net(z, rows.t, rows.t, rows.c), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(v_unc, net(z, rows.t, rows.t, condition.null(rows.c)), rtol=1e-12, atol=1e-12)
        half = Asked(condition.null(rows.c).label, rows.c.scale)
        assert not torch.allclose(v_unc, net(z, rows.t, rows.t, half))
