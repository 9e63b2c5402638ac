"""Corrupted targets of v: how the noise enters, whose it is, and that nothing else changes."""

from dataclasses import replace

import pytest
import torch
from builders import CPU, NOW, batch, recipe
from torch import Tensor

from dynamics.flow.condition import ClassLabels
from dynamics.flow.rows import Rows
from dynamics.models import Network
from dynamics.objectives import CorruptedMeanFlow, Guidance, MeanFlow, Objective
from dynamics.objectives.corruption import CorruptedRows
from dynamics.training import draw


def rows(num: int = 8, num_gap: int = 2, seed: int = 0) -> Rows:
    return batch(num, num_gap, shape=(1, 2, 3), condition=ClassLabels(1), seed=seed, dtype=torch.float32)


def field(z: Tensor, t: Tensor, r: Tensor, c: Tensor) -> Tensor:
    return 0.5 * z * (1 + t + r)[:, None, None, None]


def corrupted(objective: Objective, rows: Rows, seed: int = 0, step: int = 0) -> CorruptedRows:
    prepared = objective.prepare(rows, seed, step)
    assert isinstance(prepared, CorruptedRows)
    return prepared


def noise(seed: int = 0, step: int = 0, batch: Rows | None = None, **options: object) -> Tensor:
    return corrupted(CorruptedMeanFlow.model_validate(options), batch or rows(), seed, step).v_noise


@pytest.mark.parametrize("kind", ["fresh", "image", "run"])
def test_scales_of_one_noise(kind: str) -> None:
    """All three readings share n: norm / literal = 1 / sqrt(d), element / literal = |v_i| / ||v||."""
    v = rows().e - rows().x
    norm = v.flatten(1).norm(dim=1)[:, None, None, None]
    of = {scale: noise(level=0.2, scale=scale, noise=kind) for scale in ("norm", "element", "literal")}
    n = of["literal"] / (0.2 * norm)
    torch.testing.assert_close(of["norm"], 0.2 * norm * n / 6**0.5)
    torch.testing.assert_close(of["element"], 0.2 * v.abs() * n)
    assert abs(float(noise(batch=rows(4000), level=1.0, scale="element", noise="fresh").mean())) < 0.05


def test_fresh_noise_is_new_at_every_step_and_the_same_when_repeated() -> None:
    assert torch.equal(noise(step=3, noise="fresh"), noise(step=3, noise="fresh"))
    assert not torch.equal(noise(step=3, noise="fresh"), noise(step=4, noise="fresh"))


def test_noise_of_an_image_comes_back_with_the_image() -> None:
    batch = rows()
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(1))
    again = replace(batch, x=batch.x[order], e=batch.e[order])
    first = noise(step=1, noise="image", scale="literal", batch=batch)
    torch.testing.assert_close(noise(step=9, noise="image", scale="literal", batch=again), first[order])
    assert not torch.allclose(noise(seed=1, noise="image", batch=batch), noise(noise="image", batch=batch))
    norm = (batch.e - batch.x).flatten(1).norm(dim=1)[:, None, None, None]
    n = first / norm
    assert float((n[0] - n[1]).abs().max()) > 0.01, "images differ"


def test_noise_of_the_run_is_one_for_all_rows_and_steps() -> None:
    norm = (rows().e - rows().x).flatten(1).norm(dim=1)[:, None, None, None]
    n = noise(step=5, noise="run", scale="literal", level=1.0) / norm
    torch.testing.assert_close(n, n[:1].expand_as(n))
    torch.testing.assert_close(noise(step=6, noise="run"), noise(step=5, noise="run"))
    assert not torch.allclose(noise(seed=1, noise="run"), noise(seed=0, noise="run"))


def test_only_targets_of_r_equal_t_rows_move_and_by_exactly_the_noise() -> None:
    net, objective = Network(field), CorruptedMeanFlow(level=0.5)
    clean, batch = MeanFlow().loss(net, rows(), NOW), corrupted(objective, rows())
    terms = objective.loss(net, batch, NOW)
    torch.testing.assert_close(terms.target[:6] - clean.target[:6], batch.v_noise[:6])
    assert torch.equal(terms.target[6:], clean.target[6:])
    assert torch.equal(terms.prediction, clean.prediction)
    assert torch.equal(objective.loss(net, rows(), NOW).raw, clean.raw), "instruments draw clean rows"


def test_level_zero_is_meanflow() -> None:
    objective = CorruptedMeanFlow(level=0.0)
    terms = objective.loss(Network(field), corrupted(objective, rows()), NOW)
    assert torch.equal(terms.raw, MeanFlow().loss(Network(field), rows(), NOW).raw)


def test_noise_stays_with_its_rows() -> None:
    batch = corrupted(CorruptedMeanFlow(level=1.0), rows(8, 4))
    shard, part, moved = batch.shard(1, 2), batch.part(3, 6), batch.to(CPU, torch.float64)
    for found, expected in ((shard, batch.v_noise[1::2]), (part, batch.v_noise[3:6]), (moved, batch.v_noise.double())):
        assert isinstance(found, CorruptedRows)
        assert torch.equal(found.v_noise, expected)
    assert moved.v_noise.dtype == torch.float64


def test_training_draws_it() -> None:
    """On the rows that clean training would draw, with the same conditions dropped."""
    of = {o.kind: recipe(o, seed=2) for o in (CorruptedMeanFlow(level=0.3), MeanFlow())}
    drawn, clean = (draw(r, r.plan(5, []), step=5) for r in of.values())
    assert not isinstance(clean, CorruptedRows)
    assert isinstance(drawn, CorruptedRows)
    for name in ("x", "e", "t", "r", "c", "dropped"):
        assert torch.equal(getattr(drawn, name), getattr(clean, name)), name
    again = corrupted(CorruptedMeanFlow(level=0.3), clean, seed=2, step=5)
    assert torch.equal(drawn.v_noise, again.v_noise)
    assert not torch.equal(drawn.v_noise, corrupted(CorruptedMeanFlow(level=0.3), clean, seed=2, step=6).v_noise)


def test_instruments_measure_the_clean_loss() -> None:
    guidance = Guidance(k=0.5)
    objective = CorruptedMeanFlow(level=0.3, guidance=guidance)
    assert objective.measured("run") == MeanFlow(guidance=guidance)
    assert objective.measured("off") == MeanFlow()
