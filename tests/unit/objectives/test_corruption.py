"""Corrupted targets of v: how the noise enters, whose it is, and that nothing else changes."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from dynamics.curricula import Progress, plan_for
from dynamics.data import Digits
from dynamics.flow.rows import Rows, draw_rows
from dynamics.flow.times import LogitNormalPair, TimesOptions
from dynamics.objectives import CorruptedMeanFlow, MeanFlow, total_derivative
from dynamics.training import draw

LAW = LogitNormalPair()


def rows(num: int = 8, num_gap: int = 2, seed: int = 0) -> Rows:
    x = torch.randn(num, 1, 2, 3, generator=torch.Generator().manual_seed(seed))
    y = torch.zeros(num, dtype=torch.long)
    return draw_rows(x, y, equal_law=LAW, gap_law=LAW, num_gap=num_gap, seed=seed, tag=0)


def field(z: Tensor, t: Tensor, r: Tensor, y: Tensor) -> Tensor:
    return 0.5 * z * (1 + t + r)[:, None, None, None]


def noise(seed: int = 0, step: int = 0, batch: Rows | None = None, **options: object) -> Tensor:
    found = CorruptedMeanFlow.model_validate(options).corrupt(batch or rows(), seed, step).v_noise
    assert found is not None
    return found


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
    du_dt = partial(total_derivative, field)
    clean = MeanFlow().terms(field, du_dt, rows(), num_classes=1)
    corrupted = CorruptedMeanFlow(level=0.5)
    batch = corrupted.corrupt(rows(), seed=0, step=0)
    assert batch.v_noise is not None
    terms = corrupted.terms(field, du_dt, batch, num_classes=1)
    torch.testing.assert_close(terms.target[:6] - clean.target[:6], batch.v_noise[:6])
    assert torch.equal(terms.target[6:], clean.target[6:])
    assert torch.equal(terms.prediction, clean.prediction)
    assert torch.equal(corrupted.terms(field, du_dt, rows(), 1).raw, clean.raw), "instruments draw clean rows"


def test_level_zero_is_meanflow() -> None:
    du_dt = partial(total_derivative, field)
    corrupted = CorruptedMeanFlow(level=0.0)
    terms = corrupted.terms(field, du_dt, corrupted.corrupt(rows(), 0, 0), num_classes=1)
    assert torch.equal(terms.raw, MeanFlow().terms(field, du_dt, rows(), num_classes=1).raw)


def test_noise_stays_with_its_rows() -> None:
    batch = CorruptedMeanFlow(level=1.0).corrupt(rows(8, 4), 0, 0)
    assert batch.v_noise is not None
    shard, part = batch.shard(1, 2), batch.part(3, 6)
    assert shard.v_noise is not None
    assert part.v_noise is not None
    assert torch.equal(shard.v_noise, batch.v_noise[1::2])
    assert torch.equal(part.v_noise, batch.v_noise[3:6])
    moved = batch.to(torch.device("cpu"), torch.float64).v_noise
    assert moved is not None
    assert moved.dtype == torch.float64


def test_training_draws_it() -> None:
    data = Digits().load()
    plan = plan_for(TimesOptions(), (), Progress(0, 10), [])
    drawn = draw(data, plan, CorruptedMeanFlow(level=0.3), 16, seed=2, step=5)
    clean = draw(data, plan, MeanFlow(), 16, seed=2, step=5)
    assert clean.v_noise is None
    assert torch.equal(drawn.e, clean.e), "the same rows with and without"
    assert drawn.v_noise is not None
    expected = CorruptedMeanFlow(level=0.3).corrupt(clean, seed=2, step=5).v_noise
    assert expected is not None
    assert torch.equal(drawn.v_noise, expected)
