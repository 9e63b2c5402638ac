"""The objectives against an independent transcription of the official formula, in float64.

The reference below is written from the paper, not from our code: one forward-mode pass over all
rows, both guidance velocities by forward passes of their own on all rows, the gradient through the primal of that pass,
and torch's own linear layer and attention. Our objective splits the batch and shares passes; the numbers must not
change.
"""

import pytest
import torch
from builders import LABELS, MODELS, NOW, batch, gradients, network, plain_torch, relative
from torch import Tensor, nn

from dynamics.flow.rows import Rows
from dynamics.flow.times import UniformPair
from dynamics.models import Network
from dynamics.objectives import Adaptive, FlowMatching, Guidance, MeanFlow, Objective

NUM_ROWS, NUM_EQUAL = 16, 10
NULL = LABELS.num_classes
TOLERANCE = 1e-10
GUIDANCES = {
    "off": Guidance(label_drop_prob=0.3),
    "kappa zero": Guidance(w=2.5, k=0.0, label_drop_prob=0.3),
    "kappa": Guidance(w=1.0, k=0.5, label_drop_prob=0.3),
    "no unconditional part": Guidance(w=0.5, k=0.5, label_drop_prob=0.3),
    "interval": Guidance(w=0.2, k=0.92, t_start=0.35, t_end=0.7, label_drop_prob=0.3),
    "first rows": Guidance(w=0.2, k=0.92, label_drop_prob=0.3, label_drop="first_rows"),
    "no drop": Guidance(w=1.0, k=0.5, label_drop_prob=0.0),
}


def rows_of(guidance: Guidance, num_equal: int = NUM_EQUAL) -> Rows:
    rows = batch(NUM_ROWS, NUM_ROWS - num_equal, law=UniformPair())
    return guidance.drop_conditions(rows, seed=0, step=0)


def official(net: nn.Module, rows: Rows, g: Guidance, p: float, c: float) -> tuple[Tensor, Tensor]:
    """MeanFlow as the sheet writes it: per-row raw losses and the training loss."""
    t, r, y = rows.t, rows.r, rows.c
    tt = t[:, None, None, None]
    z_t = (1 - tt) * rows.x + tt * rows.e
    v = rows.e - rows.x
    with torch.no_grad():
        v_unc = net(z_t, t, t, torch.full_like(y, NULL))
        v_con = net(z_t, t, t, y)
    v_g = g.w * v + (1 - g.w - g.k) * v_unc + g.k * v_con
    guided = (g.t_start <= t) & (t <= g.t_end) & ~rows.dropped
    v_g = torch.where(guided[:, None, None, None], v_g, v)
    u, du_dt = torch.func.jvp(
        lambda z, t, r: net(z, t, r, y), (z_t, t, r), (v_g, torch.ones_like(t), torch.zeros_like(r))
    )
    u_tgt = (v_g - (t - r).clip(0, 1)[:, None, None, None] * du_dt).detach()
    raw = ((u - u_tgt) ** 2).sum(dim=(1, 2, 3))
    return raw, (raw / ((raw + c) ** p).detach()).mean()


def official_flow_matching(net: nn.Module, rows: Rows, p: float, c: float) -> tuple[Tensor, Tensor]:
    tt = rows.t[:, None, None, None]
    u = net((1 - tt) * rows.x + tt * rows.e, rows.t, rows.t, rows.c)
    raw = ((u - (rows.e - rows.x)) ** 2).sum(dim=(1, 2, 3))
    return raw, (raw / ((raw + c) ** p).detach()).mean()


def ours(net: nn.Module, rows: Rows, objective: Objective) -> tuple[Tensor, Tensor]:
    terms = objective.loss(Network(net), rows, NOW)
    return terms.raw, (terms.adaptive * terms.raw).mean()


def assert_same(found: Tensor, expected: Tensor, what: str) -> None:
    assert (error := relative(found, expected)) < TOLERANCE, f"{what}: relative difference {error:.1e}"


def compare(net: nn.Module, rows: Rows, objective: Objective, expected: tuple[Tensor, Tensor]) -> None:
    expected_gradients = gradients(net, expected[1])
    assert all(float(g.norm()) > 0 for g in expected_gradients.values()), "a zero gradient proves nothing"
    raw, loss = ours(net, rows, objective)
    assert_same(raw, expected[0], "raw loss")
    assert_same(loss, expected[1], "loss")
    for name, gradient in gradients(net, loss).items():
        assert_same(gradient, expected_gradients[name], f"gradient of {name}")


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("branch", GUIDANCES)
@pytest.mark.parametrize("kind", MODELS)
def test_meanflow_equals_the_official_formula(kind: str, branch: str, p: float) -> None:
    net, guidance = network(kind), GUIDANCES[branch]
    rows = rows_of(guidance)
    if guidance.label_drop_prob:
        assert 0 < int(rows.dropped.sum()) < NUM_ROWS
    with plain_torch():
        expected = official(net, rows, guidance, p=p, c=0.02)
    compare(net, rows, MeanFlow(adaptive=Adaptive(p=p, c=0.02), guidance=guidance), expected)


@pytest.mark.parametrize("num_equal", [0, NUM_ROWS])
@pytest.mark.parametrize("branch", ["off", "interval"])
def test_meanflow_with_rows_of_one_kind_only(branch: str, num_equal: int) -> None:
    net, guidance = network("mlp"), GUIDANCES[branch]
    rows = rows_of(guidance, num_equal)
    raw, loss = ours(net, rows, MeanFlow(guidance=guidance))
    with plain_torch():
        expected = official(net, rows, guidance, p=1.0, c=0.01)
    assert_same(raw, expected[0], "raw loss")
    theirs = gradients(net, expected[1])
    for name, gradient in gradients(net, loss).items():
        assert float((gradient - theirs[name]).norm()) <= TOLERANCE * max(float(theirs[name].norm()), 1e-3), name


def test_the_branches_differ() -> None:
    """Otherwise the comparison above would test one formula many times."""
    net = network("mlp")
    plain = Adaptive(p=0)
    losses = [ours(net, rows_of(g), MeanFlow(adaptive=plain, guidance=g))[1].item() for g in GUIDANCES.values()]
    assert len({round(loss, 9) for loss in losses}) == len(losses)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", MODELS)
def test_flow_matching_equals_the_official_formula(kind: str, p: float) -> None:
    net, guidance = network(kind), GUIDANCES["off"]
    rows = rows_of(guidance, num_equal=NUM_ROWS)
    with plain_torch():
        expected = official_flow_matching(net, rows, p=p, c=0.02)
    raw, loss = ours(net, rows, FlowMatching(adaptive=Adaptive(p=p, c=0.02), guidance=guidance))
    assert_same(raw, expected[0], "raw loss")
    theirs = gradients(net, expected[1])
    for name, gradient in gradients(net, loss).items():
        assert_same(gradient, theirs[name], f"gradient of {name}")


@pytest.mark.parametrize("branch", ["off", "interval"])
@pytest.mark.parametrize("count", [2, 4, 8])
def test_accumulated_gradients_equal_one_pass(branch: str, count: int) -> None:
    """Shards of unequal composition (10 = 3 + 3 + 2 + 2 rows with r = t) still add up to the batch."""
    net, guidance = network("dit"), GUIDANCES[branch]
    objective, rows = MeanFlow(guidance=guidance), rows_of(guidance)
    whole = gradients(net, ours(net, rows, objective)[1])
    parts = [gradients(net, ours(net, rows.shard(i, count), objective)[1] / count) for i in range(count)]
    for name, gradient in whole.items():
        assert_same(torch.stack([part[name] for part in parts]).sum(0), gradient, f"gradient of {name}")


@pytest.mark.parametrize("branch", GUIDANCES)
def test_target_has_no_gradient_of_its_own(branch: str) -> None:
    """The gradient is J^T (2 D) with D = u - u_tgt frozen: nothing flows through guidance or du/dt."""
    net, guidance = network("mlp"), GUIDANCES[branch]
    rows, objective = rows_of(guidance), MeanFlow(adaptive=Adaptive(p=0), guidance=guidance)
    terms = objective.loss(Network(net), rows, NOW)
    with plain_torch():
        raw, _ = official(net, rows, guidance, 0, 0.01)
    seen = torch.autograd.grad(terms.raw.sum(), terms.prediction, retain_graph=True)[0]
    assert_same(seen.flatten(1).square().sum(1) / 4, raw, "squared gradient of the prediction")
    found = gradients(net, terms.raw.sum())
    expected = gradients(net, (net(rows.path()[0], rows.t, rows.r, rows.c) * seen).sum())
    for name, gradient in found.items():
        assert_same(gradient, expected[name], name)


def test_recorded_norms() -> None:
    net, guidance = network("dit"), GUIDANCES["interval"]
    rows = rows_of(guidance)
    z, v = rows.path()
    n = NUM_EQUAL
    terms = MeanFlow(guidance=guidance).loss(Network(net), rows, NOW)
    with torch.no_grad():
        u_unc, u_con = net(z, rows.t, rows.t, torch.full_like(rows.c, NULL)), net(z, rows.t, rows.t, rows.c)
        tangent = guidance.combine(v, u_unc, u_con, rows.t, rows.dropped)
        t, r, y = rows.t[n:], rows.r[n:], rows.c[n:]
        _, du_dt = torch.func.jvp(lambda z, t: net(z, t, r, y), (z[n:], t), (tangent[n:], torch.ones_like(t)))
    assert terms.du_dt is not None
    assert_same(terms.du_dt, du_dt, "du/dt")
    assert terms.du_dt_norm.shape == (len(rows),)
    assert not terms.du_dt_norm[:n].any(), "r = t rows need no derivative"
    assert_same(terms.du_dt_norm[n:], du_dt.flatten(1).norm(dim=1), "du/dt norm")
    assert_same(terms.target_norm[:n], tangent[:n].flatten(1).norm(dim=1), "target norm of r = t rows")
    assert terms.u is terms.prediction
