"""AlphaFlow against an independent transcription of its official code (snap-research/alphaflow) in float64."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from builders import LABELS, MODELS, Counting, batch, gradients, network, plain_torch, relative
from torch import Tensor, nn

from dynamics.flow.condition import ClassLabels
from dynamics.flow.path import Velocity, expand
from dynamics.flow.progress import Progress
from dynamics.flow.rows import Rows
from dynamics.flow.times import UniformPair
from dynamics.models import Network
from dynamics.objectives import Adaptive, AlphaFlow, Annealed, Guidance, SoFlow
from dynamics.oracles import GaussianOracle

NULL, TOLERANCE = LABELS.num_classes, 1e-10
HALF_WAY = Progress(5, 10)
GUIDANCES = {
    "off": Guidance(label_drop_prob=0.0),
    "everywhere": Guidance(w=1.0, k=0.5, label_drop_prob=0.4, label_drop="guided"),
    "inside an interval": Guidance(w=0.2, k=0.92, t_start=0.1, t_end=0.75, label_drop_prob=0.4, label_drop="guided"),
    "no conditional part": Guidance(w=2.0, label_drop_prob=0.4, label_drop="guided"),
}


def steady(alpha: float, **options: object) -> AlphaFlow:
    return AlphaFlow.model_validate({"alpha": Annealed(path="constant", first=alpha), **options})


def official(net: nn.Module, rows: Rows, g: Guidance, alpha: float, clamp: float, eps: float) -> dict[str, Tensor]:
    """The loss of each row, and the two that the paper takes it apart into; r = t rows stand first."""
    t, r, y = rows.t, rows.r, rows.c
    wide = (-1, 1, 1, 1)
    dt = torch.cat([torch.zeros(rows.num_equal).double(), alpha * (t - r)[rows.num_equal :]])
    x_t = (1 - t).view(wide) * rows.x + t.view(wide) * rows.e
    velocity = rows.e - rows.x
    with torch.no_grad():
        mask = (t > g.t_start) & (t < g.t_end)
        unc = net(x_t, t, t, torch.full_like(y, NULL)) if 1 - g.w - g.k != 0 else torch.zeros_like(x_t)
        con = net(x_t, t, t, y) if g.k != 0 else torch.zeros_like(x_t)
        guided = g.w * velocity + g.k * con + (1 - g.w - g.k) * unc
        velocity_cfg = velocity.clone()
        velocity_cfg[mask] = guided[mask]

        is_c = dt == 0
        target_c = velocity_cfg[is_c].clone()
        moving = ~torch.isclose(r[is_c], t[is_c])
        if moving.any():
            at = [part[is_c][moving] for part in (x_t, r, t, velocity_cfg, y)]
            z, r_mf, t_mf, v, y_mf = at
            tangents = (v, torch.zeros_like(r_mf), torch.ones_like(t_mf))
            _, dudt = torch.func.jvp(lambda z, r, t: net(z, t, r, y_mf), (z, r_mf, t_mf), tangents)
            target_c[moving] = v - (t_mf - r_mf).view(wide) * dudt

        x_d, v_d, t_d, r_d, dt_d, y_d = (part[~is_c] for part in (x_t, velocity_cfg, t, r, dt, y))
        behind = torch.zeros_like(x_d)
        if len(x_d) and not torch.isclose(1 - dt_d / (t_d - r_d), torch.zeros_like(t_d)).all():
            behind = net(x_d - dt_d.view(wide) * v_d, t_d - dt_d, r_d, y_d)
        target_d = (dt_d.view(wide) * v_d + (t_d - dt_d - r_d).view(wide) * behind) / (t_d - r_d).view(wide)
        target = torch.cat([target_c, target_d.clip(-clamp, clamp)])
    u = net(x_t, t, r, y)
    unscaled = ((u - target) ** 2).flatten(1).mean(1)
    weight = torch.where(is_c, 1.0, torch.tensor(alpha, dtype=torch.float64))
    return {
        "mean": unscaled,
        "loss": weight / (unscaled.detach() + eps) * unscaled,
        "flow_matching": ((u - velocity_cfg) ** 2).flatten(1).mean(1),
        "consistency": (2 * (velocity_cfg - target) * u).flatten(1).mean(1),
    }


def rows_of(guidance: Guidance, num_equal: int = 8) -> Rows:
    return guidance.drop_conditions(batch(16, 16 - num_equal, law=UniformPair()), seed=0, step=0)


@pytest.mark.parametrize("alpha", [1.0, 0.3, 0.02, 0.0])
@pytest.mark.parametrize("branch", GUIDANCES)
@pytest.mark.parametrize("kind", MODELS)
def test_alphaflow_equals_the_official_formula(kind: str, branch: str, alpha: float) -> None:
    net, guidance, size = network(kind), GUIDANCES[branch], 32
    rows, objective = rows_of(guidance), steady(alpha, guidance=guidance, target_clamp=1.5)
    assert guidance.label_drop_prob == 0 or 0 < int(rows.dropped.sum()) < 16
    with plain_torch():
        expected = official(net, rows, guidance, alpha, clamp=1.5, eps=1e-3)
        expected_gradients = gradients(net, expected["loss"].mean())
    terms = objective.loss(Network(net), rows, HALF_WAY)
    assert relative(terms.raw / size, expected["mean"]) < TOLERANCE
    loss = terms.raw * terms.adaptive
    assert relative(loss, expected["loss"]) < TOLERANCE
    for name, part in objective.parts(terms, rows).items():
        # where r = t is guided the consistency of the official code has a term that v_g - v_g leaves: zero
        assert float((part / size - expected[name])[8:].detach().abs().max()) < TOLERANCE, name
    for name, gradient in gradients(net, loss.mean()).items():
        assert relative(gradient, expected_gradients[name]) < TOLERANCE, name


def test_the_branches_differ() -> None:
    """Otherwise the comparison above would test one formula many times."""
    net = network("mlp")
    losses = [
        float(steady(alpha, guidance=g, target_clamp=c).loss(Network(net), rows_of(g), HALF_WAY).raw.detach().mean())
        for alpha in (1.0, 0.3, 0.02, 0.0)
        for g in GUIDANCES.values()
        for c in (1.5, None)
    ]
    assert len({round(loss, 9) for loss in losses}) == len(losses) - 4, "the clamp is idle at alpha = 0 alone"


@pytest.mark.parametrize("total", [400_000, 1_200_000])
def test_the_schedule_is_the_official_one(total: int) -> None:
    """`get_ratio` of the official code: sigmoid, gamma 25, clamp 0.005; of B/2 over all of training, of XL/2 late."""
    for first, last in ((0, total), (total // 2, total * 5 // 6)):
        annealed = Annealed(start=first / total, end=last / total)
        seen = set()
        for step in range(0, total + 1, total // 500):
            middle = first + (last - first) / 2
            value = 1.0 if step < first else 0.0
            if first <= step <= last:
                value = 1 - 1 / (1 + math.exp(-(step - middle) / (last - first) * 25))
            value = 0.0 if value < 0.005 else 1.0 if value > 0.995 else value
            assert annealed.at(step / total) == pytest.approx(value, abs=1e-12)
            seen.add(value)
        assert {0.0, 1.0} < seen


def test_what_a_schedule_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"start, end: received \(0\.5, 0\.5\); allowed: start < end"):
        Annealed(start=0.5, end=0.5)
    with pytest.raises(ValueError, match=r"first, last: received .*exponential"):
        Annealed(path="exponential")


def test_labels_are_dropped_where_guidance_acts() -> None:
    guidance = GUIDANCES["inside an interval"]
    rows = guidance.drop_conditions(batch(4000, 2000, law=UniformPair()), seed=0, step=0)
    inside = guidance.inside(rows.t)
    assert not bool(rows.dropped[~inside].any())
    assert float(rows.dropped[inside].double().mean()) == pytest.approx(0.4, abs=0.05)
    assert bool((rows.c[rows.dropped] == NULL).all())


@pytest.mark.parametrize("alpha", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("branch", ["off", "everywhere"])
def test_the_calls_depend_on_progress_alone(branch: str, alpha: float) -> None:
    """Ranks meet in every call, whichever rows each has; and the calls cost what plans of cost say."""
    guidance, sequences = GUIDANCES[branch], set()
    objective = steady(alpha, guidance=guidance)
    for num_equal in (0, 8, 16):
        rows, counting = rows_of(guidance, num_equal), Counting(network())
        objective.loss(counting, rows, HALF_WAY)
        sequences.add(tuple(kind for kind, _ in counting.calls))
        made = {name: sum(of_call) for name, of_call in counting.reached.items()}
        cost = (3 * made["gradient"] + 2 * made["jvp"] + made["frozen"]) / 16
        assert objective.forwards_per_row(1 - num_equal / 16) == pytest.approx(cost)
    assert len(sequences) == 1


def test_the_cost_is_that_of_the_whole_schedule() -> None:
    """B/2's alpha is 1 for 28.8% of training, and 0 for as long."""
    moving = 2 * math.log(0.995 / 0.005) / 25
    assert AlphaFlow().forwards_per_row(0.5) == pytest.approx(3 + 0.5 * (moving + 2 * (1 - moving) / 2), abs=1e-3)


# ---- fixed points ----------------------------------------------------------------------------------------------------

ORACLE = GaussianOracle(std=0.6)
FIXED_POINTS = {
    "MeanFlow's": (steady(0.0, target_clamp=None), ORACLE.u),
    "almost MeanFlow's": (steady(0.006, target_clamp=None), ORACLE.u),
    "SoFlow's": (SoFlow(alpha=Annealed(path="constant", first=0.002, clamp=0.0)), ORACLE.u),
    "trajectory flow matching's": (steady(1.0, target_clamp=None), lambda z, t, r, c: ORACLE.v(z, t)),
}


def z_scores(objective: AlphaFlow, u: Velocity) -> Tensor:
    """Return means, in standard errors, of u - u_tgt times functions of z, t, r: gradients along those functions."""
    rows = batch(40_000, 40_000, shape=(1, 1, 1), condition=ClassLabels(2), law=UniformPair())
    rows = replace(rows, x=ORACLE.std * rows.x)
    terms = objective.loss(Network(u), rows, HALF_WAY)
    z, gap = rows.path()[0].flatten(), rows.t - rows.r
    along = torch.stack([torch.ones_like(z), z, rows.t * z, gap * z, torch.tanh(3 * z)])
    forces = along * (terms.prediction - terms.target).flatten()
    return forces.mean(1) / forces.std(1) * len(z) ** 0.5


@pytest.mark.parametrize("name", FIXED_POINTS)
def test_the_expected_gradient_vanishes_at_the_fixed_point(name: str) -> None:
    """40,000 rows: five means within 4.5 standard errors (false alarm 3e-5), where 6% of z more in u gives over 7."""
    objective, u = FIXED_POINTS[name]
    assert float(z_scores(objective, u).abs().max()) < 4.5
    assert float(z_scores(objective, lambda z, t, r, c: u(z, t, r, c) + 0.06 * z).abs().max()) > 7


def test_the_fixed_point_moves_to_the_average_velocity_as_alpha_falls() -> None:
    """A step along v_g ends beside the trajectory: the targets of the exact u are wrong by a^2, MeanFlow's not."""
    rows = batch(64, 64, law=UniformPair())
    z, t = rows.path()[0], expand(rows.t, rows.x)
    v = ORACLE.v(z, rows.t)
    rows, wrong = replace(rows, x=z - t * v, e=z + (1 - t) * v), []
    for alpha in (0.08, 0.04, 0.02):
        terms = steady(alpha, target_clamp=None).loss(Network(ORACLE.u), rows, HALF_WAY)
        wrong.append(float(terms.raw.sum().sqrt()))
    assert [a / b for a, b in pairwise(wrong)] == pytest.approx([4, 4], rel=0.1)


def test_adaptive_weights_of_a_mean() -> None:
    raw = torch.tensor([8.0])
    assert float(Adaptive(p=1.0, c=0.5, reduction="mean").weight(raw, 4) * raw) == pytest.approx(2 / 2.5)
    assert float(Adaptive(p=0.0, reduction="mean").weight(raw, 4) * raw) == pytest.approx(2)
