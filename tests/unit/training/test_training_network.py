"""The network of training on one rank: gradients through derivatives, teachers, no rows; tests/integration has two."""

import pytest
import torch
from builders import CPU, NOW, arguments, plain_torch, recipe, relative, state_of
from invented import Picky
from torch import Tensor
from torch.func import functional_call

from dynamics.flow.path import expand
from dynamics.flow.rows import Rows
from dynamics.flow.times import TimesOptions
from dynamics.models import bound
from dynamics.training import TrainingNetwork, draw, train_step
from dynamics.training.state import update_emas

HALF = TimesOptions(gap_share=0.5)


def by_torch_func(model: torch.nn.Module, rows: Rows, objective: Picky) -> dict[str, Tensor]:
    """The gradient of a loss of derivatives by torch.func alone, through textbook layers."""
    pick = rows.t > objective.late
    z, v = (a[pick] for a in rows.path())
    t, r, c = rows.t[pick], rows.r[pick], rows.c[pick]
    constants = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights: dict[str, Tensor]) -> Tensor:
        def u(z: Tensor, t: Tensor, r: Tensor) -> Tensor:
            return functional_call(model, weights, (z, t, r, c))

        value, slope = torch.func.jvp(u, (z, t, r), (v, torch.ones_like(t), torch.zeros_like(r)))
        if objective.passes == "slope":
            return (slope - v).square().sum() / len(rows)
        fixed = functional_call(model, constants, (z, t, t, c))
        return (value + expand(t - r, v) * slope - v - 0.1 * fixed).square().sum() / len(rows)

    with plain_torch():
        return torch.func.grad(loss)(constants)


@pytest.mark.parametrize("backbone", ["mlp", "dit"])
@pytest.mark.parametrize("passes", ["derivative", "slope"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_goes_back_through_derivatives_as_torch_func_does(passes: str, backbone: str, accumulation: int) -> None:
    objective = Picky.model_validate({"passes": passes, "late": 0.4})
    what = recipe(objective, times=HALF, accumulation=accumulation)
    state = state_of(what, backbone)
    plan = what.plan(state.step, [])
    rows = draw(what, plan, state.step).to(CPU, torch.float64)
    expected = by_torch_func(state.model, rows, objective)
    before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    record = train_step(state, TrainingNetwork(state, what.training), what, plan, rows)
    assert 0 < record.series["picked"] < 1
    for name, parameter in state.model.named_parameters():
        if parameter.grad is None:
            assert not expected[name].any(), f"{name} has a gradient"
        else:
            # a key's bias changes nothing: its gradient is rounding
            floor = 1e-12 * max(float(gradient.norm()) for gradient in expected.values())
            assert float((parameter.grad - expected[name]).norm()) <= 1e-9 * float(expected[name].norm()) + floor, name
            assert not torch.equal(parameter, before[name])


def test_such_an_objective_learns() -> None:
    what = recipe(Picky(passes="both", late=0.3), times=HALF, num_steps=60, learning_rate=3e-3)
    state = state_of(what, dtype=torch.float32)
    state.step, net, losses = 0, TrainingNetwork(state, what.training), []
    for step in range(60):
        plan = what.plan(step, [])
        losses.append(train_step(state, net, what, plan, draw(what, plan, step)).loss)
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_teachers_follow_the_averages() -> None:
    what = recipe(ema_decays=(0.5, 0.9))
    state = state_of(what)
    net, (z, t, r, c, _) = TrainingNetwork(state, what.training), rows_of_digits()
    for weights, decay in (("ema", "0.5"), ("0.5", "0.5"), ("0.9", "0.9")):
        assert torch.equal(net.frozen(z, t, r, c, weights), bound(state.model, state.emas[decay])(z, t, r, c).detach())
    assert not torch.allclose(net.frozen(z, t, r, c, "ema"), net.frozen(z, t, r, c))
    before = net.frozen(z, t, r, c, "0.9")
    update_emas(state)
    assert not torch.allclose(net.frozen(z, t, r, c, "0.9"), before)
    with pytest.raises(ValueError, match=r"weights: received '0.7'; allowed: model, ema, 0.5, 0.9; remedy: name a rec"):
        net.frozen(z, t, r, c, "0.7")


def rows_of_digits() -> tuple[Tensor, ...]:
    """z, t, r, labels and a direction, for a network of digits."""
    _, t, r, c, _ = arguments()
    z, dz = torch.randn(2, len(t), 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return z, t, r, c, dz


def test_no_rows_are_rows_whose_gradient_is_zero() -> None:
    what = recipe()
    state = state_of(what, "dit")
    net, (z, t, r, c, dz) = TrainingNetwork(state, what.training), (a[:0] for a in rows_of_digits())
    parameters = list(state.model.parameters())
    answers = [net(z, t, r, c), net.velocity(z, t, c), *net.jvp(z, t, r, c, dz=dz, differentiable=True)]
    for answer in answers:
        assert answer.shape == z.shape
        found = torch.autograd.grad(answer.sum(), parameters, allow_unused=True, retain_graph=True)
        assert all(gradient is None or not gradient.any() for gradient in found)
        assert any(gradient is not None for gradient in found)
    for answer in (net.frozen(z, t, r, c), net.frozen(z, t, r, c, "ema"), *net.jvp(z, t, r, c, dz=dz)):
        assert answer.shape == z.shape
        assert not answer.requires_grad


def test_half_precision_is_for_values_alone() -> None:
    what = recipe(precision="bfloat16")
    state = state_of(what, "dit", torch.float32)
    net, (z, t, r, c, dz) = (
        TrainingNetwork(state, what.training),
        (a.float() if a.is_floating_point() else a for a in rows_of_digits()),
    )
    exact = state.network("model")
    for answer in (net(z, t, r, c), net.frozen(z, t, r, c), net.frozen(z, t, r, c, "ema")):
        assert answer.dtype == torch.bfloat16
    for differentiable in (False, True):
        found = net.jvp(z, t, r, c, dz=dz, differentiable=differentiable)
        wanted = exact.jvp(z, t, r, c, dz=dz)
        assert all(answer.dtype == torch.float32 for answer in found)
        assert all(relative(a, b) < 1e-5 for a, b in zip(found, wanted, strict=True))


def test_the_loss_may_be_asked_for_without_gradients() -> None:
    """As instruments do: the same numbers, and no graph."""
    for passes in ("ordinary", "derivative", "slope", "both"):
        what = recipe(Picky.model_validate({"passes": passes, "late": 0.4}), times=HALF)
        state = state_of(what, "dit")
        rows = draw(what, what.plan(0, []), 0).to(CPU, torch.float64)
        net = TrainingNetwork(state, what.training)
        with torch.no_grad():
            silent = what.objective.loss(net, rows, NOW).raw
        loud = what.objective.loss(net, rows, NOW).raw
        assert not silent.requires_grad
        assert loud.requires_grad
        torch.testing.assert_close(silent, loud.detach(), rtol=1e-10, atol=1e-12)
