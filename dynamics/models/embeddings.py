"""Embeddings of times, labels and positions, and the conditioning shared by all models."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from dynamics.flow.condition import Condition
from dynamics.models.linear import Linear

FREQUENCIES = 256
"""Size of the sinusoidal embedding of a time, as in DiT (2212.09748)."""


def sinusoid(t: Tensor, size: int = FREQUENCIES) -> Tensor:
    """Cosines and sines of t at size/2 geometric frequencies from 1 to 1e-4, [B] -> [B, size].

    t enters raw, in [0, 1] (Mean Flows): a factor of 1000, usual in diffusion, would scale du/dt with it.
    """
    half = size // 2
    frequencies = torch.exp(-math.log(10000) / half * torch.arange(half, device=t.device, dtype=t.dtype))
    angles = t[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimeEmbedding(nn.Module):
    """Two-layer MLP on the sinusoid of a time, [B] -> [B, dim]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.hidden = Linear(FREQUENCIES, dim)
        self.out = Linear(dim, dim)
        for layer in (self.hidden, self.out):
            nn.init.normal_(layer.weight, std=0.02)

    def forward(self, t: Tensor) -> Tensor:
        out: Tensor = self.out(nn.functional.silu(self.hidden(sinusoid(t))))
        return out


class Conditioning(nn.Module):
    """emb(t) + emb(t - r) + emb(c), [B, dim] (Mean Flows, section 5); the condition says how c is embedded."""

    def __init__(self, dim: int, condition: Condition) -> None:
        super().__init__()
        self.time = TimeEmbedding(dim)
        self.gap = TimeEmbedding(dim)
        # the name is that of class labels, the usual condition; weights of earlier runs have it
        self.label = condition.embedding(dim)

    def forward(self, t: Tensor, r: Tensor, c: Any) -> Tensor:
        out: Tensor = self.time(t) + self.gap(t - r) + self.label(c)
        return out


def position_table(height: int, width: int, dim: int) -> Tensor:
    """Fixed 2-D sine-cosine embedding of a token grid, [height * width, dim] (MAE / DiT)."""
    quarter = dim // 4
    frequencies = 1 / 10000 ** (torch.arange(quarter, dtype=torch.float64) / quarter)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    # columns come first, as in the reference implementation, so that its checkpoints stay valid
    angles = [grid.reshape(-1, 1).double() * frequencies for grid in (columns, rows)]
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1).float()


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Adaptive layer norm's affine part: x (1 + scale) + shift.

    Written without the sum 1 + scale: under forward-mode differentiation torch sends the sum of a tangent and the
    constant's zero tangent through its Python reference, which takes longer than a small layer.
    """
    return torch.addcmul(x + shift, x, scale)
