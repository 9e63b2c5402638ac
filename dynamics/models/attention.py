"""Self-attention that is fused in gradient passes, and a kernel of choice under forward-mode differentiation."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Literal, get_args

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor, nn

from dynamics.models.linear import Linear
from dynamics.options import invalid
from dynamics.rng import generator

DualAttention = Literal["math", "jvp_flash"]
"""Names of what can differentiate attention forward: the explicit product, or the kernel of `jvp_flash_attention`."""
DUAL_ATTENTIONS: tuple[DualAttention, ...] = get_args(DualAttention)
HEAD_DIMS = (16, 32, 64, 128, 256)
"""Head widths that the kernel has; others are filled up with zeros."""
TOLERANCES: dict[DualAttention, float] = {"math": 1e-5, "jvp_flash": 5e-3}
"""Largest relative error of each choice; a fused kernel may multiply float32 in TF32."""
MIN_TOKENS = 32
"""The kernel's smallest number of tokens, which must be a power of two."""
_chosen: ContextVar[DualAttention] = ContextVar("attention under forward-mode differentiation", default="math")


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for q, k, v [B, heads, N, d].

    The fused kernels of torch have no forward-mode derivative, so dual numbers take what `dual_attention` chose; the
    compiler, which cannot see them, chooses by the backend that `network.directional_derivative` sets.
    """
    if not torch.compiler.is_compiling() and forward_ad.unpack_dual(q).tangent is not None:  # type: ignore[no-untyped-call]
        return _DUAL[_chosen.get()](q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


@contextmanager
def dual_attention(name: DualAttention) -> Iterator[None]:
    """Choose, for the block, what differentiates attention forward."""
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def check_dual_attention(name: DualAttention, num_tokens: int, device: torch.device) -> None:
    """Refuse a choice that does not work here, or not for so many tokens.

    Raises:
        ValueError: jvp_flash without attention, without its package or a CUDA GPU, or for a number of tokens that its
            kernel lacks.
    """
    if name == "math":
        return
    option, remedy = "training.derivative_attention", "choose math"
    if num_tokens == 0:
        raise invalid(option, name, "math for a network without attention", remedy)
    if find_spec("jvp_flash_attention") is None:
        allowed = "math where the package jvp_flash_attention is not installed"
        raise invalid(option, name, allowed, f"pip install 'meanflow-dynamics[flash]', or {remedy}")
    if device.type != "cuda":
        raise invalid(option, name, f"math on {device.type}: the kernel needs a CUDA GPU", remedy)
    if num_tokens < MIN_TOKENS or num_tokens & (num_tokens - 1):
        allowed = f"math for {num_tokens} tokens: the kernel needs a power of two of at least {MIN_TOKENS}"
        raise invalid(option, name, allowed, f"{remedy}, or another model.patch_size")


def dual_attention_error(name: DualAttention, device: torch.device) -> float:
    """Return how far a choice is from the explicit product in float64, in its value or its derivative.

    The derivative's reference is a finite difference. Relative to the largest number; infinite where a choice has no
    derivative.
    """
    inputs, tangents = torch.randn(2, 3, 2, 2, MIN_TOKENS, 24, generator=generator(0, "doctor"), dtype=torch.float64)
    h = 1e-5
    low, high = (_explicit(*(inputs + shift * tangents).unbind()) for shift in (-h, h))
    expected = torch.stack([_explicit(*inputs.unbind()), (high - low) / (2 * h)])
    with torch.no_grad(), forward_ad.dual_level(), dual_attention(name):
        parts = zip(inputs.float().to(device), tangents.float().to(device), strict=True)
        duals = [forward_ad.make_dual(*part) for part in parts]  # type: ignore[no-untyped-call]
        found = forward_ad.unpack_dual(attend(*duals))  # type: ignore[no-untyped-call]
    if found.tangent is None:
        return math.inf
    error = (torch.stack([found.primal, found.tangent]).double().cpu() - expected).abs().amax((1, 2, 3, 4))
    return float((error / expected.abs().amax((1, 2, 3, 4))).max())


def prove_dual_attention(name: DualAttention, device: torch.device) -> None:
    """Refuse a kernel of others that computes something else here.

    Raises:
        ValueError: Its value or its derivative is further from the explicit product than TOLERANCES allows.
    """
    if name != "math" and not (error := dual_attention_error(name, device)) <= TOLERANCES[name]:
        received = f"{name}, which is {error:.1e} off the explicit product on this machine"
        allowed = f"a kernel within {TOLERANCES[name]:.0e}"
        raise invalid("training.derivative_attention", received, allowed, "choose math, and see dynamics doctor")


def _explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores: Tensor = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if not scores.requires_grad:
        return scores.softmax(-1) @ v
    # nobody can go back through torch's derivative of softmax, which divides in place what it has kept
    weights = (scores - scores.detach().amax(-1, keepdim=True)).exp()
    return weights / weights.sum(-1, keepdim=True) @ v


def _jvp_flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend by the kernel of amorehead/jvp_flash_attention, which takes dual numbers as they are.

    Written from that package's published source (0.14) and tried with a stand-in of the same signature: the kernel
    itself has not been run here, for want of a GPU. `dynamics doctor` compares it with the explicit product. Triton may
    multiply float32 in TF32, so du/dt is then good to about three digits.
    """
    from jvp_flash_attention.jvp_attention import JVPAttn  # type: ignore[import-not-found, unused-ignore]

    dim = q.shape[-1]
    fill = min(width for width in HEAD_DIMS if width >= dim) - dim  # XL/2 has heads of 72: zeros change nothing
    out: Tensor = JVPAttn.fwd_dual(*(_laid_out(a, fill) for a in (q, k, v)), sm_scale=dim**-0.5)
    return out[..., :dim]


def _laid_out(dual: Tensor, fill: int) -> Tensor:
    """Return a dual number whose value and tangent lie in memory as the kernel reads them, widened by zeros."""
    parts = forward_ad.unpack_dual(dual)  # type: ignore[no-untyped-call]
    laid_out = (F.pad(part, (0, fill)).contiguous() for part in (parts.primal, parts.tangent))
    out: Tensor = forward_ad.make_dual(*laid_out)  # type: ignore[no-untyped-call]
    return out


_DUAL: dict[DualAttention, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"math": _explicit, "jvp_flash": _jvp_flash}


class Attention(nn.Module):
    """Multi-head self-attention on tokens [B, N, dim]."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        out: Tensor = self.proj(attend(q, k, v).transpose(1, 2).reshape(b, n, d))
        return out
