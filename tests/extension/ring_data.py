"""A data set in one file, conditioned on a direction and not on a class, with its exact truth and its features.

x = (cos a, sin a) + std n with one of NUM_ANGLES angles a and n ~ N(0, I). The condition is the vector (cos a, sin a);
zeros ask for nothing. Given the angle the data are Gaussian; over all angles they are a mixture.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dynamics.data import DataOptions, DataSource
from dynamics.data.source import WHOLE
from dynamics.flow.condition import Condition
from dynamics.flow.path import Shape, expand
from dynamics.models.linear import Linear
from dynamics.oracles import GaussianOracle, MixtureOracle
from dynamics.rng import generator

NUM_ANGLES = 12


def directions() -> Tensor:
    """Return (cos a, sin a) of all angles, [NUM_ANGLES, 2]."""
    angles = torch.arange(NUM_ANGLES) * (2 * math.pi / NUM_ANGLES)
    return torch.stack([angles.cos(), angles.sin()], 1)


@dataclass(frozen=True)
class Direction(Condition):
    """A unit vector [B, 2]; zeros are null."""

    def embedding(self, dim: int) -> nn.Module:
        return Linear(2, dim)

    def null(self, c: Tensor) -> Tensor:
        return torch.zeros_like(c)

    def example(self, num_rows: int) -> Tensor:
        return torch.zeros(num_rows, 2)

    def draw(self, num_rows: int, mode: Literal["uniform", "balanced"], stream: torch.Generator) -> Tensor:
        if mode == "balanced":
            return directions()[torch.arange(num_rows) % NUM_ANGLES]
        return directions()[torch.randint(NUM_ANGLES, (num_rows,), generator=stream)]


class RingOptions(DataOptions):
    """A ring of points in the plane."""

    name: Literal["ring"] = "ring"
    std: float = Field(default=0.1, gt=0)
    """Standard deviation around each point of the ring."""

    def load(self) -> DataSource:
        return Ring(self.std)

    def dimensions(self) -> tuple[Shape, Condition]:
        return (2, 1, 1), Direction()


@dataclass(frozen=True, eq=False)
class Ring:
    """The data: fresh samples at every step."""

    std: float

    name = "ring"
    source = "made up"
    licence = "CC0"
    num_classes = 0
    shape: Shape = (2, 1, 1)
    condition: Condition = Direction()
    pictures = False
    drawn_by_rank = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(f"ring {NUM_ANGLES} {self.std}".encode()).hexdigest()

    def batch(self, seed: int, step: int, batch_size: int, share: slice = WHOLE) -> tuple[Tensor, Tensor]:
        return self._sample(batch_size, generator(seed, "ring", step))

    def reference(self) -> tuple[Tensor, Tensor]:
        return self._sample(1000, generator(0, "ring reference"))

    def _sample(self, num: int, stream: torch.Generator) -> tuple[Tensor, Tensor]:
        c = Direction().draw(num, "uniform", stream)
        return (c + self.std * torch.randn(num, 2, generator=stream)).view(num, 2, 1, 1), c

    def quantise(self, x: Tensor) -> Tensor:
        return x

    def oracle(self) -> "RingOracle":
        return RingOracle(self.std)

    def features(self) -> "Plane":
        return Plane()


class RingOracle:
    """The exact velocities: of a Gaussian around each direction, of their mixture where nothing is asked for."""

    def __init__(self, std: float) -> None:
        self.one, centres = GaussianOracle(std), directions().double()
        spread = torch.eye(2, dtype=torch.float64).expand(NUM_ANGLES, 2, 2) * std**2
        self.all = MixtureOracle(centres, spread, torch.full((NUM_ANGLES,), 1 / NUM_ANGLES, dtype=torch.float64))

    def u(self, z: Tensor, t: Tensor, r: Tensor, c: Any = None) -> Tensor:
        free = self.all.u(z, t, r)
        if c is None:
            return free
        m = c.to(z).view(z.shape)
        asked = c.abs().sum(1) > 0
        # around its centre m the path is that of centred data, and the centre moves by -m
        return torch.where(expand(asked, z), self.one.u(z - (1 - expand(t, z)) * m, t, r) - m, free)

    def v(self, z: Tensor, t: Tensor, c: Any = None) -> Tensor:
        return self.u(z, t, t, c)


class Plane:
    """The points themselves are the feature space."""

    name, sha256 = "plane", "identity"

    def features(self, x: Tensor) -> Tensor:
        return x.flatten(1).double().cpu()

    @cached_property
    def classify(self) -> None:
        return None
