"""A class-conditional Gaussian mixture that looks like digits: unlimited data whose exact velocities are known."""

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dynamics.data.cache import cache_folder
from dynamics.data.digits import load_digits
from dynamics.data.source import WHOLE, Embedded
from dynamics.features import Extractor, packaged_extractor, trained_extractor
from dynamics.flow.condition import ClassLabels
from dynamics.flow.path import Shape
from dynamics.options import invalid
from dynamics.oracles import MixtureOracle
from dynamics.rng import generator

# On digits, mean held-out log-likelihood per image of 4 folds: 1 component a class 16.0, 2: 15.5, 3: 11.8, 4: 6.9
# (reg_covar 0.01; at 0.02 they are 9.9, 11.3, 10.5, 9.0). Two is the most that costs next to nothing.
COMPONENTS_PER_CLASS = 2
REG_COVAR = 0.01
NUM_REFERENCE = 10_000


@dataclass(frozen=True, eq=False)
class GaussianMixtureSet:
    """A distribution p(x, y) = sum over components k with labels[k] = y of weights[k] N(x; means[k], covariances[k]).

    Samples are exact: neither rounded to pixel levels nor clamped to [-1, 1].

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

    drawn_by_rank = False

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
    def condition(self) -> ClassLabels:
        """Class labels 0..K-1; K itself is the null class."""
        return ClassLabels(self.num_classes)

    @cached_property
    def sha256(self) -> str:
        """Hash of the parameters."""
        digest = hashlib.sha256(json.dumps([list(self.shape), len(self.weights), self.num_classes]).encode())
        for value in (self.means, self.covariances, self.weights):
            digest.update(value.numpy().astype("<f8").tobytes())
        digest.update(self.labels.numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    @cached_property
    def _factors(self) -> Tensor:
        factors: Tensor = torch.linalg.cholesky(self.covariances)
        return factors

    def batch(self, seed: int, step: int, batch_size: int, share: slice = WHOLE) -> tuple[Tensor, Tensor]:
        """Return the global batch of a step, whatever the share: fresh samples x [B, C, H, W] float32, y [B] long."""
        if step < 0:
            raise invalid("step", step, "step >= 0", "count steps from 0")
        return self.sample(batch_size, generator(seed, "mixture", step))

    def reference(self) -> tuple[Tensor, Tensor]:
        """Return 10,000 samples of a fixed seed, the same for every run."""
        return self.sample(NUM_REFERENCE, generator(0, "mixture reference"))

    def quantise(self, x: Tensor) -> Tensor:
        """Return x as it is: the mixture has no pixel levels."""
        return x

    def oracle(self) -> MixtureOracle:
        """Return the exact velocities of the population."""
        return MixtureOracle(self.means, self.covariances, self.weights, self.labels)

    def features(self) -> Extractor | None:
        """Return the features of a classifier; None of points, and of one class, which has nothing to teach."""
        if self.classifier is not None:
            return packaged_extractor(self.classifier)
        return trained_extractor(self, cache_folder()) if self.pictures and self.num_classes > 1 else None

    def sample(self, num_samples: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw independent samples.

        Args:
            num_samples: Number of samples B >= 1.
            random: A CPU generator; it is advanced.

        Returns:
            x [B, C, H, W] float32 and y [B] long.
        """
        if num_samples < 1:
            raise invalid("batch_size", num_samples, "batch_size >= 1", "pass the number of samples to draw")
        k = torch.multinomial(self.weights, num_samples, replacement=True, generator=random)
        e = torch.randn(num_samples, self.means.shape[1], dtype=torch.float64, generator=random)
        x = torch.empty_like(e)
        for component in sorted(set(k.tolist())):
            rows = k == component
            x[rows] = self.means[component] + e[rows] @ self._factors[component].T
        return x.float().reshape(num_samples, *self.shape), self.labels[k]


class DigitsMixture(Embedded):
    """A Gaussian mixture fitted to the digits: unlimited samples whose exact velocities are known."""

    name: Literal["digits-mixture"] = "digits-mixture"

    def load(self) -> GaussianMixtureSet:
        return load_digits_mixture()


@lru_cache(maxsize=1)
def load_digits_mixture() -> GaussianMixtureSet:
    """Return the mixture fitted to digits: 2 full-covariance components for each class, in about 0.1 s.

    Parameters are rounded to 1e-6, so that two machines whose arithmetic differs in the last bit agree on `sha256`.

    Example:
        >>> data = load_digits_mixture()
        >>> data.name, tuple(data.covariances.shape), data.shape
        ('digits-mixture', (20, 64, 64), (1, 8, 8))
    """
    from sklearn.mixture import GaussianMixture  # as in digits.py

    x, y = load_digits().reference()
    rows, classes = x.flatten(1).double().numpy(), y.numpy()
    means, covariances, weights = [], [], []
    for label in range(10):
        members = rows[classes == label]
        fit = GaussianMixture(COMPONENTS_PER_CLASS, covariance_type="full", reg_covar=REG_COVAR, random_state=0)
        fit.fit(members)
        means.append(fit.means_)
        covariances.append((fit.covariances_ + fit.covariances_.transpose(0, 2, 1)) / 2)
        weights.append(fit.weights_ * (len(members) / len(rows)))
    probabilities = _rounded(weights)
    return GaussianMixtureSet(
        means=_rounded(means),
        covariances=_rounded(covariances),
        weights=probabilities / probabilities.sum(),
        labels=torch.arange(10).repeat_interleave(COMPONENTS_PER_CLASS),
        shape=(1, 8, 8),
        num_classes=10,
        name="digits-mixture",
        source="Gaussian mixture fitted to scikit-learn load_digits (UCI Optical Recognition of Handwritten Digits)",
        licence="CC BY 4.0",
        classifier="digits",
    )


def _rounded(parts: list[np.ndarray]) -> Tensor:
    # adding zero turns -0.0 into 0.0, which compare equal but hash differently
    return torch.from_numpy(np.concatenate(parts).round(6) + 0.0)
