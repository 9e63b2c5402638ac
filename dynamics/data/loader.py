"""The seekable order of a finite data set: which images step i sees is computed, never carried."""

from functools import lru_cache

import torch
from torch import Tensor

from dynamics.options import invalid
from dynamics.rng import generator


@lru_cache(maxsize=4)
def _epoch_order(num_images: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(num_images, generator=generator(seed, "order", epoch))


def batch_indices(num_images: int, seed: int, step: int, batch_size: int) -> Tensor:
    """Return the images of one global batch: positions [step * B, (step + 1) * B) of the epochs' permutations, chained.

    Every epoch visits each image exactly once; a batch may straddle epochs and B may exceed the number of images. The
    answer depends on the arguments alone, so a resumed run continues in the middle of an epoch.

    Args:
        num_images: Number of images N >= 1.
        seed: The run's seed.
        step: Training step, counted from 0.
        batch_size: Global batch size B >= 1, over all ranks and accumulation steps.

    Returns:
        Indices [B] long in 0..N-1, a fresh tensor.

    Raises:
        ValueError: A size below 1 or a negative step.

    Example:
        >>> epoch = torch.cat([batch_indices(6, 0, step, 2) for step in range(3)])
        >>> sorted(epoch.tolist())
        [0, 1, 2, 3, 4, 5]
    """
    if num_images < 1:
        raise invalid("num_images", num_images, "num_images >= 1", "pass a data set that holds images")
    if batch_size < 1:
        raise invalid("batch_size", batch_size, "batch_size >= 1", "pass the global batch size")
    if step < 0:
        raise invalid("step", step, "step >= 0", "count steps from 0")
    start, stop = step * batch_size, (step + 1) * batch_size
    pieces = []
    for epoch in range(start // num_images, (stop - 1) // num_images + 1):
        offset = epoch * num_images
        pieces.append(_epoch_order(num_images, seed, epoch)[max(start - offset, 0) : stop - offset])
    return torch.cat(pieces)  # a copy, so that nobody can write into the cached permutation
