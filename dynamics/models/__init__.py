"""Networks for u(z, t, r, y)."""

from typing import Annotated

import torch
from pydantic import Field

from dynamics.models.dit import DiT, DiTOptions
from dynamics.models.mlp import MLP, MLPOptions
from dynamics.rng import generator

Model = DiT | MLP
ModelOptions = Annotated[DiTOptions | MLPOptions, Field(discriminator="kind")]

__all__ = ["MLP", "DiT", "DiTOptions", "MLPOptions", "Model", "ModelOptions", "build"]


def build(options: DiTOptions | MLPOptions, shape: tuple[int, int, int], num_classes: int, seed: int) -> Model:
    """Build the network and initialise it from the stream ("init",) of `seed`; the global stream is left alone.

    Args:
        options: Which network, and its sizes.
        shape: (C, H, W) of one image.
        num_classes: Number of classes; label num_classes is the null class.
        seed: Seed of the run.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator(seed, "init").initial_seed())
        if isinstance(options, DiTOptions):
            return DiT(options, shape, num_classes)
        return MLP(options, shape, num_classes)
