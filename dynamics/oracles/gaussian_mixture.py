"""A mixture of Gaussians."""

import torch
from torch import Tensor

from dynamics.options import invalid
from dynamics.oracles.posterior import PosteriorOracle, by_class


class MixtureOracle(PosteriorOracle):
    """A Gaussian mixture with full covariances, class-conditional: the population truth with unlimited data."""

    def __init__(
        self, means: Tensor, covariances: Tensor, weights: Tensor, labels: Tensor | None = None, num_steps: int = 32
    ) -> None:
        """Take means [K, D], covariances [K, D, D], weights [K] (sum 1) and the class of each component [K] long."""
        k, d = means.shape
        if covariances.shape != (k, d, d) or weights.shape != (k,) or (labels is not None and labels.shape != (k,)):
            received = (tuple(means.shape), tuple(covariances.shape), tuple(weights.shape))
            raise invalid("mixture", received, "means [K, D], covariances [K, D, D], weights [K]", "check the shapes")
        self.means, self.labels = means.double(), labels
        eigenvalues, self.basis = torch.linalg.eigh(covariances.double())
        if float(eigenvalues.min()) < 0:
            raise invalid("covariances", float(eigenvalues.min()), "no negative eigenvalue", "add a ridge")
        self.eigenvalues, self.log_weights = eigenvalues, weights.double().log()
        self.num_classes = 0 if labels is None else int(labels.max()) + 1
        self.num_steps = num_steps

    def posterior(self, z: Tensor, t: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        if c is None or self.labels is None:
            return self._given(torch.arange(len(self.means)), z, t)
        x_hat, e_hat = torch.zeros_like(z), torch.zeros_like(z)
        for rows, components in by_class(c, self.labels, self.num_classes):
            of_x, of_e = self._given(components, z[rows], t[rows])
            x_hat, e_hat = x_hat.index_copy(0, rows, of_x), e_hat.index_copy(0, rows, of_e)
        return x_hat, e_hat

    def _given(self, components: Tensor, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior means of x and e, given that x comes from one of some components."""
        means, basis = self.means[components], self.basis[components]
        eigenvalues, s = self.eigenvalues[components], t[:, None, None]
        centred = z[:, None, :] - (1 - s) * means
        rotated = torch.einsum("bkd,kde->bke", centred, basis)
        variance = ((1 - s) ** 2 * eigenvalues + s**2).clamp(min=1e-300)
        whitened = rotated / variance
        logits = self.log_weights[components] - (rotated * whitened + variance.log()).sum(2) / 2
        mass = logits.softmax(1)[:, :, None]
        x_hat = (mass * means).sum(1) + torch.einsum("bke,kde->bd", mass * (1 - s) * eigenvalues * whitened, basis)
        return x_hat, torch.einsum("bke,kde->bd", mass * s * whitened, basis)
