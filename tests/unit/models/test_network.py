"""What may be done with the weights of a velocity: passes with gradient and without, of any rows, by teachers."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from builders import MODELS, SHAPE, Asked, LabelAndScale, arguments, gradients, network, recipe, state_of
from torch import Tensor, nn

from dynamics.models import Network, bound
from dynamics.oracles import GaussianOracle
from dynamics.training import TrainingNetwork, TrainState
from dynamics.training.state import weights_of


def none_of(rows: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(part[:0] for part in rows)


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return network(request.param)


def test_a_call_is_that_of_the_velocity_with_its_gradient(model: nn.Module) -> None:
    z, t, r, c, _ = arguments()
    net = Network(model)
    expected = gradients(model, model(z, t, r, c).square().sum())
    for name, gradient in gradients(model, net(z, t, r, c).square().sum()).items():
        assert torch.equal(gradient, expected[name])
    assert torch.equal(net.velocity(z, t, c), model(z, t, t, c))
    assert net.velocity(z, t, c).requires_grad


def test_a_frozen_pass_has_no_gradient(model: nn.Module) -> None:
    z, t, r, c, _ = arguments()
    found = Network(model).frozen(z, t, r, c)
    assert not found.requires_grad
    assert torch.equal(found, model(z, t, r, c))


def test_no_rows(model: nn.Module) -> None:
    """Shapes stay, and a loss of no rows has a gradient: zero, of every weight."""
    z, t, r, c, dz = none_of(arguments())
    net = Network(model)
    frozen = (net.frozen(z, t, r, c), *net.jvp(z, t, r, c, dz))
    attached = (
        (net(z, t, r, c),),
        (net.velocity(z, t, c),),
        net.jvp(z, t, r, c, dz, differentiable=True),
        net.jvp(z, t, r, c, dz, t, r, differentiable=True),
    )
    for found in frozen:
        assert found.shape == (0, *SHAPE)
        assert found.dtype == z.dtype
        assert not found.requires_grad
    for results in attached:
        for found in results:
            assert found.shape == (0, *SHAPE)
            assert found.dtype == z.dtype
        for name, gradient in gradients(model, sum(found.sum() for found in results)).items():
            assert not gradient.any(), name


def test_rows_that_are_not_there_leave_the_gradient_of_the_others_alone(model: nn.Module) -> None:
    rows, net = arguments(), Network(model)
    z, t, r, c, _ = rows
    alone = gradients(model, net(z, t, r, c).square().sum())
    u, du = net.jvp(*none_of(rows), differentiable=True)
    loss = net(z, t, r, c).square().sum() + u.square().sum() + du.square().sum() + net(*none_of(rows[:4])).sum()
    for name, gradient in gradients(model, loss).items():
        assert torch.equal(gradient, alone[name]), name


def test_no_rows_reach_a_velocity_that_can_do_nothing_with_them() -> None:
    """Such as one that flattens rows."""
    seen: list[int] = []

    def u(z: Tensor, t: Tensor, r: Tensor, c: Tensor) -> Tensor:
        seen.append(len(z))
        flat = z.reshape(len(z), -1)
        return (flat * t[:, None]).reshape(z.shape)

    net, (z, t, r, c, dz) = Network(u), none_of(arguments())
    assert net(z, t, r, c).shape == net.jvp(z, t, r, c, dz, differentiable=True)[1].shape == z.shape
    assert net.frozen(z, t, r, c).shape == net.jvp(z, t, r, c, dz)[0].shape == z.shape
    assert seen == [1, 1], "what has no gradient needs no pass, where no other rank waits"


def test_no_rows_of_a_joint_condition() -> None:
    model, condition = network("mlp", condition=LabelAndScale()), LabelAndScale()
    z, t, r, _, dz = arguments()
    c = condition.draw(8, "uniform", torch.Generator().manual_seed(0))
    c = Asked(c.label, c.scale.double())
    net = Network(model)
    assert net(z[:0], t[:0], r[:0], c[:0]).shape == (0, *SHAPE)
    u, du = net.jvp(z[:0], t[:0], r[:0], c[:0], dz[:0], differentiable=True)
    assert not any(g.any() for g in gradients(model, u.sum() + du.sum()).values())
    whole, part = net(z, t, r, c), net(z[2:5], t[2:5], r[2:5], c[2:5])
    torch.testing.assert_close(part, whole[2:5], rtol=1e-12, atol=1e-12)
    for other in (Asked((c.label + 1) % 3, c.scale), Asked(c.label, c.scale + 1), condition.null(c)):
        assert float((net(z, t, r, other) - whole).detach().abs().amax((1, 2, 3)).min()) > 1e-3, "both parts matter"


@pytest.fixture
def state() -> TrainState:
    """Raw weights and two averages, all different."""
    state = state_of(recipe(ema_decays=(0.5, 0.9)))
    for decay, factor in (("0.5", 1.1), ("0.9", 0.8)):
        state.emas[decay] = {name: factor * weight for name, weight in weights_of(state.model).items()}
    return state


@pytest.fixture
def rows(state: TrainState) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    stream = torch.Generator().manual_seed(3)
    z, t = torch.randn(4, 1, 8, 8, generator=stream).double(), torch.rand(4, generator=stream).double()
    return z, t, t / 2, torch.arange(4)


@pytest.mark.parametrize("kind", ["measured", "training"])
def test_teachers(state: TrainState, rows: tuple[Tensor, ...], kind: str) -> None:
    """`ema` is the first average, a decay names its own."""
    net = state.network("model") if kind == "measured" else TrainingNetwork(state, recipe().training)
    of = {decay: bound(state.model, weights)(*rows) for decay, weights in state.emas.items()}
    assert torch.equal(net.frozen(*rows), state.model(*rows))
    assert torch.equal(net.frozen(*rows, weights="model"), state.model(*rows))
    assert torch.equal(net.frozen(*rows, weights="ema"), of["0.5"])
    assert torch.equal(net.frozen(*rows, weights="0.9"), of["0.9"])
    assert len({u.sum().item() for u in (state.model(*rows), *of.values())}) == 3
    assert not any(net.frozen(*rows, weights=name).requires_grad for name in ("model", "ema", "0.9"))
    assert not any(weight.requires_grad for weights in state.emas.values() for weight in weights.values())


@pytest.mark.parametrize("kind", ["measured", "training"])
@pytest.mark.parametrize("num_rows", [0, 4])
def test_unknown_weights_are_refused_by_name(
    state: TrainState, rows: tuple[Tensor, ...], kind: str, num_rows: int
) -> None:
    """Also for no rows: of several ranks all must find the error, not those alone that have rows."""
    net = state.network("model") if kind == "measured" else TrainingNetwork(state, recipe().training)
    message = r"weights: received '0\.99'; allowed: model, ema, 0\.5, 0\.9; remedy: name a recorded average"
    with pytest.raises(ValueError, match=message):
        net.frozen(*(part[:num_rows] for part in rows), weights="0.99")


def test_a_velocity_without_averages_has_no_teachers() -> None:
    oracle, z, t = GaussianOracle(0.5), torch.ones(2, 3), torch.full((2,), 0.7)
    net = Network(oracle.u)
    assert torch.equal(net.frozen(z, t, t / 2, None), oracle.u(z, t, t / 2))
    for weights in ("ema", "0.9"):
        with pytest.raises(ValueError, match=rf"weights: received '{weights}'; allowed: model; remedy"):
            net.frozen(z, t, t, None, weights=weights)


def test_networks_of_a_state_follow_it(state: TrainState, rows: tuple[Tensor, ...]) -> None:
    """A teacher is the average as it is now, not as it was when the network was made."""
    net, training = state.network("model"), TrainingNetwork(state, recipe().training)
    before = training.frozen(*rows, weights="ema")
    with torch.no_grad():
        for weights in (dict(state.model.named_parameters()), *state.emas.values()):
            for weight in weights.values():
                weight.mul_(0.5)
    for found in (net, training):
        assert torch.equal(found.frozen(*rows), state.model(*rows))
        assert torch.equal(found.frozen(*rows, weights="ema"), bound(state.model, state.emas["0.5"])(*rows))
    assert not torch.allclose(training.frozen(*rows, weights="ema"), before)


@pytest.mark.parametrize("which", ["model", "ema", "0.9"])
def test_a_network_of_other_weights_moves_no_gradient_of_the_model(
    state: TrainState, rows: tuple[Tensor, ...], which: str
) -> None:
    net = state.network(which, state.weights(which))
    assert torch.equal(net(*rows), bound(state.model, state.weights(which))(*rows))
    assert not net(*rows).requires_grad
    assert all(p.grad is None for p in state.model.parameters())


def test_training_in_half_precision_leaves_the_derivative_in_float32() -> None:
    """The gradient pass and teachers run under autocast; the derivative does not."""
    state = state_of(recipe(precision="bfloat16"), "dit", dtype=torch.float32)
    net = TrainingNetwork(state, recipe(precision="bfloat16").training)
    stream = torch.Generator().manual_seed(3)
    z, t = torch.randn(4, 1, 8, 8, generator=stream), torch.rand(4, generator=stream)
    at = (z, t, t / 2, torch.arange(4))
    assert net(*at).dtype == net.frozen(*at).dtype == torch.bfloat16
    exact = Network(state.model).jvp(*at, dz=z)
    for differentiable in (False, True):
        for found, expected in zip(net.jvp(*at, dz=z, differentiable=differentiable), exact, strict=True):
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_a_derivative_never_passes_a_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that knows its derivative does not know the derivative of that."""
    chosen: list[str] = []
    monkeypatch.setattr("dynamics.models.network.dual_attention", lambda name: chosen.append(name) or nullcontext())
    model, rows = network("dit"), arguments()
    net = Network(model, attention="jvp_flash")
    net.jvp(*rows)
    net.jvp(*rows, differentiable=True)
    assert chosen == ["jvp_flash", "math"]
