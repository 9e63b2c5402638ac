"""DMF's loss, MeanFlow's with a learned log-variance, against an independent transcription in float64.

The reference is one graph: the logarithm with l = Linear(embeddings of t and r) inside, gradients of the network and
of l by autograd, and torch's own AdamW for l.
"""

import math
from itertools import pairwise
from typing import Literal

import pytest
import torch
from builders import LABELS, NOW, batch, gradients, network, plain_torch, relative
from torch import Tensor, nn

from dynamics.curricula import LearnedVariance, Progress, State, plan_for
from dynamics.flow.rows import Rows
from dynamics.flow.times import TimesOptions, UniformPair
from dynamics.models import Network
from dynamics.objectives import Adaptive, Guidance, MeanFlow
from dynamics.presets import PRESETS
from dynamics.record import RowTable, StepRecord, summarise
from dynamics.training.step import curriculum_weights

OMEGA, START, END = 0.6, 0.2, 0.7
EPS = 0.01
TOLERANCE = 1e-10
Form = Literal["variance", "log"]


class Head(nn.Module):
    """The official code's l(t, r)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(256, 1).double()
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, t: Tensor, r: Tensor) -> Tensor:
        def embedded(s: Tensor) -> Tensor:
            freqs = torch.exp(-math.log(10000) * torch.arange(0, 64, dtype=torch.float64) / 64)
            args = s[..., None] * freqs[None]
            return torch.cat([torch.cos(args), torch.sin(args)], dim=-1)

        out: Tensor = self.linear(torch.cat([embedded(t), embedded(r)], dim=1)).view(-1)
        return out


def loss_of(mean_error: Tensor, lv: Tensor, form: Form) -> Tensor:
    if form == "log":
        return torch.log((1 / lv.exp()) * mean_error + EPS) + lv
    return mean_error / lv.exp() + lv


def official(net: nn.Module, head: Head, rows: Rows, form: Form) -> Tensor:
    """The losses of the rows."""
    t, r, y = rows.t, rows.r, rows.c
    tt, rr = t[:, None, None, None], r[:, None, None, None]
    x_t, v_t = (1 - tt) * rows.x + tt * rows.e, rows.e - rows.x
    with torch.no_grad():
        v_cond, v_uncond = net(x_t, t, t, y), net(x_t, t, t, torch.full_like(y, LABELS.num_classes))
    inside = (tt >= START) & (tt <= END) & ~rows.dropped.reshape(-1, 1, 1, 1)
    v_tgt = torch.where(inside, v_t + OMEGA * (v_cond - v_uncond), v_t)
    u, du_dt = torch.func.jvp(lambda a, b, c: net(a, b, c, y), (x_t, t, r), (v_tgt, torch.ones_like(t), 0 * r))
    u_tgt = (v_tgt + (rr - tt) * du_dt).detach()
    return loss_of(((u - u_tgt) ** 2).mean((1, 2, 3)), head(t, r), form)


def step_of(rows: Rows, raw: Tensor) -> StepRecord:
    one = torch.ones(len(rows), dtype=torch.float64)
    is_v = torch.arange(len(rows)) < rows.num_equal
    table = RowTable(is_v, rows.t, rows.t - rows.r, raw.detach(), one, one, one, 0 * one)
    return summarise(1, table, {}, 1.0)


def curriculum_of(form: Form, num_pixels: int) -> LearnedVariance:
    return LearnedVariance(form=form, initial=math.log(num_pixels), eps=EPS, learning_rate=0.05)


@pytest.mark.parametrize("form", ["log", "variance"])
def test_network_and_variance_learn_as_in_the_official_code(form: Form) -> None:
    net, head = network("dit"), Head()
    guidance = Guidance(w=1.0, k=OMEGA, t_start=START, t_end=END, label_drop_prob=0.3)
    objective = MeanFlow(adaptive=Adaptive(p=0.0), guidance=guidance)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.05, betas=(0.9, 0.95), weight_decay=0.0)
    curriculum: LearnedVariance | None = None
    state: State = {}
    for step in range(4):
        rows = guidance.drop_conditions(batch(16, 8, law=UniformPair(), tag=step), seed=0, step=step)
        curriculum = curriculum or curriculum_of(form, rows.x[0].numel())
        state = state or curriculum.initial_state()
        with plain_torch():
            theirs = official(net, head, rows, form).mean()
        optimizer.zero_grad()
        net.zero_grad()
        theirs.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        expected = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
        terms = objective.loss(Network(net), rows, NOW)
        plan = plan_for(TimesOptions(), (curriculum,), Progress(step, 10), [state])
        weight = curriculum_weights(plan, rows, terms.raw)
        for name, gradient in gradients(net, (weight * terms.adaptive * terms.raw).mean()).items():
            assert relative(gradient, expected[name]) < TOLERANCE, name
        state = curriculum.observe(state, step_of(rows, terms.raw))
        found = curriculum.log_variance(state, rows.t, rows.r) - curriculum.initial
        assert float(found.abs().max()) > 0.01, "l moves"
        assert relative(found, head(rows.t, rows.r)) < 1e-9


def test_the_variance_becomes_that_of_the_loss() -> None:
    """The logarithm of the mean given t and r, which is 0.58 above the mean of the logarithm."""
    curriculum, stream = LearnedVariance(), torch.Generator().manual_seed(0)
    state, tested = curriculum.initial_state(), batch(64, 48, law=UniformPair(), tag="tested")

    def mean(rows: Rows) -> Tensor:
        return 5 * (1 + 3 * rows.t) * (1 - 0.5 * rows.r)

    for step in range(400):
        rows = batch(256, 192, shape=(1, 1, 1), law=UniformPair(), tag=step)
        draw = torch.empty(len(rows), dtype=torch.float64).exponential_(generator=stream)
        state = curriculum.observe(state, step_of(rows, mean(rows) * draw))
    error = curriculum.log_variance(state, tested.t, tested.r) - mean(tested).log()
    assert float(error.abs().max()) < 0.5
    assert abs(float(error.mean())) < 0.1


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_the_official_logarithm_lets_it_fall_without_end(size: float) -> None:
    """Whatever the loss: the weight ends at 1 / L, and l says nothing of the loss."""
    rows, curriculum = batch(16, 8), LearnedVariance(form="log", learning_rate=0.05)
    state, raw = curriculum.initial_state(), torch.full((16,), size, dtype=torch.float64)
    levels = []
    for _ in range(30):
        levels.append(float(curriculum.log_variance(state, rows.t, rows.r).mean()))
        state = curriculum.observe(state, step_of(rows, raw))
    assert all(later < earlier for earlier, later in pairwise(levels))
    assert levels[-1] < -10


def test_the_preset_is_the_official_setting() -> None:
    config = PRESETS["digits-dmf"]
    (curriculum,) = config.curricula
    assert isinstance(curriculum, LearnedVariance)
    assert (curriculum.form, curriculum.eps, curriculum.betas) == ("log", 0.01, config.training.betas)
    assert curriculum.learning_rate == config.training.learning_rate, "one optimiser has both"
    shape, _ = config.data.dimensions()
    assert curriculum.initial == pytest.approx(math.log(math.prod(shape)))
