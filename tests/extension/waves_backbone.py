"""A backbone in one file: a residual network on random waves of z."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from dynamics.flow.condition import Condition
from dynamics.flow.path import Shape
from dynamics.models import ModelOptions
from dynamics.models.embeddings import Conditioning
from dynamics.models.linear import Linear
from dynamics.models.recompute import through


class WavesOptions(ModelOptions):
    """Residual network on random waves."""

    kind: Literal["waves"] = "waves"
    dim: int = Field(default=32, gt=0)
    """Width."""
    depth: int = Field(default=2, gt=0)
    """Number of blocks."""
    num_waves: int = Field(default=16, gt=0)
    """Random directions whose sine and cosine the network sees beside z."""

    def build(self, shape: Shape, condition: Condition) -> nn.Module:
        return Waves(self, shape, condition)


class WaveBlock(nn.Module):
    """A residual layer, shifted by the conditioning."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.shift, self.hidden, self.out = Linear(dim, dim), Linear(dim, dim), Linear(dim, dim)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        out: Tensor = x + self.out(F.silu(self.hidden(x) + self.shift(F.silu(c))))
        return out


class Waves(nn.Module):
    """u(z, t, r, c): z [B, C, H, W] -> [B, C, H, W]; zero at initialisation."""

    directions: Tensor

    def __init__(self, options: WavesOptions, shape: Shape, condition: Condition) -> None:
        super().__init__()
        size, dim = shape[0] * shape[1] * shape[2], options.dim
        self.register_buffer("directions", torch.randn(size, options.num_waves), persistent=False)
        self.embed = Linear(size + 2 * options.num_waves, dim)
        self.conditioning = Conditioning(dim, condition)
        self.blocks = nn.ModuleList(WaveBlock(dim) for _ in range(options.depth))
        self.final = Linear(dim, size)
        nn.init.zeros_(self.final.weight)
        nn.init.zeros_(self.final.bias)

    def forward(self, z: Tensor, t: Tensor, r: Tensor, c: Any) -> Tensor:
        flat = z.flatten(1)
        angles = flat @ self.directions
        x = self.embed(torch.cat([flat, angles.sin(), angles.cos()], 1))
        out: Tensor = self.final(through(self.blocks, x, self.conditioning(t, r, c)))
        return out.view(z.shape)
