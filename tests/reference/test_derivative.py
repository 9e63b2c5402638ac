"""Derivatives of networks against central differences, those that are gone back through against finite differences of
the weights, and our linear layer and attention against torch's."""

from collections.abc import Callable

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from builders import MODELS, arguments, gradients, network, plain_torch, relative
from torch import Tensor, nn
from torch.func import functional_call

from dynamics.models import Network
from dynamics.models.attention import attend
from dynamics.models.dual_numbers import gelu, standardise
from dynamics.models.linear import Linear

ALONG: dict[str, tuple[float, float, float]] = {
    "z": (1.0, 0.0, 0.0),
    "t": (0.0, 1.0, 0.0),
    "r": (0.0, 0.0, 1.0),
    "time": (1.0, 1.0, 0.0),
    "time, gap held": (1.0, 1.0, 1.0),
    "all": (-0.7, 0.4, 2.0),
}
"""What dz, dt and dr are times: dz a random direction, dt and dr one."""


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("along", ALONG)
@pytest.mark.parametrize("kind", MODELS)
def test_jvp_equals_central_differences(kind: str, along: str, per_row: bool) -> None:
    net, (z, t, r, c, dz), h = network(kind), arguments(), 1e-5
    a, dt, dr = ALONG[along]
    dz = a * dz
    moves = (
        (dt, dr) if not per_row else (dt * torch.arange(1.0, 9.0).double(), dr * torch.arange(8.0, 0.0, -1).double())
    )
    value, derivative = Network(net).jvp(z, t, r, c, dz, *moves)
    dt, dr = moves
    with torch.no_grad():
        ends = [net(z + s * h * dz, t + s * h * dt, r + s * h * dr, c) for s in (1, -1)]
        expected = (ends[0] - ends[1]) / (2 * h)
        torch.testing.assert_close(value, net(z, t, r, c), rtol=1e-12, atol=1e-12)
    assert float(expected.norm()) > 0.1
    assert relative(derivative, expected) < 1e-8
    assert not value.requires_grad
    assert not derivative.requires_grad


def test_by_default_it_is_the_total_derivative_by_time() -> None:
    net, (z, t, r, c, dz) = Network(network("dit")), arguments()
    for found, expected in zip(net.jvp(z, t, r, c, dz), net.jvp(z, t, r, c, dz=dz, dt=1.0, dr=0.0), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", MODELS)
def test_r_is_held_fixed(kind: str) -> None:
    """du/dt is not the derivative with t - r held fixed."""
    net, (z, t, r, c, v), h = network(kind), arguments(), 1e-5
    _, derivative = Network(net).jvp(z, t, r, c, v)
    with torch.no_grad():
        moved = (net(z + h * v, t + h, r + h, c) - net(z - h * v, t - h, r - h, c)) / (2 * h)
    assert relative(derivative, moved) > 1e-3


def loss_of(u: Tensor, du: Tensor) -> Tensor:
    """A loss in which value and derivative meet."""
    return (u * du).sum() + (du - 0.3).square().sum() + u.sin().sum()


@pytest.mark.parametrize("along", ALONG)
@pytest.mark.parametrize("kind", MODELS)
def test_a_loss_of_the_derivative_has_the_gradient_that_torch_func_gives(kind: str, along: str) -> None:
    """Reverse mode over forward mode by torch.func, on torch's own layers, in float64."""
    net, (z, t, r, c, dz) = network(kind), arguments()
    a, dt, dr = ALONG[along]
    weights = {name: p.detach() for name, p in net.named_parameters()}

    def loss(weights: dict[str, Tensor]) -> Tensor:
        along = (a * dz, torch.full_like(t, dt), torch.full_like(r, dr))
        return loss_of(*torch.func.jvp(lambda *at: functional_call(net, weights, (*at, c)), (z, t, r), along))

    with plain_torch():
        expected = torch.func.grad(loss)(weights)
    u, du = Network(net).jvp(z, t, r, c, a * dz, dt, dr, differentiable=True)
    found = gradients(net, loss_of(u, du))
    for name, gradient in found.items():
        assert float(expected[name].norm()) > 1e-6, "a zero gradient proves nothing"
        assert relative(gradient, expected[name]) < 1e-10, name


@pytest.mark.parametrize("kind", MODELS)
def test_a_loss_of_the_derivative_has_the_gradient_of_finite_differences(kind: str) -> None:
    """Along random directions of all weights; value and derivative by central differences too, and nothing else."""
    net, (z, t, r, c, dz), stream = network(kind), arguments(), torch.Generator().manual_seed(5)
    u, du = Network(net).jvp(z, t, r, c, dz, 1.0, 0.5, differentiable=True)
    found = gradients(net, loss_of(u, du))
    weights = {name: p.detach() for name, p in net.named_parameters()}

    def loss(moved: dict[str, Tensor], h: float = 1e-4) -> float:
        def at(s: float) -> Tensor:
            return functional_call(net, moved, (z + s * h * dz, t + s * h, r + 0.5 * s * h, c))

        # of fourth order
        derivative = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * h)
        return float(loss_of(at(0), derivative))

    for _ in range(3):
        move = {name: torch.randn(p.shape, generator=stream, dtype=p.dtype) for name, p in weights.items()}
        h = 1e-4
        ends = [loss({name: p + s * h * move[name] for name, p in weights.items()}) for s in (2, 1, -1, -2)]
        expected = (8 * (ends[1] - ends[2]) - (ends[0] - ends[3])) / (12 * h)
        along = sum(float((found[name] * move[name]).sum()) for name in found)
        assert along == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_value_and_derivative_are_the_same_numbers_with_gradient(kind: str) -> None:
    net, rows = Network(network(kind)), arguments()
    for found, expected in zip(net.jvp(*rows, differentiable=True), net.jvp(*rows), strict=True):
        assert found.requires_grad
        torch.testing.assert_close(found.detach(), expected, rtol=1e-12, atol=1e-12)


def test_where_gradients_are_off_a_derivative_has_none() -> None:
    """An instrument that looks at losses only pays for no graph."""
    net, rows = Network(network()), arguments()
    with torch.no_grad():
        assert not any(part.requires_grad for part in net.jvp(*rows, differentiable=True))


def test_gradients_reach_the_inputs_of_a_derivative() -> None:
    """z may come from the network itself."""
    net, (z, t, r, c, dz), h = network(), arguments(), 1e-5
    start, direction = z.clone().requires_grad_(), dz.clone().requires_grad_()
    u, du = Network(net).jvp(start, t, r, c, direction, differentiable=True)
    found = torch.autograd.grad(loss_of(u, du), (start, direction))
    for index, move in enumerate(torch.randn(2, *z.shape, generator=torch.Generator().manual_seed(6)).double()):
        points = [[z, dz], [z, dz]]
        for side, s in enumerate((1, -1)):
            points[side][index] = points[side][index] + s * h * move
        ends = [loss_of(*Network(net).jvp(a, t, r, c, b)) for a, b in points]
        expected = float(ends[0] - ends[1]) / (2 * h)
        assert float((found[index] * move).sum()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 5), (3, 4, 5)])
def test_linear_has_the_derivative_of_nn_linear(shape: tuple[int, ...], bias: bool) -> None:
    torch_layer = nn.Linear(5, 7, bias=bias, dtype=torch.float64)
    ours = Linear(5, 7, bias=bias, dtype=torch.float64)
    ours.load_state_dict(torch_layer.state_dict())
    x, v = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for found, expected in zip(torch.func.jvp(ours, (x,), (v,)), torch.func.jvp(torch_layer, (x,), (v,)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(ours(x), torch_layer(x), rtol=0, atol=0)


def test_linear_passes_gradients_through_both_parts_of_a_dual_number() -> None:
    """Reverse mode over forward mode: a loss on the derivative reaches weight and input."""
    layers = [Linear(5, 5, dtype=torch.float64), nn.Linear(5, 5, dtype=torch.float64)]
    layers[1].load_state_dict(layers[0].state_dict())
    x, v = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    results = []
    for layer in layers:
        start = x.clone().requires_grad_()
        value, tangent = torch.func.jvp(lambda a, layer=layer: layer(layer(a).tanh()), (start,), (v,))
        results.append(torch.autograd.grad((value * tangent).sum(), [start, *layer.parameters()]))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_fused_and_explicit_attention_agree() -> None:
    q, k, v = torch.randn(3, 2, 3, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    dq, dk, dv = torch.randn(3, 2, 3, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    fused = attend(q, k, v)
    explicit, tangent = torch.func.jvp(attend, (q, k, v), (dq, dk, dv))
    torch.testing.assert_close(fused, explicit, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(fused, (q @ k.mT / 2).softmax(-1) @ v, rtol=1e-12, atol=1e-12)
    h = 1e-6
    expected = (attend(q + h * dq, k + h * dk, v + h * dv) - attend(q - h * dq, k - h * dk, v - h * dv)) / (2 * h)
    torch.testing.assert_close(tangent, expected, rtol=1e-7, atol=1e-7)


def test_gradient_pass_uses_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cost and memory depend on it: fused with gradient, explicit only in the forward-mode pass."""
    calls: list[bool] = []
    fused = F.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        calls.append(torch.is_grad_enabled())
        return fused(q, k, v)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    net, (z, t, r, c, v) = network("dit"), arguments()
    Network(net).jvp(z, t, r, c, v)
    assert calls == []
    net(z, t, r, c).sum().backward()
    assert calls == [True, True]


def test_float32_derivative_is_as_good_as_measured() -> None:
    net = network("dit")
    _, exact = Network(net).jvp(*arguments())
    _, single = Network(net.float()).jvp(*arguments(dtype=torch.float32))
    assert relative(single, exact) < 3e-6


def attended(x: Tensor) -> Tensor:
    return attend(*x.view(3, 1, 2, 5, 3).unbind())


@pytest.mark.parametrize("f", [attended, standardise, gelu])
def test_what_torch_differentiates_wrongly_is_written_out(f: Callable[[Tensor], Tensor]) -> None:
    """torch's derivative of softmax overwrites what going back needs; that of layer_norm has a wrong gradient; that of
    gelu is slow."""
    x, dx = torch.randn(2, 9, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def derivative(x: Tensor, dx: Tensor = dx) -> tuple[Tensor, Tensor]:
        with forward_ad.dual_level():
            return tuple(forward_ad.unpack_dual(f(forward_ad.make_dual(x, dx))))

    assert torch.autograd.gradcheck(derivative, (x.clone().requires_grad_(), dx.clone().requires_grad_()))
    value, tangent = derivative(x.clone().requires_grad_())
    with torch.no_grad():  # by torch's own formulas
        expected = derivative(x)
        assert torch.equal(f(x), f(x.clone().requires_grad_()))
    torch.testing.assert_close((value, tangent), expected, rtol=1e-12, atol=1e-12)
    assert all(bool(part.isfinite().all()) for part in derivative((1e4 * x).requires_grad_())), "no overflow"


def test_linear_is_an_ordinary_layer_to_derivatives_by_its_weights() -> None:
    """A tangent of the weights, of the input, or of both: the same as torch's own layer."""
    ours, theirs = Linear(3, 2).double(), nn.Linear(3, 2).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = {name: p.detach() for name, p in ours.named_parameters()}
    moves = {name: torch.ones_like(p) for name, p in weights.items()}

    def derivative(layer: nn.Module, both: bool) -> Tensor:
        def value(w: dict[str, Tensor], z: Tensor) -> Tensor:
            return torch.func.functional_call(layer, w, (z,))

        if both:
            return torch.func.jvp(value, (weights, x), (moves, 2 * x))[1]
        return torch.func.jvp(lambda w: value(w, x), (weights,), (moves,))[1]

    for both in (False, True):
        torch.testing.assert_close(derivative(ours, both), derivative(theirs, both))
