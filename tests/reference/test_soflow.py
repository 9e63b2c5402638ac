"""SoFlow against an independent transcription of its official code (zlab-princeton/SoFlow, models.py), in float64."""

from dataclasses import replace

import pytest
import torch
from builders import LABELS, MODELS, batch, gradients, network, plain_torch, relative
from torch import Tensor, nn

from dynamics.flow.condition import ClassLabels
from dynamics.flow.gap_bins import within_gap_bin
from dynamics.flow.path import expand
from dynamics.flow.progress import Progress
from dynamics.flow.published_laws import SeparateDraws
from dynamics.flow.rows import Rows
from dynamics.flow.times import UniformPair
from dynamics.models import Network
from dynamics.objectives import Adaptive, Annealed, Guidance, SoFlow
from dynamics.oracles import GuidedOracle, MixtureOracle

NULL, TOLERANCE = LABELS.num_classes, 1e-10
SETTINGS = {
    "unguided": (1.0, 1.0, 1.0),
    "as published": (3.0, 0.25, 0.8),
    "unmixed": (3.0, 1.0, 0.6),
    "mixed, at all times": (2.0, 0.5, 1.0),
}
"""cfg_scale, mix_ratio and cfg_decay_time."""


def guidance_of(cfg_scale: float, mix: float, decay: float) -> Guidance:
    return Guidance(w=mix * cfg_scale, k=1 - mix, t_end=decay, fade=0.025 if decay < 1 else 0.0, label_drop_prob=0.3)


def decay_scale(t: Tensor, decay_time: float, k: float = 0.025) -> Tensor:
    if decay_time >= 1.0:
        return torch.ones_like(t)
    decay_t = ((1 - t) / (1 - decay_time)).clamp(min=0, max=1 - 1e-6)
    return (t <= decay_time).double() + (t > decay_time).double() * (1 - torch.exp(-k * (decay_t / (1 - decay_t))))


def guided(net: nn.Module, rows: Rows, setting: tuple[float, float, float]) -> tuple[Tensor, Tensor, Tensor]:
    """x_t, the guided velocity and t, wide."""
    cfg_scale, mix, decay = setting
    t = rows.t[:, None, None, None]
    x_t, v_t = (1 - t) * rows.x + t * rows.e, rows.e - rows.x
    if cfg_scale == 1.0:
        return x_t, v_t, t
    with torch.no_grad():
        v_unc = net(x_t, rows.t, rows.t, torch.full_like(rows.c, NULL))
        v_g = v_t + decay_scale(t, decay) * (cfg_scale - 1) * (v_t - v_unc)
        v_g = mix * v_g + (1 - mix) * net(x_t, rows.t, rows.t, rows.c)
        return x_t, torch.where(rows.dropped[:, None, None, None], v_t, v_g), t


def velocity_loss(
    net: nn.Module, rows: Rows, setting: tuple[float, float, float], p: float, eps: float
) -> tuple[Tensor, Tensor]:
    x_t, v, _ = guided(net, rows, setting)
    square = (net(x_t, rows.t, rows.t, rows.c) - v).flatten(1).pow(2).mean(1)
    return square, (square / (square + eps).pow(p).detach()).sum()


def consistency_loss(
    net: nn.Module, rows: Rows, setting: tuple[float, float, float], p: float, eps: float, ratio: float
) -> tuple[Tensor, Tensor]:
    x_t, v, t = guided(net, rows, setting)
    s = rows.r[:, None, None, None]
    middle = torch.min(t + (s - t) * ratio, t - 1e-4)
    nn_t = net(x_t, rows.t, rows.r, rows.c)
    f_t = x_t + (s - t) * nn_t
    with torch.no_grad():
        x_l = x_t + v * (middle - t)
        f_l = x_l + (s - middle) * net(x_l, middle.flatten(), rows.r, rows.c)
        quotient = ((f_t - f_l) / (t - middle)).flatten(1)
        weight = 1.0 / (quotient.pow(2).mean(1) + eps).pow(p)
    loss = -(nn_t.flatten(1) * quotient * weight[:, None]).mean(1)  # the sign is that of s - t
    return quotient.pow(2).mean(1), loss.sum()


@pytest.mark.parametrize("p", [0.0, 0.75, 1.0])
@pytest.mark.parametrize("branch", SETTINGS)
@pytest.mark.parametrize("kind", MODELS)
def test_soflow_equals_the_official_formula(kind: str, branch: str, p: float) -> None:
    """Loss and gradient of r = t rows, quotient squared and gradient of r < t rows; one gap is below 1e-4 / rho."""
    net, guidance, now, size = network(kind), guidance_of(*SETTINGS[branch]), Progress(600, 1000), 32
    rows = guidance.drop_conditions(batch(16, 8, law=UniformPair()), seed=0, step=0)
    rows = replace(rows, r=rows.r.index_copy(0, torch.tensor([9]), rows.t[9:10] - 5e-4))
    ratio = 0.1 * (0.002 / 0.1) ** 0.6
    with plain_torch():
        square, of_v = velocity_loss(net, rows.part(0, 8), SETTINGS[branch], p, 0.01)
        quotient, of_u = consistency_loss(net, rows.part(8, 16), SETTINGS[branch], p, 0.01, ratio)
        expected = gradients(net, (of_v + of_u) / 16)
    objective = SoFlow(adaptive=Adaptive(p=p, c=0.01, reduction="mean"), guidance=guidance)
    terms = objective.loss(Network(net), rows, now)
    share = torch.full((8,), ratio, dtype=torch.float64)
    share[1] = 1e-4 / 5e-4
    assert relative(terms.raw[:8] / size, square) < TOLERANCE
    assert relative((terms.raw * terms.adaptive)[:8].sum(), of_v) < TOLERANCE
    assert relative(terms.raw[8:] / size / share**2, quotient) < TOLERANCE
    for name, gradient in gradients(net, (terms.raw * terms.adaptive).mean()).items():
        assert relative(gradient, expected[name]) < TOLERANCE, name


def test_the_step_shrinks_exponentially() -> None:
    """The official code's `get_middle_time`, of the steps done so far."""
    for step in (0, 1, 250, 999):
        assert SoFlow().alpha.at(step / 1000) == pytest.approx(0.1 * (0.002 / 0.1) ** (step / 1000))


def test_the_step_never_vanishes() -> None:
    with pytest.raises(ValueError, match=r"objective.alpha: received \(0.1, 0.0\); allowed: shares above 0"):
        SoFlow(alpha=Annealed(path="exponential", first=0.1, last=0.002))


def test_the_truth_of_fading_guidance() -> None:
    """v_g = v_g(truth) on average where strength fades: the scale falls from 3 to 1 between t_end and 1."""
    means = torch.tensor([[1.0, 0.2], [-0.5, 1.0], [-1.0, -0.3], [0.4, -1.1]])
    spread = torch.eye(2).expand(4, 2, 2) * torch.tensor([0.3, 0.2, 0.25, 0.4])[:, None, None]
    oracle = MixtureOracle(means, spread, torch.full((4,), 0.25), torch.tensor([0, 0, 1, 1]), num_steps=32)
    guidance = guidance_of(3.0, 0.25, 0.6)
    objective = SoFlow(guidance=guidance)
    truth = objective.truth(oracle)
    assert isinstance(truth, GuidedOracle)
    rows = batch(32, 16, shape=(2, 1, 1), condition=ClassLabels(2), law=UniformPair())
    z, t = rows.path()[0], expand(rows.t, rows.x)
    v = oracle.v(z, rows.t, rows.c)
    rows = replace(rows, x=z - t * v, e=z + (1 - t) * v)
    assert float(objective.loss(Network(truth.u), rows, Progress(999, 1000)).raw.max()) < 1e-6
    assert float(objective.loss(Network(oracle.u), rows, Progress(999, 1000)).raw.max()) > 1e-2
    scales = guidance.scale(torch.tensor([0.0, 0.6, 0.62, 0.9, 1.0]))
    assert isinstance(scales, Tensor)
    assert scales.tolist() == pytest.approx([3.0, 3.0, 2.0 * 0.3782 + 1, 1.0166, 1.0], abs=1e-3)
    noise = guidance.target_noise(torch.ones(3, 1), torch.tensor([0.3, 0.62, 1.0]))
    assert noise.flatten().tolist() == pytest.approx([0.75, 0.25 * (2.0 * 0.3782 + 1), 0.25], abs=1e-3)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 0.1), (0.3, 0.5), (0.5, 0.9)])
def test_times_are_drawn_as_in_the_official_code(low: float, high: float) -> None:
    """Also within bins of the gap: means of t and r within 4.5 standard errors, and no gap outside the bin."""
    stream = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 200_000, generator=stream, dtype=torch.float64)
    t = torch.sigmoid(b * 0.8 + 0.2).clamp(min=1e-4)
    r = torch.min(torch.sigmoid(a * 0.8 - 1.0), t - 1e-4)
    kept = (t - r >= low) & (t - r <= high)
    law = SeparateDraws()
    drawn = (law if (low, high) == (0.0, 1.0) else within_gap_bin(law, low, high)).sample(50_000, stream)
    gap = drawn[0] - drawn[1]
    assert low - 1e-6 <= float(gap.min())
    assert float(gap.max()) <= high + 1e-6
    assert float(gap.min()) > 0.99e-4
    for found, expected in zip(drawn, (t[kept], r[kept]), strict=True):
        error = (found.var() / len(found) + expected.var() / len(expected)).sqrt()
        assert abs(float(found.double().mean() - expected.mean())) < 4.5 * float(error)


def test_the_earliest_time_leaves_room_for_a_step() -> None:
    t, r = SeparateDraws(t_mean=-30.0).quantile(*torch.full((2, 1), 0.5, dtype=torch.float64))
    assert (float(t), float(r)) == pytest.approx((1e-4, 0.0), abs=1e-12)
