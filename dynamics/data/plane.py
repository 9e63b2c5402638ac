"""The field's toys: distributions in the plane, with unlimited samples and exact velocities.

Points are x [B, 2, 1, 1]. Each set lies within about [-2, 2] and has a law that is known: two moons and the spiral ARE
mixtures of narrow Gaussians along a curve, so close together that their density looks even.
"""

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from dynamics.data.population import GaussianMixtureSet, UniformBoxesSet
from dynamics.data.source import DataOptions
from dynamics.flow.path import Shape

POINT: Shape = (2, 1, 1)
STD = 0.1
"""Standard deviation of the Gaussians along a curve; their means lie at most as far apart."""


class Checkerboard(DataOptions):
    """Uniform on the black squares of a board of 4 x 4, side 1, on [-2, 2]^2; one class."""

    name: Literal["checkerboard"] = "checkerboard"

    def load(self) -> UniformBoxesSet:
        return _checkerboard()


class EightGaussians(DataOptions):
    """Eight Gaussians of standard deviation 0.2 on a circle of radius 1.6, a class each."""

    name: Literal["eight-gaussians"] = "eight-gaussians"

    def load(self) -> GaussianMixtureSet:
        return _eight_gaussians()


class TwoMoons(DataOptions):
    """Two half circles that reach into each other, a class each."""

    name: Literal["two-moons"] = "two-moons"

    def load(self) -> GaussianMixtureSet:
        return _two_moons()


class Spiral(DataOptions):
    """Two turns of the spiral of Archimedes; one class."""

    name: Literal["spiral"] = "spiral"

    def load(self) -> GaussianMixtureSet:
        return _spiral()


@lru_cache(maxsize=1)
def _checkerboard() -> UniformBoxesSet:
    corners = [(i - 2, j - 2) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
    low = torch.tensor(corners, dtype=torch.float64)
    weights = torch.full((len(low),), 1 / len(low), dtype=torch.float64)
    labels = torch.zeros(len(low), dtype=torch.long)
    return UniformBoxesSet(low, low + 1, weights, labels, POINT, 1, "checkerboard", "8 squares of side 1")


@lru_cache(maxsize=1)
def _eight_gaussians() -> GaussianMixtureSet:
    angles = np.arange(8) * math.pi / 4
    means = 1.6 * np.stack([np.cos(angles), np.sin(angles)], 1)
    return _points(means, np.arange(8), 0.2, "eight-gaussians", "8 Gaussians on a circle")


@lru_cache(maxsize=1)
def _two_moons() -> GaussianMixtureSet:
    angles = np.linspace(0, math.pi, 40)  # 1.2 pi / 39 < STD apart
    upper = np.stack([np.cos(angles) - 0.5, np.sin(angles) - 0.25], 1)
    means = 1.2 * np.concatenate([upper, -upper])
    return _points(means, np.arange(80) // 40, STD, "two-moons", "Gaussians along two half circles")


@lru_cache(maxsize=1)
def _spiral() -> GaussianMixtureSet:
    # even steps along the curve, whose length up to the angle a is proportional to a sqrt(1 + a^2) + arsinh a
    fine = np.linspace(0.5 * math.pi, 4.5 * math.pi, 100_001)
    length = fine * np.sqrt(1 + fine**2) + np.arcsinh(fine)
    angles = np.interp(np.linspace(length[0], length[-1], 144), length, fine)
    radius = 2 * angles / fine[-1]
    means = np.stack([radius * np.cos(angles), radius * np.sin(angles)], 1)
    return _points(means, np.zeros(144, dtype=np.int64), STD, "spiral", "Gaussians along a spiral of Archimedes")


def _points(
    means: NDArray[np.float64], labels: NDArray[np.int64], std: float, name: str, source: str
) -> GaussianMixtureSet:
    """Return Gaussians of equal weights; means rounded to 1e-6, so that all machines agree on `sha256`."""
    count = len(means)
    return GaussianMixtureSet(
        means=torch.from_numpy(means.round(6) + 0.0),
        covariances=(std**2 * torch.eye(2, dtype=torch.float64)).repeat(count, 1, 1),
        weights=torch.full((count,), 1 / count, dtype=torch.float64),
        labels=torch.from_numpy(labels),
        shape=POINT,
        num_classes=int(labels.max()) + 1,
        name=name,
        source=source,
        pictures=False,
    )
