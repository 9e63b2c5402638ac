"""Edges and errors of the objectives, what they ask of the network, and the compiled derivative."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from dynamics.flow.rows import Rows, draw_rows
from dynamics.flow.times import LogitNormalPair
from dynamics.models import DiTOptions, MLPOptions, Model, build
from dynamics.objectives import Adaptive, FlowMatching, Guidance, MeanFlow, total_derivative
from dynamics.rng import generator

SHAPE, NUM_CLASSES = (1, 4, 4), 3


def network(options: DiTOptions | MLPOptions = MLPOptions(dim=16, depth=1)) -> Model:  # noqa: B008 - frozen
    model = build(options, SHAPE, NUM_CLASSES, seed=0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model


def batch(num_rows: int, num_gap: int, guidance: Guidance = Guidance(label_drop_prob=0)) -> Rows:  # noqa: B008
    x, y = torch.randn(num_rows, *SHAPE, generator=generator(0, "x")), torch.arange(num_rows) % NUM_CLASSES
    law = LogitNormalPair()
    rows = draw_rows(x, y, equal_law=law, gap_law=law, num_gap=num_gap, seed=0, tag=0)
    return guidance.drop_labels(rows, NUM_CLASSES, generator(0, "drop"))


class Counting:
    """A network that notes how many rows it is asked for, with and without gradient."""

    def __init__(self) -> None:
        self.net = network()
        self.with_gradient: list[int] = []
        self.without: list[int] = []
        self.derivative: list[int] = []

    def __call__(self, z: Tensor, t: Tensor, r: Tensor, y: Tensor) -> Tensor:
        (self.with_gradient if torch.is_grad_enabled() else self.without).append(len(z))
        out: Tensor = self.net(z, t, r, y)
        return out

    def du_dt(self, z: Tensor, t: Tensor, r: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.derivative.append(len(z))
        return total_derivative(self.net, z, t, r, y, v)


@pytest.mark.parametrize(
    ("guidance", "without"),
    [
        (Guidance(label_drop_prob=0), []),
        (Guidance(k=0.5, label_drop_prob=0), [16 + 4]),  # v_unc of all rows, v_con of r < t rows
        (Guidance(w=0.5, k=0.5, label_drop_prob=0), [4]),  # weight of v_unc is zero
        (Guidance(w=2.0, label_drop_prob=0), [16]),  # weight of v_con is zero
    ],
)
def test_an_objective_asks_only_for_what_it_needs(guidance: Guidance, without: list[int]) -> None:
    """One gradient pass of all rows, the derivative on r < t rows only, guidance in one pass."""
    counting = Counting()
    MeanFlow(guidance=guidance).terms(counting, counting.du_dt, batch(16, 4), NUM_CLASSES)
    assert counting.with_gradient == [16]
    assert counting.derivative == [4]
    assert counting.without == without


def test_dropped_rows_ask_for_no_guidance() -> None:
    guidance = Guidance(k=0.5, label_drop_prob=0.5)
    rows, counting = batch(16, 4, guidance), Counting()
    MeanFlow(guidance=guidance).terms(counting, counting.du_dt, rows, NUM_CLASSES)
    kept = int((~rows.dropped).sum())
    assert counting.without == [kept + int((~rows.dropped[12:]).sum())]
    assert 0 < kept < 16


def test_guidance_asks_once_even_if_every_label_was_dropped() -> None:
    """Ranks that split the weights must call the network equally often, whichever rows each has drawn."""
    guidance = Guidance(k=0.5, label_drop_prob=1 - 1e-9)
    rows, counting = batch(4, 2, guidance), Counting()
    assert bool(rows.dropped.all())
    v_unc, v_con = guidance.velocities(counting, rows, rows.x, NUM_CLASSES)
    assert counting.without == [1]
    assert not v_unc.any()
    assert not v_con.any()
    assert v_con.shape[0] == 2


def test_without_gap_rows_nothing_is_differentiated() -> None:
    counting = Counting()
    terms = MeanFlow().terms(counting, counting.du_dt, batch(4, 0), NUM_CLASSES)
    assert counting.derivative == []
    assert terms.du_dt_norm.shape == (0,)
    assert terms.raw.shape == terms.target_norm.shape == (4,)


@pytest.mark.parametrize(("t", "r"), [(0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (1e-6, 0.0)])
def test_edges_of_time_are_finite(t: float, r: float) -> None:
    rows = batch(4, 4)
    rows = Rows(rows.x, rows.e, torch.full((4,), t), torch.full((4,), r), rows.y, rows.dropped, 0)
    net = network()
    terms = MeanFlow(guidance=Guidance(k=0.5)).terms(net, partial(total_derivative, net), rows, NUM_CLASSES)
    (terms.raw * terms.adaptive).mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters() if p.grad is not None)


def test_losses_are_sums_over_channels_and_pixels() -> None:
    """At initialisation u = 0, so an r = t row's loss is ||e - x||^2."""
    model, rows = build(MLPOptions(dim=16, depth=1), SHAPE, NUM_CLASSES, seed=0), batch(6, 0)
    raw = MeanFlow().terms(model, partial(total_derivative, model), rows, NUM_CLASSES).raw
    torch.testing.assert_close(raw.detach(), (rows.e - rows.x).square().sum((1, 2, 3)))


@pytest.mark.parametrize(("p", "expected"), [(0.0, 1.0), (0.5, 0.5), (1.0, 0.25)])
def test_adaptive_weight(p: float, expected: float) -> None:
    raw = torch.tensor([3.99], dtype=torch.float64, requires_grad=True)
    weight = Adaptive(p=p).weight(raw)
    assert float(weight) == pytest.approx(expected)
    assert not weight.requires_grad


def test_a_full_adaptive_weight_hides_the_loss() -> None:
    raw = torch.tensor([0.5, 5.0, 500.0])
    assert bool(((raw * Adaptive(p=1.0).weight(raw) - 1).abs() < 0.02).all())


def test_flow_matching_refuses_gap_rows() -> None:
    net = network()
    with pytest.raises(ValueError, match=r"rows: received '2 rows with r < t'; allowed: .*; remedy: .*gap_share to 0"):
        FlowMatching().terms(net, partial(total_derivative, net), batch(4, 2), NUM_CLASSES)


def test_guidance_errors() -> None:
    with pytest.raises(ValueError, match=r"guidance.t_start: received 0\.9; allowed: <= t_end=0\.5; remedy: "):
        Guidance(t_start=0.9, t_end=0.5)
    with pytest.raises(ValueError, match="less than 1"):
        Guidance(k=1.0)


def test_guidance_interval_includes_its_ends() -> None:
    t = torch.tensor([0.19, 0.2, 0.7, 0.71], dtype=torch.float64)
    one, zero = torch.ones(4, 1, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)
    found = Guidance(w=3.0, t_start=0.2, t_end=0.7).combine(one, zero, zero, t, torch.zeros(4, dtype=torch.bool))
    assert found.flatten().tolist() == [1.0, 3.0, 3.0, 1.0]


def test_a_broken_conditional_branch_does_not_hide() -> None:
    """A NaN of the network reaches the loss: nothing zeroes it on the way."""
    net = network()
    with torch.no_grad():
        net.final.bias[0] = math.nan
    terms = MeanFlow().terms(net, partial(total_derivative, net), batch(4, 2), NUM_CLASSES)
    assert bool(terms.raw.isnan().all())


def test_compiled_derivative_agrees() -> None:
    """The tracer takes other branches in our linear layer and attention; the numbers must stay."""
    net = network(DiTOptions(patch_size=2, dim=8, depth=1, heads=2))
    rows = batch(6, 2)
    z, v = rows.path()
    n = rows.num_equal
    arguments = [a.clone() for a in (z[n:], rows.t[n:], rows.r[n:], rows.y[n:], v[n:])]
    eager = total_derivative(net, *arguments)
    compiled = torch.compile(partial(total_derivative, net), backend="aot_eager")(*arguments)
    for found, expected in zip(compiled, eager, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert float(eager[1].abs().max()) > 1e-2
