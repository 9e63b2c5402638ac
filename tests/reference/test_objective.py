"""The objectives against an independent transcription of the official formula, in float64.

The reference below is written from the paper, not from our code: one forward-mode pass over all
rows, both guidance velocities by forward passes of their own on all rows, the gradient through the primal of that pass,
and torch's own linear layer and attention. Our objective splits the batch and shares passes; the numbers must not
change.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import dynamics.models.attention as attention
from dynamics.flow.rows import Rows
from dynamics.models import DiTOptions, MLPOptions, Model, build
from dynamics.models.linear import Linear
from dynamics.objectives import Adaptive, FlowMatching, Guidance, MeanFlow, Objective, total_derivative

SHAPE, NUM_CLASSES, NUM_ROWS, NUM_EQUAL = (2, 4, 4), 3, 16, 10
NULL = NUM_CLASSES
TOLERANCE = 1e-10
MODELS = {
    "dit": DiTOptions(patch_size=2, dim=16, depth=2, heads=2, mlp_ratio=2.0),
    "mlp": MLPOptions(dim=16, depth=2),
}
GUIDANCES = {
    "off": Guidance(label_drop_prob=0.3),
    "kappa zero": Guidance(w=2.5, k=0.0, label_drop_prob=0.3),
    "kappa": Guidance(w=1.0, k=0.5, label_drop_prob=0.3),
    "no unconditional part": Guidance(w=0.5, k=0.5, label_drop_prob=0.3),
    "interval": Guidance(w=0.2, k=0.92, t_start=0.35, t_end=0.7, label_drop_prob=0.3),
    "first rows": Guidance(w=0.2, k=0.92, label_drop_prob=0.3, label_drop="first_rows"),
    "no drop": Guidance(w=1.0, k=0.5, label_drop_prob=0.0),
}


def network(kind: str) -> Model:
    """A float64 network none of whose layers is zero."""
    model = build(MODELS[kind], SHAPE, NUM_CLASSES, seed=1).double()
    stream = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.15 * torch.randn(p.shape, generator=stream, dtype=torch.float64))
    return model


def batch(guidance: Guidance, num_equal: int = NUM_EQUAL) -> Rows:
    stream = torch.Generator().manual_seed(3)
    x, e = torch.randn(2, NUM_ROWS, *SHAPE, generator=stream, dtype=torch.float64)
    times = torch.rand(2, NUM_ROWS, generator=stream, dtype=torch.float64)
    t, r = times.max(0).values, times.min(0).values
    r = torch.where(torch.arange(NUM_ROWS) < num_equal, t, r)
    y = torch.randint(NUM_CLASSES, (NUM_ROWS,), generator=stream)
    rows = Rows(x, e, t, r, y, torch.zeros(NUM_ROWS, dtype=torch.bool), num_equal)
    return guidance.drop_labels(rows, NUM_CLASSES, stream)


@contextmanager
def plain_torch() -> Iterator[None]:
    """Replace our linear layer and attention by the textbook ones."""

    def textbook(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, dim=-1) @ v

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Linear, "forward", lambda self, x: F.linear(x, self.weight, self.bias))
        patch.setattr(attention, "attend", textbook)
        yield


def official(net: Model, rows: Rows, g: Guidance, p: float, c: float) -> tuple[Tensor, Tensor]:
    """MeanFlow as the sheet writes it: per-row raw losses and the training loss."""
    t, r, y = rows.t, rows.r, rows.y
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


def official_flow_matching(net: Model, rows: Rows, p: float, c: float) -> tuple[Tensor, Tensor]:
    tt = rows.t[:, None, None, None]
    u = net((1 - tt) * rows.x + tt * rows.e, rows.t, rows.t, rows.y)
    raw = ((u - (rows.e - rows.x)) ** 2).sum(dim=(1, 2, 3))
    return raw, (raw / ((raw + c) ** p).detach()).mean()


def ours(net: Model, rows: Rows, objective: Objective) -> tuple[Tensor, Tensor]:
    terms = objective.terms(net, lambda *a: total_derivative(net, *a), rows, NUM_CLASSES)
    return terms.raw, (terms.adaptive * terms.raw).mean()


def gradients(net: Model, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*net.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def assert_same(found: Tensor, expected: Tensor, what: str) -> None:
    error = float(((found - expected).norm() / expected.norm()).detach())
    assert error < TOLERANCE, f"{what}: relative difference {error:.1e}"


def compare(net: Model, rows: Rows, objective: Objective, expected: tuple[Tensor, Tensor]) -> None:
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
    rows = batch(guidance)
    if guidance.label_drop_prob:
        assert 0 < int(rows.dropped.sum()) < NUM_ROWS
    with plain_torch():
        expected = official(net, rows, guidance, p=p, c=0.02)
    compare(net, rows, MeanFlow(adaptive=Adaptive(p=p, c=0.02), guidance=guidance), expected)


@pytest.mark.parametrize("num_equal", [0, NUM_ROWS])
@pytest.mark.parametrize("branch", ["off", "interval"])
def test_meanflow_with_rows_of_one_kind_only(branch: str, num_equal: int) -> None:
    net, guidance = network("mlp"), GUIDANCES[branch]
    rows = batch(guidance, num_equal)
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
    losses = [ours(net, batch(g), MeanFlow(adaptive=plain, guidance=g))[1].item() for g in GUIDANCES.values()]
    assert len({round(loss, 9) for loss in losses}) == len(losses)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", MODELS)
def test_flow_matching_equals_the_official_formula(kind: str, p: float) -> None:
    net, guidance = network(kind), GUIDANCES["off"]
    rows = batch(guidance, num_equal=NUM_ROWS)
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
    objective, rows = MeanFlow(guidance=guidance), batch(guidance)
    whole = gradients(net, ours(net, rows, objective)[1])
    parts = [gradients(net, ours(net, rows.shard(i, count), objective)[1] / count) for i in range(count)]
    for name, gradient in whole.items():
        assert_same(torch.stack([part[name] for part in parts]).sum(0), gradient, f"gradient of {name}")


@pytest.mark.parametrize("branch", GUIDANCES)
def test_target_has_no_gradient_of_its_own(branch: str) -> None:
    """The gradient is J^T (2 D) with D = u - u_tgt frozen: nothing flows through guidance or du/dt."""
    net, guidance = network("mlp"), GUIDANCES[branch]
    rows, objective = batch(guidance), MeanFlow(adaptive=Adaptive(p=0), guidance=guidance)
    terms = objective.terms(net, lambda *a: total_derivative(net, *a), rows, NUM_CLASSES)
    with plain_torch():
        raw, _ = official(net, rows, guidance, 0, 0.01)
    seen = torch.autograd.grad(terms.raw.sum(), terms.prediction, retain_graph=True)[0]
    assert_same(seen.flatten(1).square().sum(1) / 4, raw, "squared gradient of the prediction")
    found = gradients(net, terms.raw.sum())
    expected = gradients(net, (net(rows.path()[0], rows.t, rows.r, rows.y) * seen).sum())
    for name, gradient in found.items():
        assert_same(gradient, expected[name], name)


def test_recorded_norms() -> None:
    net, guidance = network("dit"), GUIDANCES["interval"]
    rows = batch(guidance)
    z, v = rows.path()
    n = NUM_EQUAL
    terms = MeanFlow(guidance=guidance).terms(net, lambda *a: total_derivative(net, *a), rows, NUM_CLASSES)
    with torch.no_grad():
        u_unc, u_con = net(z, rows.t, rows.t, torch.full_like(rows.y, NULL)), net(z, rows.t, rows.t, rows.y)
        tangent = guidance.combine(v, u_unc, u_con, rows.t, rows.dropped)
        t, r, y = rows.t[n:], rows.r[n:], rows.y[n:]
        _, du_dt = torch.func.jvp(lambda z, t: net(z, t, r, y), (z[n:], t), (tangent[n:], torch.ones_like(t)))
    assert terms.du_dt_norm.shape == (rows.num_gap,)
    assert_same(terms.du_dt_norm, du_dt.flatten(1).norm(dim=1), "du/dt norm")
    assert_same(terms.target_norm[:n], tangent[:n].flatten(1).norm(dim=1), "target norm of r = t rows")
