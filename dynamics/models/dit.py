"""Diffusion transformer with adaLN-zero (Scalable Diffusion Models with Transformers, 2212.09748) for u(z, t, r, c)."""

import math
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from dynamics.flow.condition import ClassLabels, Condition
from dynamics.flow.path import Shape
from dynamics.models.attention import Attention
from dynamics.models.dual_numbers import gelu, standardise
from dynamics.models.embeddings import Conditioning, modulate, position_table
from dynamics.models.linear import Linear
from dynamics.models.model import ModelOptions
from dynamics.models.recompute import through
from dynamics.options import invalid


class DiTOptions(ModelOptions):
    """Diffusion transformer."""

    kind: Literal["dit"] = "dit"
    patch_size: int = Field(default=2, gt=0)
    """Side of a square patch, in pixels or latent cells."""
    dim: int = Field(default=96, gt=0)
    """Width of a token."""
    depth: int = Field(default=4, gt=0)
    """Number of blocks."""
    heads: int = Field(default=4, gt=0)
    """Attention heads; must divide dim."""
    mlp_ratio: float = Field(default=4.0, gt=0)
    """Hidden width of a block's MLP over dim."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.dim % self.heads or self.dim % 4:
            raise invalid("model.dim", self.dim, f"a multiple of 4 and of heads={self.heads}", "change dim or heads")
        return self

    def build(self, shape: Shape, condition: Condition) -> "DiT":
        return DiT(self, shape, condition)


SIZES = {
    "B/4": DiTOptions(patch_size=4, depth=12, dim=768, heads=12),
    "B/2": DiTOptions(patch_size=2, depth=12, dim=768, heads=12),
    "M/2": DiTOptions(patch_size=2, depth=16, dim=1024, heads=16),
    "L/2": DiTOptions(patch_size=2, depth=24, dim=1024, heads=16),
    "XL/2": DiTOptions(patch_size=2, depth=28, dim=1152, heads=16),
}
"""The published sizes (Mean Flows, table 4)."""


class Block(nn.Module):
    """Attention and MLP, each modulated and gated by the conditioning; the identity at initialisation."""

    def __init__(self, options: DiTOptions) -> None:
        super().__init__()
        dim, hidden = options.dim, int(options.dim * options.mlp_ratio)
        self.attention = Attention(dim, options.heads)
        self.mlp_in = Linear(dim, hidden)
        self.mlp_out = Linear(hidden, dim)
        self.modulation = Linear(dim, 6 * dim)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(c)).unsqueeze(1).chunk(6, dim=-1)
        x = x + gate1 * self.attention(modulate(standardise(x), shift1, scale1))
        hidden = gelu(self.mlp_in(modulate(standardise(x), shift2, scale2)))
        out: Tensor = x + gate2 * self.mlp_out(hidden)
        return out


class DiT(nn.Module):
    """u(z, t, r, c): z [B, C, H, W], t and r [B], c a condition of B rows, such as labels -> [B, C, H, W]."""

    positions: Tensor

    def __init__(self, options: DiTOptions, shape: Shape, condition: Condition) -> None:
        super().__init__()
        channels, height, width = shape
        p = options.patch_size
        if height % p or width % p:
            raise invalid("model.patch_size", p, f"a divisor of the image size {height} x {width}", "change patch_size")
        self.grid, self.patch, self.channels = (height // p, width // p), p, channels
        self.num_tokens = math.prod(self.grid)
        dim = options.dim
        self.embed = Linear(channels * p * p, dim)
        self.conditioning = Conditioning(dim, condition)
        self.blocks = nn.ModuleList(Block(options) for _ in range(options.depth))
        self.final_modulation = Linear(dim, 2 * dim)
        self.final = Linear(dim, channels * p * p)
        self.register_buffer("positions", position_table(*self.grid, dim), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        own = set(self.conditioning.modules())  # the conditioning has drawn its own weights already
        for module in self.modules():
            if isinstance(module, nn.Linear):
                if module not in own:
                    nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        zeros = [self.final_modulation, self.final]
        zeros += [block.modulation for block in self.blocks if isinstance(block, Block)]
        for layer in zeros:  # adaLN-zero: every block is the identity and u = 0
            nn.init.zeros_(layer.weight)

    def forward(self, z: Tensor, t: Tensor, r: Tensor, c: Any) -> Tensor:
        (gh, gw), p, ch = self.grid, self.patch, self.channels
        b = z.shape[0]
        patches = z.view(b, ch, gh, p, gw, p).permute(0, 2, 4, 1, 3, 5).reshape(b, gh * gw, ch * p * p)
        x = self.embed(patches) + self.positions
        condition = self.conditioning(t, r, c)
        x = through(self.blocks, x, condition)
        shift, scale = self.final_modulation(F.silu(condition)).unsqueeze(1).chunk(2, dim=-1)
        out: Tensor = self.final(modulate(standardise(x), shift, scale))
        return out.view(b, gh, gw, ch, p, p).permute(0, 3, 1, 4, 2, 5).reshape(b, ch, gh * p, gw * p)


def num_parameters(options: DiTOptions, shape: Shape, num_classes: int) -> int:
    """Count trainable parameters without allocating them.

    Example:
        >>> num_parameters(SIZES["B/4"], (4, 32, 32), 1000)
        131165248
    """
    with torch.device("meta"):
        return sum(p.numel() for p in DiT(options, shape, ClassLabels(num_classes)).parameters())
