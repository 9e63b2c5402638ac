"""The forward-mode derivative against central differences, and our linear layer and attention against torch's."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamics.models import DiTOptions, MLPOptions, Model, build
from dynamics.models.attention import attend
from dynamics.models.linear import Linear
from dynamics.objectives import total_derivative

SHAPE, NUM_CLASSES, NUM_ROWS = (2, 4, 4), 3, 8
MODELS = {
    "dit": DiTOptions(patch_size=2, dim=16, depth=2, heads=2, mlp_ratio=2.0),
    "mlp": MLPOptions(dim=16, depth=2),
}


def network(kind: str) -> Model:
    model = build(MODELS[kind], SHAPE, NUM_CLASSES, seed=1).double()
    stream = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.15 * torch.randn(p.shape, generator=stream, dtype=torch.float64))
    return model


def arguments() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    stream = torch.Generator().manual_seed(4)
    z, v = torch.randn(2, NUM_ROWS, *SHAPE, generator=stream, dtype=torch.float64)
    times = torch.rand(2, NUM_ROWS, generator=stream, dtype=torch.float64).sort(0).values
    times[0, 0] = times[1, 0]  # r = t
    y = torch.randint(NUM_CLASSES + 1, (NUM_ROWS,), generator=stream)
    return z, times[1], times[0], y, v


@pytest.mark.parametrize("kind", MODELS)
def test_total_derivative_equals_central_differences(kind: str) -> None:
    net, (z, t, r, y, v), h = network(kind), arguments(), 1e-5
    value, derivative = total_derivative(net, z, t, r, y, v)
    with torch.no_grad():
        expected = (net(z + h * v, t + h, r, y) - net(z - h * v, t - h, r, y)) / (2 * h)
        torch.testing.assert_close(value, net(z, t, r, y), rtol=1e-12, atol=1e-12)
    assert float(expected.norm()) > 1
    assert float((derivative - expected).norm() / expected.norm()) < 1e-8
    assert not value.requires_grad
    assert not derivative.requires_grad


@pytest.mark.parametrize("kind", MODELS)
def test_r_is_held_fixed(kind: str) -> None:
    """du/dt is not the derivative with t - r held fixed."""
    net, (z, t, r, y, v), h = network(kind), arguments(), 1e-5
    _, derivative = total_derivative(net, z, t, r, y, v)
    with torch.no_grad():
        moved = (net(z + h * v, t + h, r + h, y) - net(z - h * v, t - h, r - h, y)) / (2 * h)
    assert float((derivative - moved).norm() / moved.norm()) > 1e-3


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
    net, (z, t, r, y, v) = network("dit"), arguments()
    total_derivative(net, z, t, r, y, v)
    assert calls == []
    net(z, t, r, y).sum().backward()
    assert calls == [True, True]


def test_float32_derivative_is_as_good_as_measured() -> None:
    net, (z, t, r, y, v) = network("dit"), arguments()
    _, exact = total_derivative(net, z, t, r, y, v)
    _, single = total_derivative(net.float(), z.float(), t.float(), r.float(), y, v.float())
    assert float((single - exact).norm() / exact.norm()) < 3e-6


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
