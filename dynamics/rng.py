"""Random streams derived from what they are for, never carried from step to step.

A stream is a pure function of (seed, tags), so a resumed run, another rank, or a measurement that is switched on
draws the same numbers as an undisturbed run.
"""

import hashlib
import json
from collections.abc import Iterable

import torch
from torch import Tensor


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
