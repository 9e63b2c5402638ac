"""Improved MeanFlow against an independent transcription of the official code's loss, in float64.

The reference goes the official way: v_c and v_u by two passes on all rows, v_c once more with the scale that holds at
t, labels dropped afterwards, V from one forward-mode pass on all rows. In place of the official head of its own, v is
the network at r = t with guidance at every t, as the paper's boundary form has it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import CPU, LABELS, MODELS, NOW, batch, gradients, network, plain_torch, relative
from torch import Tensor, nn

from dynamics.flow.condition import ClassLabels
from dynamics.flow.path import expand
from dynamics.flow.rows import Rows
from dynamics.flow.times import UniformPair
from dynamics.models import Network
from dynamics.objectives import Adaptive, AskedGuidance, FlowMatching, Guidance, GuidanceLaw, IMeanFlow
from dynamics.objectives.asked_guidance import GuidedCondition
from dynamics.oracles import GaussianOracle, MixtureOracle

NUM_ROWS, NUM_EQUAL = 24, 10
NULL = LABELS.num_classes
TOLERANCE = 1e-10
BRANCHES = {
    "sampled": IMeanFlow(sampled=GuidanceLaw(), guidance=Guidance(label_drop_prob=0.3)),
    "sampled, first rows": IMeanFlow(
        sampled=GuidanceLaw(), guidance=Guidance(label_drop_prob=0.3, label_drop="first_rows")
    ),
    "narrow interval": IMeanFlow(
        sampled=GuidanceLaw(scale=(2.0, 3.0), t_min=(0.4, 0.5), t_max=(0.5, 0.6)), guidance=Guidance(label_drop_prob=0)
    ),
    "fixed": IMeanFlow(guidance=Guidance(k=1 - 1 / 2.5, label_drop_prob=0.3)),
    "fixed, interval": IMeanFlow(guidance=Guidance(k=1 - 1 / 2.5, t_start=0.3, t_end=0.7, label_drop_prob=0.3)),
    "unguided": IMeanFlow(guidance=Guidance(label_drop_prob=0.3)),
}
Velocity = Callable[..., Tensor]


def official(
    u_fn: Velocity, rows: Rows, y: Tensor, omega: Tensor, t_min: Tensor, t_max: Tensor, p: float, eps: float
) -> tuple[Tensor, Tensor]:
    """imf.py's `forward`, for velocities u_fn(z, t, h, omega, t_min, t_max, y): raw losses and the training loss."""
    t, r, drop = (a[:, None, None, None] for a in (rows.t, rows.r, rows.dropped))
    z_t = (1 - t) * rows.x + t * rows.e
    v_t = rows.e - rows.x
    zero, one = torch.zeros_like(rows.t), torch.ones_like(rows.t)
    with torch.no_grad():
        w = omega
        v_c = u_fn(z_t, rows.t, zero, w, zero, one, y)
        v_u = u_fn(z_t, rows.t, zero, one, zero, one, torch.full_like(y, NULL))
        w = torch.where((rows.t >= t_min) & (rows.t <= t_max), omega, 1.0)
        v_c = u_fn(z_t, rows.t, zero, w, zero, one, y)
        v_g = v_t + (1 - 1 / w)[:, None, None, None] * (v_c - v_u)
    y = torch.where(rows.dropped, NULL, y)
    v_g = torch.where(drop, v_t, v_g)
    u, du_dt = torch.func.jvp(
        lambda z, t, r: u_fn(z, t, t - r, omega, t_min, t_max, y),
        (z_t, rows.t, rows.r),
        (v_c, one, zero),
    )
    compound = u + (t - r) * du_dt.detach()
    raw = ((compound - v_g) ** 2).sum(dim=(1, 2, 3))
    return raw, (raw / ((raw + eps) ** p).detach()).mean()


def rows_of(objective: IMeanFlow, num_equal: int = NUM_EQUAL) -> tuple[Rows, Tensor]:
    """Return prepared rows and the labels that they had."""
    drawn = batch(NUM_ROWS, NUM_ROWS - num_equal, law=UniformPair(), dtype=torch.float32)
    return objective.prepare(drawn, seed=0, step=0).to(CPU, torch.float64), drawn.c


def reference(net: nn.Module, objective: IMeanFlow, rows: Rows, y: Tensor, p: float) -> tuple[Tensor, Tensor]:
    if objective.sampled is None:
        g, full = objective.guidance, torch.ones_like(rows.t)
        asked = [value * full for value in (1 / (1 - g.k), g.t_start, g.t_end)]

        def u_fn(z: Tensor, t: Tensor, h: Tensor, w: Tensor, low: Tensor, high: Tensor, y: Tensor) -> Tensor:
            out: Tensor = net(z, t, t - h, y)
            return out
    else:
        asked = [rows.c.scale, rows.c.t_min, rows.c.t_max]

        def u_fn(z: Tensor, t: Tensor, h: Tensor, w: Tensor, low: Tensor, high: Tensor, y: Tensor) -> Tensor:
            out: Tensor = net(z, t, t - h, AskedGuidance(y, w, low, high))
            return out

    with plain_torch():
        return official(u_fn, rows, y, *asked, p=p, eps=0.02)


@pytest.mark.parametrize("num_equal", [NUM_EQUAL, 0, NUM_ROWS])
@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("kind", MODELS)
def test_it_equals_the_official_formula(kind: str, branch: str, num_equal: int) -> None:
    p = 0.5 if kind == "mlp" else 1.0
    objective = BRANCHES[branch].model_copy(update={"adaptive": Adaptive(p=p, c=0.02)})
    net = network(kind, condition=objective.condition(LABELS))
    rows, y = rows_of(objective, num_equal)
    if objective.sampled is not None and num_equal == NUM_EQUAL:
        inside = rows.c.inside(rows.t)
        assert bool(inside[:NUM_EQUAL].all()), "r = t rows have guidance everywhere"
        assert bool(inside[NUM_EQUAL:].any())
        assert not bool(inside.all())
    expected = reference(net, objective, rows, y, p)
    terms = objective.loss(Network(net), rows, NOW)
    loss = (terms.adaptive * terms.raw).mean()
    assert relative(terms.raw, expected[0]) < TOLERANCE
    assert relative(loss, expected[1]) < TOLERANCE
    theirs = gradients(net, expected[1])
    for name, gradient in gradients(net, loss).items():
        assert float((gradient - theirs[name]).norm()) <= TOLERANCE * max(float(theirs[name].norm()), 1e-3), name


@pytest.mark.parametrize("guidance", [{"fade": 0.1}, {"label_drop": "guided"}])
def test_guidance_that_it_has_no_target_for_is_refused(guidance: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"guidance.fade and guidance.label_drop: received .* independent or first_ro"):
        IMeanFlow(guidance=Guidance.model_validate({"k": 0.5, "t_end": 0.8, **guidance}))


def test_the_branches_differ() -> None:
    losses = set()
    for objective in BRANCHES.values():
        net = network("mlp", condition=objective.condition(LABELS))
        losses.add(round(float(objective.loss(Network(net), rows_of(objective)[0], NOW).raw.detach().mean()), 9))
    assert len(losses) == len(BRANCHES)


@pytest.mark.parametrize("branch", ["unguided", "sampled"])
def test_at_equal_times_it_is_flow_matching(branch: str) -> None:
    """Where w = 1, which the sampled law then is."""
    objective = BRANCHES[branch].model_copy(update={"adaptive": Adaptive(p=0.5)})
    if objective.sampled is not None:
        objective = objective.model_copy(update={"sampled": GuidanceLaw(scale=(1.0, 1.0))})
    net = network("mlp", condition=objective.condition(LABELS))
    rows, _ = rows_of(objective, NUM_ROWS)
    found = objective.loss(Network(net), rows, NOW)
    expected = FlowMatching(adaptive=Adaptive(p=0.5)).loss(Network(net), rows, NOW)
    theirs = gradients(net, (expected.raw * expected.adaptive).mean())
    for name, gradient in gradients(net, (found.raw * found.adaptive).mean()).items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.raw, expected.raw, rtol=1e-10, atol=1e-12)


class Disturbed(nn.Module):
    """The exact velocities of a Gaussian, and a weight for each way in which they may be wrong."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.oracle = GaussianOracle(std)
        self.weights = nn.Parameter(torch.zeros(4, dtype=torch.float64))

    def forward(self, z: Tensor, t: Tensor, r: Tensor, c: object) -> Tensor:
        t, r = expand(t, z), expand(r, z)
        a, b, g, h = self.weights
        return self.oracle.u(z, t.flatten(), r.flatten()) + a * z + b * t * z + g * (t - r) * z + h * (t - r) * r * z


class Longer(Network):
    """A network whose derivative is taken along 1.1 v."""

    def jvp(self, *args: Tensor, dz: Tensor, dt: float, dr: float) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().jvp(*args, dz=1.1 * dz, dt=dt, dr=dr)


@pytest.mark.parametrize("branch", ["unguided", "sampled"])
def test_at_its_fixed_point_the_expected_gradient_vanishes(branch: str) -> None:
    """Of 20,000 r < t rows, within 4 standard errors for each weight; a tangent 10% too long is seen by over 8."""
    objective = BRANCHES[branch].model_copy(update={"adaptive": Adaptive(p=0)})
    drawn, net = batch(20_000, 20_000, law=UniformPair()), Disturbed(0.5)
    rows = objective.prepare(replace(drawn, x=0.5 * drawn.x), seed=0, step=0)

    def deviations(net_of: Network) -> Tensor:
        terms = objective.loss(net_of, rows, NOW)
        z, t, r = rows.path()[0], expand(rows.t, rows.x), expand(rows.r, rows.x)
        by_row = torch.stack(
            [
                (2 * (terms.prediction - terms.target) * way).flatten(1).sum(1).detach()
                for way in (z, t * z, (t - r) * z, (t - r) * r * z)
            ]
        )
        whole = torch.autograd.grad(terms.raw.mean(), net.weights)[0]
        torch.testing.assert_close(whole, by_row.mean(1), rtol=1e-9, atol=1e-12)
        return by_row.mean(1).abs() / (by_row.std(1) / len(rows) ** 0.5)

    assert float(deviations(Network(net)).max()) < 4
    assert float(deviations(Longer(net)).max()) > 8


def mixture() -> MixtureOracle:
    means = torch.tensor([[1.0, 0.2], [-0.5, 1.0], [-1.0, -0.3], [0.4, -1.1]])
    spread = torch.eye(2).expand(4, 2, 2) * torch.tensor([0.3, 0.2, 0.25, 0.4])[:, None, None]
    return MixtureOracle(means, spread, torch.full((4,), 0.25), torch.tensor([0, 0, 1, 1]), num_steps=16)


def test_the_truth_is_each_rows_own_guidance() -> None:
    """At v's mean given z_t the loss of sampled guidance is least there."""
    objective, oracle = IMeanFlow(sampled=GuidanceLaw(), guidance=Guidance(label_drop_prob=0)), mixture()
    rows = batch(24, 14, shape=(2, 1, 1), condition=ClassLabels(2), law=UniformPair())
    z, t = rows.path()[0], expand(rows.t, rows.x)
    v = oracle.v(z, rows.t, rows.c)
    rows = objective.prepare(replace(rows, x=z - t * v, e=z + (1 - t) * v), seed=0, step=0)
    truth = objective.truth(oracle)
    terms = objective.loss(Network(truth.u), rows, NOW)
    assert float(terms.raw.max()) < 1e-6
    torch.testing.assert_close(terms.target[:10], truth.v(z[:10], rows.t[:10], rows.c[:10]))
    asked = objective.truth(oracle).u(z, rows.t, rows.r, objective.ask(rows.c.of_data))
    torch.testing.assert_close(asked, oracle.u(z, rows.t, rows.r, rows.c.of_data))  # w = 1 is asked for
    other = objective.asking_for(3.0, (0.2, 0.7))
    one = IMeanFlow(guidance=Guidance(k=1 - 1 / 3, t_start=0.2, t_end=0.7)).truth(oracle)
    found = other.truth(oracle).u(z, rows.t, rows.r, other.ask(rows.c.of_data))
    torch.testing.assert_close(found, one.u(z, rows.t, rows.r, rows.c.of_data), rtol=1e-6, atol=1e-6)
    assert isinstance(rows.condition, GuidedCondition)
