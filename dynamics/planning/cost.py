"""What a network costs, counted without computing or allocating anything."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from dynamics.flow.condition import Condition
from dynamics.flow.path import Shape
from dynamics.models import ModelOptions, build
from dynamics.options import Options


def _attention_flops(q: torch.Size, k: torch.Size, v: torch.Size, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(q, k, v))  # type: ignore[no-untyped-call]


_FUSED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
"""A kernel of fused attention that torch's counter does not know."""


class Cost(Options):
    """Size and cost of one network."""

    num_parameters: int
    """Trainable parameters."""
    forward_madds: int
    """Multiply-adds of a forward pass of one row."""
    kept_per_row: int
    """Bytes of one row's activations that a forward pass with fused attention keeps for the backward pass."""
    kept_of_weights: int
    """Bytes of the weights' copies in half precision that it keeps, whatever the number of rows."""
    num_blocks: int
    """Blocks that FSDP holds apart and that may recompute what they keep."""
    block_parameters: int
    """Parameters of the largest block."""
    block_inputs: int
    """Bytes that all blocks together take in of one row."""

    @property
    def forward_gflops(self) -> float:
        """1e9 multiply-adds of a forward pass of one row (what the papers print as GFLOPs)."""
        return self.forward_madds / 1e9


@lru_cache(maxsize=64)
def cost(options: ModelOptions, shape: Shape, condition: Condition, mixed: bool = False) -> Cost:
    """Count what a network has, computes and keeps.

    Args:
        options: Which network.
        shape: (C, H, W) of one image or latent.
        condition: What it is conditioned on.
        mixed: Whether it runs under autocast in bfloat16.

    Example:
        >>> from dynamics.flow.condition import ClassLabels
        >>> from dynamics.models.dit import SIZES
        >>> cost(SIZES["B/4"], (4, 32, 32), ClassLabels(1000)).num_parameters
        131165248
    """
    depth = getattr(options, "depth", 0)
    if depth > 2:
        # blocks as a rule are alike: two shallow networks then say what a deep one costs, in a fraction of the time
        shallow = [_traced(options.model_copy(update={"depth": d}), shape, condition, mixed) for d in (1, 2)]
        deep = Cost.model_validate(
            {name: a + (depth - 1) * (b - a) for (name, a), (_, b) in zip(*shallow, strict=True)}
        )
        with torch.device("meta"):
            whole = _num_parameters(build(options, shape, condition, seed=0))
        if deep.num_parameters == whole:
            return deep
    return _traced(options, shape, condition, mixed)


def _traced(options: ModelOptions, shape: Shape, condition: Condition, mixed: bool) -> Cost:
    """Count on passes of a network of this depth."""
    # fake tensors know the kernels of a real device, which meta tensors do not: fused attention keeps no scores
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.device("cpu"):
        model = build(options, shape, condition, seed=0)
        blocks = list(getattr(model, "blocks", ()))
        with FlopCounterMode(display=False, custom_mapping=_FUSED) as counter, _noting_inputs(blocks) as inputs:
            one = _bytes_kept(model, _rows(1, shape, condition), mixed)
        two = _bytes_kept(model, _rows(2, shape, condition), mixed)
    return Cost(
        num_parameters=_num_parameters(model),
        forward_madds=counter.get_total_flops() // 2,
        kept_per_row=two - one,
        kept_of_weights=2 * one - two,
        num_blocks=len(blocks),
        block_parameters=max(map(_num_parameters, blocks), default=0),
        block_inputs=sum(inputs),
    )


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _rows(count: int, shape: Shape, condition: Condition) -> tuple[Any, ...]:
    return torch.empty(count, *shape), torch.empty(count), torch.empty(count), condition.example(count)


def _bytes_kept(model: nn.Module, rows: tuple[Any, ...], mixed: bool) -> int:
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


@contextmanager
def _noting_inputs(blocks: Sequence[nn.Module]) -> Iterator[list[int]]:
    """Yield a list that gets the bytes of what goes into each block meanwhile."""
    found: list[int] = []

    def note(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        found.append(inputs[0].nbytes)

    handles = [block.register_forward_pre_hook(note) for block in blocks]
    yield found
    for handle in handles:
        handle.remove()
