"""Activation checkpointing: keep a block's input, and compute the rest once more in the backward pass."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class _Pass:
    """What the forward pass under way wants; an attribute, since the compiler cannot look into a ContextVar."""

    recompute = False


@contextmanager
def recomputing(on: bool = True) -> Iterator[None]:
    """Let forward passes in this block keep only the inputs of a network's blocks for their backward pass.

    It is the pass that chooses and not the network: an observer that puts other weights into the network for its
    forward pass alone would have its gradients computed with the wrong ones.
    """
    before, _Pass.recompute = _Pass.recompute, on
    try:
        yield
    finally:
        _Pass.recompute = before


def through(blocks: Iterable[nn.Module], x: Tensor, c: Tensor) -> Tensor:
    """Return x after all blocks, each conditioned on c.

    Passes without gradient, such as those of the forward-mode derivative, have nothing to save: they go straight on.
    """
    recompute = _Pass.recompute and torch.is_grad_enabled()
    for block in blocks:
        # nothing in a block is random, so there is no random state to put back
        x = checkpoint(block, x, c, use_reentrant=False, preserve_rng_state=False) if recompute else block(x, c)
    return x
