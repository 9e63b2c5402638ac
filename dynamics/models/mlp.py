"""A small residual MLP with adaLN-zero on flattened images, for quick broad studies."""

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from dynamics.models.embeddings import Conditioning, modulate
from dynamics.models.linear import Linear
from dynamics.models.recompute import through
from dynamics.options import Options


class MLPOptions(Options):
    """Residual MLP."""

    kind: Literal["mlp"] = "mlp"
    dim: int = Field(default=96, gt=0)
    """Width of the residual stream."""
    depth: int = Field(default=3, gt=0)
    """Number of blocks."""
    mlp_ratio: float = Field(default=2.0, gt=0)
    """Hidden width of a block over dim."""


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
        x_norm = F.layer_norm(x, x.shape[-1:], eps=1e-6)
        hidden = F.gelu(self.hidden(modulate(x_norm, shift, scale)), approximate="tanh")
        out: Tensor = x + gate * self.out(hidden)
        return out


class MLP(nn.Module):
    """u(z, t, r, y): z [B, C, H, W], t and r [B], y [B] long with the null class num_classes -> [B, C, H, W]."""

    def __init__(self, options: MLPOptions, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.num_classes, self.num_tokens = num_classes, 0
        self.embed = Linear(channels * height * width, options.dim)
        self.conditioning = Conditioning(options.dim, num_classes)
        self.blocks = nn.ModuleList(Block(options) for _ in range(options.depth))
        self.final_modulation = Linear(options.dim, 2 * options.dim)
        self.final = Linear(options.dim, channels * height * width)
        zeros = [self.final_modulation, self.final]
        zeros += [block.modulation for block in self.blocks if isinstance(block, Block)]
        for layer in zeros:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, z: Tensor, t: Tensor, r: Tensor, y: Tensor) -> Tensor:
        c = self.conditioning(t, r, y)
        x = through(self.blocks, self.embed(z.flatten(1)), c)
        shift, scale = self.final_modulation(F.silu(c)).chunk(2, dim=-1)
        x = F.layer_norm(x, x.shape[-1:], eps=1e-6)
        out: Tensor = self.final(modulate(x, shift, scale))
        return out.view(z.shape)
