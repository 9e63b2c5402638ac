"""What a backbone is to the rest: options that build it, and a forward pass u(z, t, r, c)."""

from abc import abstractmethod

import torch
from torch import nn

from dynamics.flow.condition import Condition
from dynamics.flow.path import Shape
from dynamics.options import Family
from dynamics.rng import generator


class ModelOptions(Family):
    """A network for u(z, t, r, c) and its sizes.

    What it builds maps z [B, C, H, W], t [B], r [B] and a condition c of B rows to [B, C, H, W]; rows do not meet in
    it. Blocks in an attribute `blocks` are split over ranks one by one, and may recompute what they keep (see
    `recompute`). Gradients of many groups of rows are taken from one pass where all weights lie in linear and
    embedding layers. Its layer norms are `dual_numbers.standardise`: torch's own has a wrong second derivative.
    """

    kind: str

    @abstractmethod
    def build(self, shape: Shape, condition: Condition) -> nn.Module:
        """Return the network with weights drawn from torch's global stream.

        Args:
            shape: (C, H, W) of one image.
            condition: What c is; the network embeds it by `condition.embedding`.
        """


def build(options: ModelOptions, shape: Shape, condition: Condition, seed: int) -> nn.Module:
    """Build a network and initialise it from the stream ("init",) of `seed`; the global stream is left alone.

    Args:
        options: Which network, and its sizes.
        shape: (C, H, W) of one image.
        condition: What it is conditioned on.
        seed: Seed of the run.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator(seed, "init").initial_seed())
        return options.build(shape, condition)
