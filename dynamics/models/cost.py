"""What a network costs, counted on the meta device: nothing is computed or allocated."""

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dynamics.models.dit import DiT, DiTOptions
from dynamics.models.mlp import MLP, MLPOptions
from dynamics.options import Options

FLOAT_BYTES = 4


class Cost(Options):
    """Size and cost of one network."""

    num_parameters: int
    """Trainable parameters."""
    forward_gflops: float
    """Forward pass of one row, 1e9 multiply-adds (what the papers print as GFLOPs)."""
    activation_bytes_per_row: int
    """Bytes that a float32 forward pass keeps for the backward pass, per row; an upper bound, because the
    score matrix counted here is not kept by fused attention."""

    def training_gb(self, batch_size: int, num_emas: int) -> float:
        """Estimate the memory of a float32 training step in GB: weights, gradients, Adam's two moments, averages,
        and the activations of `batch_size` rows. The forward-mode pass keeps nothing, so it does not add to the peak.
        """
        state = self.num_parameters * FLOAT_BYTES * (4 + num_emas)
        return (state + batch_size * self.activation_bytes_per_row) / 1e9


def cost(options: DiTOptions | MLPOptions, shape: tuple[int, int, int], num_classes: int) -> Cost:
    """Count parameters, multiply-adds and saved activations of a network.

    Args:
        options: Which network.
        shape: (C, H, W) of one image or latent.
        num_classes: Number of classes.

    Example:
        >>> cost(DiTOptions(patch_size=4, depth=12, dim=768, heads=12), (4, 32, 32), 1000).num_parameters
        131165248
    """
    with torch.device("meta"):
        model = (
            DiT(options, shape, num_classes) if isinstance(options, DiTOptions) else MLP(options, shape, num_classes)
        )
        row = (torch.empty(1, *shape), torch.empty(1), torch.empty(1), torch.empty(1, dtype=torch.long))
        kept: dict[int, Tensor] = {}
        weights = {p.untyped_storage()._cdata for p in model.parameters()}

        def keep(tensor: Tensor) -> Tensor:
            if tensor.untyped_storage()._cdata not in weights:
                kept[tensor.untyped_storage()._cdata] = tensor
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with FlopCounterMode(display=False) as counter, hooks:
            model(*row)
    saved = sum(t.untyped_storage().nbytes() for t in kept.values())
    return Cost(
        num_parameters=sum(p.numel() for p in model.parameters()),
        forward_gflops=counter.get_total_flops() / 2e9,
        activation_bytes_per_row=saved,
    )
