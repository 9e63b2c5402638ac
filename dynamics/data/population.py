"""Distributions that are known: unlimited samples, and exact velocities of the whole population."""

import hashlib
import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dynamics.data.cache import cache_folder
from dynamics.data.source import WHOLE
from dynamics.features import Extractor, packaged_extractor, trained_extractor
from dynamics.flow.condition import ClassLabels
from dynamics.flow.path import Shape
from dynamics.options import invalid
from dynamics.oracles import MixtureOracle, UniformBoxesOracle
from dynamics.rng import generator

NUM_REFERENCE = 10_000
FEW_NUMBERS = 8
"""Up to so many numbers a row, samples of all components are drawn in one product."""


class Population(ABC):
    """A distribution p(x, y) from which each step draws fresh samples.

    Samples are exact: neither rounded to pixel levels nor clamped to [-1, 1]. A subclass is a frozen dataclass of these
    fields, of its parameters, and of source and licence.
    """

    name: str
    shape: Shape
    num_classes: int
    pictures: bool = False
    classifier: str | None = None

    drawn_by_rank = False

    @property
    @abstractmethod
    def parameters(self) -> tuple[Tensor, ...]:
        """Everything that decides the distribution: float64 by component, labels [K] long last."""

    @abstractmethod
    def sample(self, num_samples: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw independent samples.

        Args:
            num_samples: Number of samples B >= 1.
            random: A CPU generator; it is advanced.

        Returns:
            x [B, C, H, W] float32 and y [B] long.
        """

    @property
    def condition(self) -> ClassLabels:
        """Class labels 0..K-1; K itself is the null class."""
        return ClassLabels(self.num_classes)

    @cached_property
    def sha256(self) -> str:
        """Hash of the parameters."""
        *numbers, labels = self.parameters
        digest = hashlib.sha256(json.dumps([list(self.shape), len(labels), self.num_classes]).encode())
        for value in numbers:
            digest.update(value.numpy().astype("<f8").tobytes())
        digest.update(labels.numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    def batch(self, seed: int, step: int, batch_size: int, share: slice = WHOLE) -> tuple[Tensor, Tensor]:
        """Return the global batch of a step, whatever the share: fresh samples x [B, C, H, W] float32, y [B] long."""
        if step < 0:
            raise invalid("step", step, "step >= 0", "count steps from 0")
        return self.sample(batch_size, generator(seed, "mixture", step))

    def reference(self) -> tuple[Tensor, Tensor]:
        """Return 10,000 samples of a fixed seed, the same for every run."""
        return self.sample(NUM_REFERENCE, generator(0, "mixture reference"))

    def quantise(self, x: Tensor) -> Tensor:
        """Return x as it is: a distribution has no pixel levels."""
        return x

    def features(self) -> Extractor | None:
        """Return the features of a classifier; None of what is no picture, and of one class: nothing to teach it."""
        if self.classifier is not None:
            return packaged_extractor(self.classifier)
        return trained_extractor(self, cache_folder()) if self.pictures and self.num_classes > 1 else None

    def _component(self, weights: Tensor, num_samples: int, random: torch.Generator) -> Tensor:
        """Draw the component of each sample, [B] long."""
        if num_samples < 1:
            raise invalid("batch_size", num_samples, "batch_size >= 1", "pass the number of samples to draw")
        return torch.multinomial(weights, num_samples, replacement=True, generator=random)


@dataclass(frozen=True, eq=False)
class GaussianMixtureSet(Population):
    """A distribution p(x, y) = sum over components k with labels[k] = y of weights[k] N(x; means[k], covariances[k]).

    Args:
        means: Component means [K, D] float64, D = C * H * W in row-major order.
        covariances: Positive definite covariances [K, D, D] float64.
        weights: Probabilities of the components [K] float64, class proportions included; they sum to 1.
        labels: The class of each component [K] long.
        shape: (C, H, W) of one image.
        num_classes: Number of classes.
        name: What results call the data.
        source: Where the parameters come from.
        licence: Under which terms they may be used.
        pictures: Whether x can be shown as images; if not, there are no features either.
        classifier: Classifier of the package whose features compare samples; None trains one on samples.

    Raises:
        ValueError: Shapes or dtypes that do not fit together, weights that are no distribution, covariances that are
            not symmetric positive definite, or labels outside 0..num_classes-1.

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> data = GaussianMixtureSet(one[:, None], one[:, None, None], one, torch.tensor([0]), (1, 1, 1), 1)
        >>> x, y = data.batch(seed=0, step=3, batch_size=5)
        >>> x.shape, y.tolist()
        (torch.Size([5, 1, 1, 1]), [0, 0, 0, 0, 0])
    """

    means: Tensor
    covariances: Tensor
    weights: Tensor
    labels: Tensor
    shape: Shape
    num_classes: int
    name: str = "mixture"
    source: str = "made up"
    licence: str = "none"
    pictures: bool = True
    classifier: str | None = None

    def __post_init__(self) -> None:
        count, dim = len(self.weights), math.prod(self.shape)
        expected = {"means": (count, dim), "covariances": (count, dim, dim), "weights": (count,), "labels": (count,)}
        for field, shape in expected.items():
            value: Tensor = getattr(self, field)
            dtype = torch.long if field == "labels" else torch.float64
            if value.dtype != dtype or value.shape != shape or count == 0:
                raise invalid(
                    field,
                    f"{value.dtype} {list(value.shape)}",
                    f"{dtype} {list(shape)}, at least one component",
                    "give every component a mean, a covariance, a weight and a label",
                )
        if not bool((self.weights > 0).all()) or abs(float(self.weights.sum()) - 1) > 1e-9:
            raise invalid("weights", self.weights.tolist(), "positive, sum 1", "divide the weights by their sum")
        if not (bool(torch.isfinite(self.means).all()) and bool(torch.isfinite(self.covariances).all())):
            raise invalid("means, covariances", "nan or inf", "finite numbers", "check the fit")
        symmetric = torch.equal(self.covariances, self.covariances.mT)
        if not symmetric or bool(torch.linalg.cholesky_ex(self.covariances).info.any()):
            raise invalid("covariances", "not so", "symmetric positive definite", "add a constant to their diagonals")
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= self.num_classes:
            raise invalid("labels", self.labels.tolist(), f"0..{self.num_classes - 1}", "number the classes from 0")

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return self.means, self.covariances, self.weights, self.labels

    @cached_property
    def _factors(self) -> Tensor:
        factors: Tensor = torch.linalg.cholesky(self.covariances)
        return factors

    def oracle(self) -> MixtureOracle:
        """Return the exact velocities of the population."""
        return MixtureOracle(self.means, self.covariances, self.weights, self.labels)

    def sample(self, num_samples: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        k = self._component(self.weights, num_samples, random)
        e = torch.randn(num_samples, self.means.shape[1], dtype=torch.float64, generator=random)
        if self.means.shape[1] <= FEW_NUMBERS:
            x = self.means[k] + (self._factors[k] @ e[:, :, None]).squeeze(2)
        else:
            x = torch.empty_like(e)
            for component in sorted(set(k.tolist())):
                rows = k == component
                x[rows] = self.means[component] + e[rows] @ self._factors[component].T
        return x.float().reshape(num_samples, *self.shape), self.labels[k]


@dataclass(frozen=True, eq=False)
class UniformBoxesSet(Population):
    """A distribution p(x, y) = sum over boxes k with labels[k] = y of weights[k], spread evenly over the box.

    Args:
        low: Lower corners [K, D] float64, D = C * H * W in row-major order.
        high: Upper corners [K, D] float64.
        weights: Probabilities of the boxes [K] float64; they sum to 1.
        labels: The class of each box [K] long.
        shape: (C, H, W) of one x.
        num_classes: Number of classes.
        name: What results call the data.
        source: Where the parameters come from.
        licence: Under which terms they may be used.

    Raises:
        ValueError: Corners or weights that do not fit together, see `UniformBoxesOracle`.

    Example:
        >>> zero, one = torch.zeros(1, 2).double(), torch.ones(1).double()
        >>> data = UniformBoxesSet(zero, zero + 1, one, torch.tensor([0]), (2, 1, 1), 1)
        >>> x, _ = data.batch(seed=0, step=3, batch_size=100)
        >>> bool((x >= 0).all() & (x <= 1).all())
        True
    """

    low: Tensor
    high: Tensor
    weights: Tensor
    labels: Tensor
    shape: Shape
    num_classes: int
    name: str = "boxes"
    source: str = "made up"
    licence: str = "none"

    def __post_init__(self) -> None:
        self.oracle()

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return self.low, self.high, self.weights, self.labels

    def oracle(self) -> UniformBoxesOracle:
        """Return the exact velocities of the population."""
        return UniformBoxesOracle(self.low, self.high, self.weights, self.labels)

    def sample(self, num_samples: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        k = self._component(self.weights, num_samples, random)
        inside = torch.rand(num_samples, self.low.shape[1], dtype=torch.float64, generator=random)
        x = self.low[k] + (self.high - self.low)[k] * inside
        return x.float().reshape(num_samples, *self.shape), self.labels[k]
