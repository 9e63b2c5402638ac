"""A small residual MLP with adaLN-zero on flattened images, for quick broad studies."""

from typing import Any, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from dynamics.flow.condition import Condition
from dynamics.flow.path import Shape
from dynamics.models.dual_numbers import gelu, standardise
from dynamics.models.embeddings import Conditioning, modulate
from dynamics.models.linear import Linear
from dynamics.models.model import ModelOptions
from dynamics.models.recompute import through


class MLPOptions(ModelOptions):
    """Residual MLP."""

    kind: Literal["mlp"] = "mlp"
    dim: int = Field(default=96, gt=0)
    """Width of the residual stream."""
    depth: int = Field(default=3, gt=0)
    """Number of blocks."""
    mlp_ratio: float = Field(default=2.0, gt=0)
    """Hidden width of a block over dim."""

    def build(self, shape: Shape, condition: Condition) -> "MLP":
        return MLP(self, shape, condition)


class Block(nn.Module):
    """Modulated, gated residual MLP; the identity at initialisation."""

    def __init__(self, options: MLPOptions) -> None:
        super().__init__()
        hidden = int(options.dim * options.mlp_ratio)
        self.hidden = Linear(options.dim, hidden)
        self.out = Linear(hidden, options.dim)
        self.modulation = Linear(options.dim, 3 * options.dim)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(F.silu(c)).chunk(3, dim=-1)
        hidden = gelu(self.hidden(modulate(standardise(x), shift, scale)))
        out: Tensor = x + gate * self.out(hidden)
        return out


class MLP(nn.Module):
    """u(z, t, r, c): z [B, C, H, W], t and r [B], c a condition of B rows, such as labels -> [B, C, H, W]."""

    def __init__(self, options: MLPOptions, shape: Shape, condition: Condition) -> None:
        super().__init__()
        channels, height, width = shape
        self.embed = Linear(channels * height * width, options.dim)
        self.conditioning = Conditioning(options.dim, condition)
        self.blocks = nn.ModuleList(Block(options) for _ in range(options.depth))
        self.final_modulation = Linear(options.dim, 2 * options.dim)
        self.final = Linear(options.dim, channels * height * width)
        zeros = [self.final_modulation, self.final]
        zeros += [block.modulation for block in self.blocks if isinstance(block, Block)]
        for layer in zeros:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, z: Tensor, t: Tensor, r: Tensor, c: Any) -> Tensor:
        condition = self.conditioning(t, r, c)
        x = through(self.blocks, self.embed(z.flatten(1)), condition)
        shift, scale = self.final_modulation(F.silu(condition)).chunk(2, dim=-1)
        out: Tensor = self.final(modulate(standardise(x), shift, scale))
        return out.view(z.shape)
