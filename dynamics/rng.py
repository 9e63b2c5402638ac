"""Random streams derived from what they are for, never carried from step to step.

A stream is a pure function of (seed, tags), so a resumed run, another rank, or a measurement that is switched on
draws the same numbers as an undisturbed run.
"""

import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import Tensor

from dynamics.options import invalid


def generator(seed: int, *tags: str | int) -> torch.Generator:
    """Return the CPU generator of the stream named by `tags`.

    Args:
        seed: The run's seed.
        tags: What the numbers are for, for example `("noise", step)`.

    Returns:
        A fresh generator. All training randomness is drawn on the CPU, so that a run on another device sees the
        same images, times and noise.

    Example:
        >>> a, b = generator(0, "noise", 3), generator(0, "noise", 3)
        >>> bool((torch.rand(4, generator=a) == torch.rand(4, generator=b)).all())
        True
    """
    digest = hashlib.blake2b(json.dumps([seed, *tags]).encode(), digest_size=8).digest()
    # 63 bits: manual_seed refuses what does not fit into a signed 64-bit integer
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def normal_rows(rows: Iterable[int], shape: Iterable[int], seed: int, *tags: str | int) -> Tensor:
    """Return standard normal numbers [len(rows), *shape] of a stream for each row.

    What a row gets does not depend on who draws the others: a rank draws its own rows alone.

    Args:
        rows: Numbers of the rows, at least one.
        shape: Of what a row gets.
        seed: The run's seed.
        tags: What the numbers are for.

    Example:
        >>> both = normal_rows([4, 7], [3], 0, "noise")
        >>> bool((both[1:] == normal_rows([7], [3], 0, "noise")).all())
        True
    """
    shape = tuple(shape)
    return torch.stack([torch.randn(shape, generator=generator(seed, *tags, row)) for row in rows])


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
    out = torch.empty(batch_size, dtype=torch.long)  # where there is no room, it fails here and not after hours
    done = 0
    for epoch in range(start // num_images, (stop - 1) // num_images + 1):
        offset = epoch * num_images
        piece = _epoch_order(num_images, seed, epoch)[max(start - offset, 0) : stop - offset]
        out[done : done + len(piece)] = piece
        done += len(piece)
    return out
