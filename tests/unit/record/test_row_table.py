"""The sums by time and gap hold every row of every step once, in the right cell."""

import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from dynamics.config import RunConfig
from dynamics.flow.rows import Rows
from dynamics.flow.times import TimesOptions
from dynamics.models import build
from dynamics.objectives import FlowMatching, LossTerms
from dynamics.record import GAP_EDGES, QUANTITIES, T_EDGES, RowTable, StepRecord, add, no_rows, summarise
from dynamics.training import Checkpoints, NonFiniteLossError, TrainingNetwork, TrainState, draw, start, train_step
from dynamics.training import step as step_module

Shards = list[tuple[Rows, LossTerms, torch.Tensor]]


class Trainer:
    """A run of single steps that keeps what each step's rows were."""

    def __init__(self, config: RunConfig, monkeypatch: pytest.MonkeyPatch, **training: object) -> None:
        options = config.training.model_copy(update=training)
        self.recipe = config.model_copy(update={"training": options}).recipe()
        model = build(config.model, self.recipe.data.shape, self.recipe.condition, 0)
        self.state = start(model, options, config.curricula)
        self.net = TrainingNetwork(self.state, options)
        self.shards, self.records = list[Shards](), list[StepRecord]()
        original = step_module.tabulate

        def spy(shards: Shards) -> RowTable:
            self.shards.append(shards)
            return original(shards)

        monkeypatch.setattr(step_module, "tabulate", spy)

    def step(self, spoiled: bool = False) -> None:
        plan = self.recipe.plan(self.state.step, self.state.curricula)
        rows = draw(self.recipe, plan, self.state.step)
        if spoiled:
            rows = dataclasses.replace(rows, x=rows.x * torch.nan)
        self.records.append(train_step(self.state, self.net, self.recipe, plan, rows))


def bin_of(value: float, edges: tuple[float, ...]) -> int:
    """Bins hold their lower edge, the last one both."""
    for i, (low, high) in enumerate(pairwise(edges)):
        if low <= value < high:
            return i
    assert value == edges[-1]
    return len(edges) - 2


def by_hand(steps: list[Shards]) -> np.ndarray:
    """Row by row, in plain Python."""
    sums = np.zeros((5, len(T_EDGES) - 1, len(GAP_EDGES)))
    for shards in steps:
        for rows, terms, weight in shards:
            for i in range(len(rows)):
                t, r = float(rows.t[i]), float(rows.r[i])
                equal = i < rows.num_equal
                assert equal == (t == r)
                cell = bin_of(t, T_EDGES), 0 if equal else 1 + bin_of(t - r, GAP_EDGES)
                raw = float(terms.raw[i].detach())
                derivative = 0.0 if equal else float(terms.du_dt[i - rows.num_equal].double().norm())
                weighted = raw * float(terms.adaptive[i]) * float(weight[i])
                target = float(terms.target[i].double().norm())
                for q, value in enumerate((1.0, raw, weighted, target, derivative)):
                    sums[q][cell] += value
    return sums


@pytest.mark.parametrize("accumulation", [1, 4])
def test_every_row_of_every_step(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, accumulation: int) -> None:
    trainer = Trainer(tiny, monkeypatch, accumulation=accumulation)
    for _ in range(6):
        trainer.step()
    cells, expected = trainer.state.cells.numpy(), by_hand(trainer.shards)
    exact, norms = slice(0, 3), slice(3, 5)
    np.testing.assert_allclose(cells[exact], expected[exact], rtol=1e-12)
    np.testing.assert_allclose(cells[norms], expected[norms], rtol=1e-6)  # training takes norms in float32
    assert cells[0].sum() == 6 * 16
    assert (cells[0] > 0).sum() > 8
    drawn = np.sum([record.gap_count for record in trainer.records], axis=0)
    assert cells[0].sum(0)[1:].tolist() == [drawn[a:b].sum() for a, b in pairwise((0, 1, 3, 5, 7, 9, 10))]
    assert cells[2].sum() / 16 == pytest.approx(sum(record.loss for record in trainer.records), rel=1e-12)


def test_sums_of_a_made_up_table_are_exact() -> None:
    """A thousand random rows in float64, all five quantities to 1e-12."""
    stream = torch.Generator().manual_seed(0)
    is_v = torch.rand(1000, generator=stream) < 0.5
    t, r, raw, adaptive, weight, target, derivative = torch.rand(7, 1000, generator=stream, dtype=torch.float64)
    t, r = torch.maximum(t, r), torch.where(is_v, torch.maximum(t, r), torch.minimum(t, r))
    rows = RowTable(is_v, t, t - r, raw, adaptive, weight, target, torch.where(is_v, 0, derivative))
    sums = no_rows()
    add(sums, rows)
    add(sums, rows)
    expected = np.zeros(sums.shape)
    for i in range(1000):
        cell = bin_of(float(t[i]), T_EDGES), 0 if is_v[i] else 1 + bin_of(float(t[i] - r[i]), GAP_EDGES)
        values = (1.0, raw[i], raw[i] * adaptive[i] * weight[i], target[i], 0.0 if is_v[i] else derivative[i])
        for q, value in enumerate(values):
            expected[q][cell] += 2 * float(value)
    np.testing.assert_allclose(sums, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("t", "r", "cell"),
    [
        (0.0, 0.0, (0, 0)),
        (1.0, 1.0, (5, 0)),
        (1.0, 0.0, (5, 6)),
        (0.5, 0.0, (3, 4)),
        (0.1, 0.0, (1, 2)),
        (0.75, 0.25, (4, 4)),
        (0.95, 0.949, (5, 1)),
    ],
)
def test_edges(t: float, r: float, cell: tuple[int, int]) -> None:
    sums, one = no_rows(), torch.ones(1, dtype=torch.float64)
    add(sums, RowTable(torch.tensor([t == r]), t * one, (t - r) * one, one, one, one, one, one))
    assert [tuple(index) for index in sums[0].nonzero().tolist()] == [cell]


def test_flow_matching_has_rows_of_v_only(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    change = {"objective": FlowMatching(), "times": TimesOptions(gap_share=0.0), "curricula": ()}
    trainer = Trainer(tiny.model_copy(update=change), monkeypatch)
    trainer.step()
    cells = dict(zip(QUANTITIES, trainer.state.cells, strict=True))
    assert float(cells["count"][:, 0].sum()) == 16
    assert float(cells["count"][:, 1:].sum()) == 0
    assert float(cells["du_dt_norm"].abs().sum()) == 0
    assert float(cells["target_norm"].sum()) > 0


def test_a_step_that_is_refused_adds_nothing(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(tiny, monkeypatch)
    trainer.step()
    before = trainer.state.cells.clone()
    with pytest.raises(NonFiniteLossError):
        trainer.step(spoiled=True)
    assert torch.equal(trainer.state.cells, before)


def test_one_transfer_a_step(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(tiny, monkeypatch)
    transfers, original = list[tuple[int, ...]](), torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: transfers.append(tuple(self.shape)) or original(self))
    trainer.step()
    assert transfers == [(7, 16)]


def test_a_checkpoint_keeps_every_digit(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trainer = Trainer(tiny, monkeypatch)
    for _ in range(3):
        trainer.step()
    Checkpoints(tmp_path).save(trainer.state)
    fresh: TrainState = Trainer(tiny, monkeypatch).state
    assert Checkpoints(tmp_path).restore(fresh)
    assert fresh.cells.dtype == torch.float64
    assert torch.equal(fresh.cells, trainer.state.cells)
    assert bool((fresh.cells.float() != fresh.cells).any())


def test_means_by_gap_are_those_of_the_rows() -> None:
    draw = torch.Generator().manual_seed(0)
    t = torch.rand(64, generator=draw).double()
    gap = torch.where(torch.arange(64) < 16, 0.0, 0.6 * t)
    raw, norm, one = torch.rand(64, generator=draw).double(), torch.rand(64, generator=draw).double(), torch.ones(64)
    rows = RowTable(torch.arange(64) < 16, t, gap, raw, one, one, one, norm)
    found = summarise(1, rows, {}, 0.0).by_gap
    assert found["raw loss, r = t"] == pytest.approx(float(raw[:16].mean()))
    for low, high in ((0.0, 0.1), (0.1, 0.3), (0.3, 0.5), (0.5, 0.7)):
        inside = (torch.arange(64) >= 16) & (gap >= low) & (gap < high)
        assert found[f"raw loss, gap {low} to {high}"] == pytest.approx(float(raw[inside].mean()))
        assert found[f"du/dt norm, gap {low} to {high}"] == pytest.approx(float(norm[inside].mean()))
    assert "raw loss, gap 0.7 to 0.9" not in found, "no rows, no mean"
    assert "du/dt norm, r = t" not in found
