"""Shortcut models and SplitMeanFlow against independent transcriptions, in float64, and at their fixed points.

The first is written from the official code (targets_shortcut.py): there t = 0 is noise, velocities point to the data,
a step is named by dt_base = -log2(d), and the finest one stands for the instantaneous velocity. The second is written
from algorithm 1 of the paper. Both go row by row, and neither knows anything of ours but the network's arguments.
"""

import math
from dataclasses import replace

import pytest
import torch
from builders import CPU, LABELS, MODELS, NOW, SHAPE, Counting, batch, gradients, network, relative
from torch import Tensor, nn

from dynamics.flow.rows import Rows, draw_rows
from dynamics.flow.times import DyadicSteps, TimeLaw, UniformPair
from dynamics.models import Network
from dynamics.objectives import Adaptive, FlowMatching, Guidance, Objective, Shortcut, SplitMeanFlow
from dynamics.oracles import GaussianOracle, GuidedOracle, MixtureOracle
from dynamics.rng import generator

NUM_ROWS, NUM_EQUAL, NULL = 24, 10, LABELS.num_classes
FINEST = DyadicSteps(longest=7, shortest=7)
SHORTCUTS = {
    "as published": Shortcut(guidance_scale=1.5, label_drop_prob=0.3),
    "without guidance": Shortcut(label_drop_prob=0.3),
    "own weights": Shortcut(guidance_scale=1.5, teacher="model", label_drop_prob=0.3),
    "clips": Shortcut(guidance_scale=1.5, clip=1.0, label_drop_prob=0.3),
    "clips nothing": Shortcut(guidance_scale=1.5, clip=None, label_drop_prob=0.3),
    "other grid": Shortcut(guidance_scale=1.5, finest=5, label_drop_prob=0.3),
}
SPLITS = {
    "off": SplitMeanFlow(guidance=Guidance(label_drop_prob=0.3)),
    "middle": SplitMeanFlow(guidance=Guidance(label_drop_prob=0.3), split="middle"),
    "guided": SplitMeanFlow(guidance=Guidance(w=1.0, k=0.5, label_drop_prob=0.3)),
    "interval": SplitMeanFlow(guidance=Guidance(w=0.2, k=0.7, t_start=0.35, t_end=0.7, label_drop_prob=0.3)),
    "no null": SplitMeanFlow(guidance=Guidance(w=0.5, k=0.5, label_drop_prob=0.3)),
    "adaptive": SplitMeanFlow(adaptive=Adaptive(p=1.0, c=0.02), guidance=Guidance(label_drop_prob=0.3)),
}


def drawn(gap_law: TimeLaw, equal_law: TimeLaw, num_rows: int = NUM_ROWS, num_equal: int = NUM_EQUAL) -> Rows:
    stream = generator(7, "images of tests")
    x, c = torch.randn(num_rows, *SHAPE, generator=stream), LABELS.draw(num_rows, "balanced", stream)
    laws = {"equal_law": equal_law, "gap_law": gap_law}
    return draw_rows(x, c, LABELS, **laws, num_gap=num_rows - num_equal, seed=7, tag=0).to(CPU, torch.float64)


def shortcut_rows(objective: Shortcut) -> Rows:
    times = objective.times(gap_share=0.5)
    assert times.equal_law
    return objective.prepare(drawn(times.law, times.equal_law), 0, 0)


def official_shortcut(net: nn.Module, ema: nn.Module, rows: Rows, o: Shortcut) -> tuple[Tensor, Tensor]:
    """What targets_shortcut.py and train.py compute, for the rows at hand."""
    log2_sections = o.finest

    def call(weights: nn.Module, x: Tensor, t: Tensor, dt_base: int, label: int) -> Tensor:
        later = 1 - t[None]
        step = 0.0 if dt_base == log2_sections else 2.0**-dt_base
        out: Tensor = -weights(x[None], later, later - step, torch.tensor([label]))[0]
        return out

    call_target = {"ema": ema, "model": net}[o.teacher]
    bound = math.inf if o.clip is None else o.clip
    losses = []
    for i in range(len(rows)):
        x_1, x_0, t, label = rows.x[i], rows.e[i], 1 - rows.t[i], int(rows.c[i])
        x_t = (1 - t) * x_0 + t * x_1
        if i < rows.num_equal:
            dt_base, v_target = log2_sections, x_1 - x_0
        else:
            with torch.no_grad():
                dt_base = round(-math.log2(float(rows.t[i] - rows.r[i])))
                dt_bootstrap = 2.0**-dt_base / 2
                halves, x = [], x_t
                for t_now in (t, t + dt_bootstrap):
                    v_b = call(call_target, x, t_now, dt_base + 1, label)
                    if o.guidance_scale != 1 and dt_base == log2_sections - 1:
                        v_uncond = call(call_target, x, t_now, dt_base + 1, NULL)
                        v_b = v_uncond + o.guidance_scale * (v_b - v_uncond)
                    halves.append(v_b)
                    x = torch.clip(x + dt_bootstrap * v_b, -bound, bound)
                v_target = torch.clip((halves[0] + halves[1]) / 2, -bound, bound)
        v_prime = call(net, x_t, t, dt_base, label)
        losses.append(((v_prime - v_target) ** 2).sum())
    raw = torch.stack(losses)
    return raw, raw.mean()


def official_split(net: nn.Module, rows: Rows, lam: Tensor, o: SplitMeanFlow) -> tuple[Tensor, Tensor]:
    """Algorithm 1, with Mean Flows' v_g at the boundary r = t."""
    g, losses = o.guidance, []

    def u(z: Tensor, r: Tensor, t: Tensor, label: int) -> Tensor:
        out: Tensor = net(z[None], t[None], r[None], torch.tensor([label]))[0]
        return out

    for i in range(len(rows)):
        t, r, label, v = rows.t[i], rows.r[i], int(rows.c[i]), rows.e[i] - rows.x[i]
        z_t = (1 - t) * rows.x[i] + t * rows.e[i]
        with torch.no_grad():
            if i < rows.num_equal:
                target = v
                if g.t_start <= t <= g.t_end and not rows.dropped[i]:
                    target = g.w * v + (1 - g.w - g.k) * u(z_t, t, t, NULL) + g.k * u(z_t, t, t, label)
            else:
                s = (1 - lam[i]) * t + lam[i] * r
                u_2 = u(z_t, s, t, label)
                z_s = z_t - (t - s) * u_2
                u_1 = u(z_s, r, s, label)
                target = (1 - lam[i]) * u_1 + lam[i] * u_2
        losses.append(((u(z_t, r, t, label) - target) ** 2).sum())
    raw = torch.stack(losses)
    return raw, (raw / ((raw + o.adaptive.c) ** o.adaptive.p).detach()).mean()


def compare(net: nn.Module, ours: Network, rows: Rows, objective: Objective, expected: tuple[Tensor, Tensor]) -> None:
    terms = objective.loss(ours, rows, NOW)
    loss = (terms.raw * terms.adaptive).mean()
    assert relative(terms.raw, expected[0]) < 1e-10
    assert relative(loss, expected[1]) < 1e-10
    assert not terms.target.requires_grad
    theirs = gradients(net, expected[1])
    for name, gradient in gradients(net, loss).items():
        assert float(theirs[name].norm()) > 0, "a zero gradient proves nothing"
        assert relative(gradient, theirs[name]) < 1e-10, name


@pytest.mark.parametrize("branch", SHORTCUTS)
@pytest.mark.parametrize("kind", MODELS)
def test_shortcut_equals_the_official_code(kind: str, branch: str) -> None:
    objective, net, ema = SHORTCUTS[branch], network(kind), network(kind, scale=0.3)
    rows = shortcut_rows(objective)
    expected = official_shortcut(net, ema, rows, objective)
    compare(net, Network(net, {"0.9": ema}), rows, objective, expected)


def test_the_branches_of_shortcut_differ() -> None:
    net, ema, rows = network("mlp"), network("mlp", scale=0.3), shortcut_rows(Shortcut())
    losses = {b: float(o.loss(Network(net, {"0.9": ema}), rows, NOW).raw.detach().sum()) for b, o in SHORTCUTS.items()}
    assert len({round(loss, 9) for loss in losses.values()}) == len(losses)


def test_shortcut_drops_labels_of_instants_only() -> None:
    rows = shortcut_rows(Shortcut(label_drop_prob=0.5))
    assert 0 < int(rows.dropped.sum()) < NUM_EQUAL
    assert not rows.dropped[NUM_EQUAL:].any()
    assert torch.equal(rows.c == NULL, rows.dropped)


@pytest.mark.parametrize("branch", SPLITS)
@pytest.mark.parametrize("kind", MODELS)
def test_split_meanflow_equals_algorithm_1(kind: str, branch: str) -> None:
    objective, net = SPLITS[branch], network(kind)
    rows = objective.prepare(drawn(UniformPair(), UniformPair()), 0, 0)
    assert 0 < int(rows.dropped.sum()) < NUM_ROWS
    expected = official_split(net, rows, rows.share, objective)  # type: ignore[attr-defined]
    compare(net, Network(net), rows, objective, expected)


def test_the_branches_of_split_meanflow_differ() -> None:
    losses = []
    for objective in SPLITS.values():
        rows = objective.prepare(drawn(UniformPair(), UniformPair()), 0, 0)
        terms = objective.loss(Network(network("mlp")), rows, NOW)
        losses.append(round(float((terms.raw * terms.adaptive).detach().mean()), 9))
    assert len(set(losses)) == len(losses)


def test_where_an_interval_is_split() -> None:
    """lambda is uniform, new at every step, and the same again for the same step; instruments draw their own."""
    objective, rows = SplitMeanFlow(), batch(4000, 4000)
    share, same, other = (objective.prepare(rows, 0, step).share for step in (3, 3, 4))  # type: ignore[attr-defined]
    assert torch.equal(share, same)
    assert float((share - other).abs().mean()) == pytest.approx(1 / 3, abs=0.02)
    assert float(share.mean()) == pytest.approx(1 / 2, abs=0.02)
    assert float(share.var()) == pytest.approx(1 / 12, abs=0.005)
    assert 0 <= float(share.min()) < float(share.max()) < 1


@pytest.mark.parametrize("objective", [Shortcut(teacher="model"), SplitMeanFlow()])
def test_at_r_equal_t_it_is_flow_matching(objective: Objective) -> None:
    net, rows = network("dit"), batch(8, 0)
    found, expected = (o.loss(Network(net), rows, NOW) for o in (objective, FlowMatching()))
    assert torch.equal(found.raw, expected.raw)
    assert torch.equal(found.adaptive, expected.adaptive)
    assert torch.equal(found.target, expected.target)


@pytest.mark.parametrize("objective", [Shortcut(teacher="model", clip=None), SplitMeanFlow()])
def test_the_fixed_point(objective: Objective) -> None:
    """At u* each r < t row has no loss at all, and the r = t rows have no expected gradient.

    The gradient is taken along five directions of a velocity u* + sum_k a_k f_k. At u* each of its means lies within 4
    standard errors of 0 (all five: 99.97%). Power: one of 5% too much of u* is seen at 4 standard errors in all but
    fewer than 1e-6 of draws, since it shifts its mean by more than 9.
    """
    oracle, num_equal = GaussianOracle(0.5), 6000
    # gaps down to 1/32: below, a shortcut is made of Euler steps of v, which are exact in no power of 2
    rows = drawn(DyadicSteps(shortest=5), FINEST, num_equal + 400, num_equal)
    rows = objective.prepare(replace(rows, x=0.5 * rows.x), 0, 0)

    def deviations(wrong: float) -> Tensor:
        a = torch.zeros(len(rows), 5, dtype=torch.float64, requires_grad=True)

        def u(z: Tensor, t: Tensor, r: Tensor, c: Tensor) -> Tensor:
            exact, time = oracle.u(z, t, r), t.reshape(-1, 1, 1, 1)
            moved = (1 + wrong) * exact
            if torch.is_grad_enabled():
                f = torch.stack([exact, z, torch.ones_like(z), time.expand_as(z), time * z], 1)
                moved = moved + torch.einsum("bk,bk...->b...", a, f)
            return moved

        terms = objective.loss(Network(u), rows, NOW)
        if not wrong:
            assert float(terms.raw[num_equal:].detach().max()) < 1e-20
        g = torch.autograd.grad(terms.raw.sum(), a)[0][:num_equal]
        return g.mean(0) / (g.std(0) / math.sqrt(num_equal))

    assert float(deviations(0.0).abs().max()) < 4
    assert float(deviations(0.05)[0]) > 9


def test_guidance_of_shortcut_ends_at_what_it_declares() -> None:
    """At its declared truth r < t rows have no loss, up to the Euler error of the two finest steps."""
    means = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)).double()
    covariances = 0.3 * torch.eye(32).double().expand(3, 32, 32)
    oracle = MixtureOracle(means, covariances, torch.full((3,), 1 / 3).double(), torch.arange(3), num_steps=64)
    objective = Shortcut(guidance_scale=2.0, teacher="model", clip=None)
    truth, rows = objective.truth(oracle), drawn(DyadicSteps(), FINEST, 60, 0)
    short = rows.t - rows.r < 1 / 50
    declared, unguided = (objective.loss(Network(u), rows, NOW).raw for u in (truth.u, oracle.u))
    assert float(declared[~short].max()) < 1e-4, "longer steps are made of two exact ones"
    assert float(unguided[~short].max()) < 1e-4, "the guided flow is not the only one that adds up"
    assert 0 < float(declared[short].median()) < 0.01 * float(unguided[short].median())
    z, t, c = rows.x, rows.t, rows.c
    assert torch.equal(truth.v(z, t, c), oracle.v(z, t, c))
    torch.testing.assert_close(truth.u(z, t, t, c), oracle.u(z, t, t, c), rtol=1e-12, atol=1e-12)
    assert isinstance(SPLITS["guided"].truth(oracle), GuidedOracle)
    assert Shortcut().truth(oracle) is oracle
    assert objective.measured("run") is objective
    assert objective.measured("off") == Shortcut(teacher="model", clip=None)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (Shortcut(guidance_scale=1.5, teacher="model"), ("frozen", "frozen", "gradient")),
        (Shortcut(teacher="model"), ("frozen", "frozen", "gradient")),
        (SplitMeanFlow(), ("frozen", "frozen", "gradient")),
        (SplitMeanFlow(guidance=Guidance(k=0.5)), ("frozen", "frozen", "frozen", "gradient")),
    ],
)
def test_the_sequence_of_calls_never_depends_on_the_rows(objective: Objective, expected: tuple[str, ...]) -> None:
    for num_gap in (0, 5, 16):
        for law in (DyadicSteps(), DyadicSteps(shortest=0), DyadicSteps(longest=6)):
            counting = Counting(network())
            objective.loss(counting, objective.prepare(batch(16, num_gap, law=law), 0, 0), NOW)
            assert tuple(kind for kind, _ in counting.calls) == expected


@pytest.mark.parametrize(
    "objective", [Shortcut(guidance_scale=1.5, teacher="model"), SplitMeanFlow(guidance=Guidance(k=0.5))]
)
def test_shards_add_up(objective: Objective) -> None:
    net = network("mlp")
    rows = objective.prepare(drawn(DyadicSteps(), FINEST), 0, 0)
    whole = gradients(net, objective.loss(Network(net), rows, NOW).raw.mean())
    parts = [gradients(net, objective.loss(Network(net), rows.shard(i, 4), NOW).raw.mean() / 4) for i in range(4)]
    for name, gradient in whole.items():
        assert relative(torch.stack([part[name] for part in parts]).sum(0), gradient) < 1e-10, name


def test_costs_in_forwards() -> None:
    """What the network was asked for at the declared share of rows, a gradient pass counted as three."""
    guidance = Guidance(k=0.5, label_drop_prob=0.0)
    for objective in (Shortcut(guidance_scale=1.5, teacher="model"), SplitMeanFlow(guidance=guidance)):
        law = DyadicSteps() if isinstance(objective, Shortcut) else UniformPair()
        counting, rows = Counting(network()), drawn(law, FINEST, 4000, 3000)
        objective.loss(counting, objective.prepare(rows, 0, 0), NOW)
        cost = (sum(counting.reached["frozen"]) + 3 * sum(counting.reached["gradient"])) / len(rows)
        assert objective.forwards_per_row(0.25) == pytest.approx(cost, rel=0.01), objective.kind
