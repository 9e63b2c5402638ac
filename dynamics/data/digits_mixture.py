"""A class-conditional Gaussian mixture that looks like digits: unlimited data whose exact velocities are known."""

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dynamics.data.digits import load_digits
from dynamics.data.population import GaussianMixtureSet
from dynamics.data.source import Embedded
from dynamics.flow.condition import ClassLabels
from dynamics.flow.path import Shape

# On digits, mean held-out log-likelihood per image of 4 folds: 1 component a class 16.0, 2: 15.5, 3: 11.8, 4: 6.9
# (reg_covar 0.01; at 0.02 they are 9.9, 11.3, 10.5, 9.0). Two is the most that costs next to nothing.
COMPONENTS_PER_CLASS = 2
REG_COVAR = 0.01


class DigitsMixture(Embedded):
    """A Gaussian mixture fitted to the digits: unlimited samples whose exact velocities are known."""

    name: Literal["digits-mixture"] = "digits-mixture"

    def load(self) -> GaussianMixtureSet:
        return load_digits_mixture()

    def dimensions(self) -> tuple[Shape, ClassLabels]:
        return (1, 8, 8), ClassLabels(10)


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
