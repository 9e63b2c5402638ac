"""What a network costs, counted without computing or allocating anything."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dynamics.data.imageset import Shape
from dynamics.models.dit import DiT, DiTOptions
from dynamics.models.mlp import MLP, MLPOptions
from dynamics.options import Options


class Cost(Options):
    """Size and cost of one network."""

    num_parameters: int
    """Trainable parameters."""
    forward_gflops: float
    """Forward pass of one row, 1e9 multiply-adds (what the papers print as GFLOPs)."""


class Saved(Options):
    """Bytes that a forward pass keeps for the backward pass."""

    per_row: int
    """Activations of one row."""
    of_weights: int
    """Copies of the weights in half precision, whatever the number of rows."""


@lru_cache(maxsize=64)
def cost(options: DiTOptions | MLPOptions, shape: Shape, num_classes: int) -> Cost:
    """Count parameters and multiply-adds of a network.

    Args:
        options: Which network.
        shape: (C, H, W) of one image or latent.
        num_classes: Number of classes.

    Example:
        >>> cost(DiTOptions(patch_size=4, depth=12, dim=768, heads=12), (4, 32, 32), 1000).num_parameters
        131165248
    """
    with torch.device("meta"):
        model = _built(options, shape, num_classes)
        with FlopCounterMode(display=False) as counter:
            model(*_rows(1, shape))
    return Cost(
        num_parameters=sum(p.numel() for p in model.parameters()), forward_gflops=counter.get_total_flops() / 2e9
    )


@lru_cache(maxsize=64)
def saved(options: DiTOptions | MLPOptions, shape: Shape, num_classes: int, mixed: bool = False) -> Saved:
    """Count what a forward pass with fused attention keeps for the backward pass.

    Args:
        options: Which network.
        shape: (C, H, W) of one image or latent.
        num_classes: Number of classes.
        mixed: Whether it runs under autocast in bfloat16.
    """
    # fake tensors know the kernels of a real device, which meta tensors do not: fused attention keeps no scores
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.device("cpu"):
        model = _built(options, shape, num_classes)
        one, two = (_bytes_kept(model, _rows(count, shape), mixed) for count in (1, 2))
    return Saved(per_row=two - one, of_weights=2 * one - two)


def _built(options: DiTOptions | MLPOptions, shape: Shape, num_classes: int) -> DiT | MLP:
    return DiT(options, shape, num_classes) if isinstance(options, DiTOptions) else MLP(options, shape, num_classes)


def _rows(count: int, shape: Shape) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.empty(count, *shape), torch.empty(count), torch.empty(count), torch.empty(count, dtype=torch.long)


def _bytes_kept(model: DiT | MLP, rows: tuple[Tensor, Tensor, Tensor, Tensor], mixed: bool) -> int:
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        model(*rows)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
