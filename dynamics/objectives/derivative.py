"""The total time derivative du/dt along the path, by one forward-mode pass."""

from collections.abc import Callable

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dynamics.flow.path import Velocity
from dynamics.models.attention import DualAttention, dual_attention

Derivative = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(z, t, r, y, v) -> u, du/dt"""


def total_derivative(
    u: Velocity, z: Tensor, t: Tensor, r: Tensor, y: Tensor, v: Tensor, attention: DualAttention = "math"
) -> tuple[Tensor, Tensor]:
    """u and du/dt = v . grad_z u + d_t u with r held fixed (Mean Flows, 2505.13447, eq. 8).

    Args:
        u: The velocity field.
        z: [B, ...].
        t: [B].
        r: [B].
        y: [B] long.
        v: Tangent of z, [B, ...]: the instantaneous velocity.
        attention: What differentiates attention, by name; compiled code takes torch's MATH backend in any case.

    Returns:
        u(z, t, r, y) and its derivative, both [B, ...], without gradient.
    """
    # r gets its zero tangent in so many words: where one of two terms lacks a tangent, torch is slow (see `modulate`)
    tangents = (v, torch.ones_like(t), torch.zeros_like(r))
    # the context matters to compiled code only; eager attention chooses by itself
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        if torch.compiler.is_compiling():  # the compiler knows this form, the other one costs less without it
            out: tuple[Tensor, Tensor] = torch.func.jvp(  # type: ignore[assignment]
                lambda z, t, r: u(z, t, r, y), (z, t, r), tangents
            )
            return out
        with forward_ad.dual_level(), dual_attention(attention):
            pairs = zip((z, t, r), tangents, strict=True)
            z, t, r = (forward_ad.make_dual(*pair) for pair in pairs)  # type: ignore[no-untyped-call]
            primal, tangent = forward_ad.unpack_dual(u(z, t, r, y))  # type: ignore[no-untyped-call]
    return primal, torch.zeros_like(primal) if tangent is None else tangent
