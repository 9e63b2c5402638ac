"""A backward pass goes through the forward-mode derivative of attention, as some objectives need it."""

import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck

from dynamics.models.attention import attend


def value_and_derivative(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    half = len(inputs) // 2
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(x, dx) for x, dx in zip(inputs[:half], inputs[half:], strict=True)]
        found = forward_ad.unpack_dual(attend(*duals))
    return found.primal, found.tangent


def test_gradients_of_value_and_derivative_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(1, 2, 3, 2, dtype=torch.float64, requires_grad=True) for _ in range(6)]
    assert gradcheck(value_and_derivative, inputs)
