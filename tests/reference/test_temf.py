"""TEMF's guided target, weights and shares against the formulas of the official code, in float64."""

import math

import pytest
import torch
from builders import LABELS, MODELS, batch, gradients, network, plain_torch, relative
from fixed_point import z_scores
from torch import Tensor, nn

from dynamics.curricula import Progress, TemporalEquilibrium, plan_for
from dynamics.flow.rows import Rows
from dynamics.flow.times import TimesOptions, UniformPair
from dynamics.models import Network
from dynamics.objectives import TEMF, Adaptive, FlowMatching, Guidance, MeanFlow
from dynamics.training.step import curriculum_weights

TOLERANCE = 1e-10
SCALE = 2.5
GUIDANCE = Guidance(w=0.3 * SCALE, k=0.7, t_start=0.1, t_end=0.8, label_drop_prob=0.3, label_drop="guided")


def rows_of(num_gap: int = 6) -> Rows:
    return GUIDANCE.drop_conditions(batch(16, num_gap, law=UniformPair()), seed=0, step=0)


def known(net: nn.Module, rows: Rows, m: float) -> tuple[Tensor, Tensor]:
    """Squared errors of the rows, and the losses: their means times the temporal weight; y is null where dropped."""
    t, r, y, v = rows.t, rows.r, rows.c, rows.e - rows.x
    omega, kappa = SCALE * m, 1 - m
    tt, gap = t[:, None, None, None], t - r
    z = (1 - tt) * rows.x + tt * rows.e
    with torch.no_grad():
        conditional, unconditional = net(z, t, t, y), net(z, t, t, torch.full_like(y, LABELS.num_classes))
    guided = omega * v + kappa * conditional + (1 - omega - kappa) * unconditional
    v_g = torch.where(((t > 0.1) & (t < 0.8))[:, None, None, None], guided, v)
    u, du_dt = torch.func.jvp(lambda a, b: net(a, b, r, y), (z, t), (v_g, torch.ones_like(t)))
    error = (u - (v_g - gap[:, None, None, None] * du_dt).detach()).square()
    delta = gap.clamp(min=1e-3)
    return error.sum((1, 2, 3)), error.mean((1, 2, 3)) * (1 / (1 + delta)) * (1 / torch.sqrt(1 + delta**2))


@pytest.mark.parametrize("step", [0, 370, 999])
@pytest.mark.parametrize("kind", MODELS)
def test_it_equals_the_formula(kind: str, step: int) -> None:
    net, rows, now = network(kind), rows_of(), Progress(step, 1000)
    assert rows.dropped.any()
    mix = 0.3 + (0.1 - 0.3) * step / 1000
    objective = TEMF(guidance=GUIDANCE)
    with plain_torch():
        raw, loss = known(net, rows, mix)
    expected = gradients(net, loss.mean())
    terms = objective.loss(Network(net), rows, now)
    plan = plan_for(TimesOptions(), (TemporalEquilibrium(),), now, [{}])
    found = curriculum_weights(plan, rows, terms.raw) * terms.adaptive * terms.raw
    assert relative(terms.raw, raw) < TOLERANCE
    assert relative(found, loss) < TOLERANCE
    for name, gradient in gradients(net, found.mean()).items():
        assert relative(gradient, expected[name]) < TOLERANCE, name
    assert terms.extras["guidance_mix"].tolist() == pytest.approx([mix] * 16)


def test_the_share_of_gaps_follows_the_sigmoid() -> None:
    curriculum = TemporalEquilibrium()
    for tau in (0.0, 0.3, 0.6, 0.999):
        plan = plan_for(TimesOptions(gap_share=0.1), (curriculum,), Progress(round(tau * 1000), 1000), [{}])
        assert plan.gap_share == pytest.approx(0.1 + 0.8 / (1 + math.exp(-8 * (tau - 0.6))))
        assert plan.series == {"planned_gap_share": plan.gap_share}


def test_at_r_equal_t_without_guidance_it_is_flow_matching() -> None:
    net, rows = network("dit"), rows_of(num_gap=0)
    unguided = TEMF(guidance=Guidance(w=0.3, k=0.7, t_start=1, t_end=1), adaptive=Adaptive(p=0.5))
    terms = unguided.loss(Network(net), rows, Progress(3, 10))
    assert torch.equal(terms.raw, FlowMatching(adaptive=Adaptive(p=0.5)).loss(Network(net), rows, Progress(3, 10)).raw)


def test_the_truth_is_its_fixed_point() -> None:
    objective = TEMF()
    assert z_scores(objective, shift=0.0) < 4.5
    assert z_scores(objective, shift=0.1) > 10, "the test would see u that is wrong by a tenth of z"


def test_the_noise_of_its_target_moves_with_the_mix() -> None:
    objective, rows = TEMF(guidance=GUIDANCE), rows_of(num_gap=0)
    noise = torch.ones_like(rows.x)
    inside = (rows.t >= 0.1) & (rows.t <= 0.8)
    for step, m in ((0, 0.3), (500, 0.2)):
        found = objective.at(Progress(step, 1000)).target_noise(noise, rows)
        assert found[inside].unique().tolist() == pytest.approx([m * SCALE])
    assert objective.measured("off") == MeanFlow(adaptive=Adaptive(p=0.0, reduction="mean"))
