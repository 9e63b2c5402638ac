"""Layer norm and gelu, whose forward-mode derivatives a loss can go back through at the price of a few kernels.

Torch goes back through such a derivative by elementary operations, dozens for one gelu, and for layer norm with a wrong
result: it takes mean and deviation for constants (pytorch#196700). Here value and tangent are one function of two
tensors with its gradient in closed form (measured in benchmarks/objective_cost.py).
"""

import math
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

NORM_EPS = 1e-6
"""Added to the variance in layer norms, as in DiT."""
_K, _CUBIC = math.sqrt(2 / math.pi), 0.044715
_gelu_backward = torch.ops.aten.gelu_backward.default
_norm_backward = torch.ops.aten.native_layer_norm_backward.default


def gelu(x: Tensor) -> Tensor:
    """x Phi(x) by tanh, as in DiT: x (1 + tanh(k (x + 0.044715 x^3))) / 2 with k = sqrt(2 / pi)."""
    if _goes_back_through_a_tangent(x):
        value, tangent = _Gelu.apply(*forward_ad.unpack_dual(x))  # type: ignore[no-untyped-call]
        dual: Tensor = forward_ad.make_dual(value, tangent)  # type: ignore[no-untyped-call]
        return dual
    return F.gelu(x, approximate="tanh")


def standardise(x: Tensor) -> Tensor:
    """Layer norm over the last dimension, without weights."""
    if _goes_back_through_a_tangent(x):
        value, tangent = _Standardise.apply(*forward_ad.unpack_dual(x))  # type: ignore[no-untyped-call]
        dual: Tensor = forward_ad.make_dual(value, tangent)  # type: ignore[no-untyped-call]
        return dual
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)


def _goes_back_through_a_tangent(x: Tensor) -> bool:
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return False
    return forward_ad.unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]


class _Gelu(torch.autograd.Function):
    """(x, dx) -> (f(x), f'(x) dx)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, dx)
        return F.gelu(x, approximate="tanh"), _gelu_backward(dx, x, approximate="tanh")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, dg: Tensor) -> tuple[Tensor, Tensor]:
        x, dx = ctx.saved_tensors
        bent = _second_derivative(x).mul_(dx).mul_(dg)
        return bent.add_(_gelu_backward(g, x, approximate="tanh")), _gelu_backward(dg, x, approximate="tanh")


def _second_derivative(x: Tensor) -> Tensor:
    """(1 - tanh^2(p)) (p' + x p'' / 2 - x tanh(p) p'^2) with p = k (x + c x^3)."""
    square = x * x
    tanh = (square * (_K * _CUBIC)).add_(_K).mul_(x).tanh_()
    slope = (square * (3 * _K * _CUBIC)).add_(_K)  # p'; x p'' / 2 = p' - k
    out = (slope * slope).mul_(x).mul_(tanh).neg_().add_(slope, alpha=2).sub_(_K)
    return out.mul_(tanh.mul_(tanh).neg_().add_(1))


class _Standardise(torch.autograd.Function):
    """(x, dx) -> (y, J dx) with y = (x - mean) s, s = (var + eps)^(-1/2), J v = s (v - mean v - y mean(y v))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
        y, mean, scale = torch.native_layer_norm(x, x.shape[-1:], None, None, NORM_EPS)
        ctx.save_for_backward(x, dx, y, mean, scale)
        return y, _through_norm(dx, x, mean, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, dg: Tensor) -> tuple[Tensor, Tensor]:
        # the gradient of sum(dg J dx) for x: -s^2 (y (ab - 3 ya yb) + yb a + ya b) with a, b = dg, dx less their means
        # and ab, ya, yb the means of a b, y a and y b
        x, dx, y, mean, scale = ctx.saved_tensors
        a, b = (v - v.mean(-1, keepdim=True) for v in (dg, dx))
        ab, ya, yb = ((v * w).mean(-1, keepdim=True) for v, w in ((a, b), (y, a), (y, b)))
        bent = (y * (ab - 3 * ya * yb)).add_(a.mul_(yb)).add_(b.mul_(ya)).mul_(-(scale * scale))
        return bent.add_(_through_norm(g, x, mean, scale)), _through_norm(dg, x, mean, scale)


def _through_norm(v: Tensor, x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Return J v, which is also v J: what torch's own layer norm computes going back."""
    out: Tensor = _norm_backward(v, x, x.shape[-1:], mean, scale, None, None, [True, False, False])[0]
    return out
