"""Self-attention that is fused in gradient passes and explicit under forward-mode differentiation."""

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor, nn

from dynamics.models.linear import Linear


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for q, k, v [B, heads, N, d].

    The fused kernels have no forward-mode derivative, so dual numbers take the explicit product; the compiler, which
    cannot see them, chooses by the backend that `objectives.derivative` sets.
    """
    if not torch.compiler.is_compiling() and forward_ad.unpack_dual(q).tangent is not None:  # type: ignore[no-untyped-call]
        scores: Tensor = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return scores.softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


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
