r"""A Gaussian mixture whose covariances are of low rank plus one ridge, at the price of its factors.

The covariances at time t are a^2 F F' + q I with a = 1 - t and q = a^2 ridge + t^2. F = V diag(sqrt(lambda)) has few
columns, and Woodbury's identity gives the posterior means of component k from its few numbers y = V' (z - a m) alone:

    h = V diag(lambda / (a^2 lambda + q)) y / q,   E[x] = (t^2 / q) m + (a ridge / q) z + a t^2 h,
                                                   E[e] = (t / q) (z - a m) - t a^2 h.

Neither divides by t or 1 - t. What all components share of the log-density, |z|^2 / (2 q), falls away.
"""

import torch
from torch import Tensor

from dynamics.options import invalid
from dynamics.oracles.posterior import PosteriorOracle, by_class


class LowRankMixtureOracle(PosteriorOracle):
    """Components N(means[k], factors[k] factors[k]' + ridge I).

    Example:
        >>> one = torch.ones(1)
        >>> oracle = LowRankMixtureOracle(torch.zeros(1, 3), torch.zeros(1, 3, 1), 1.0, one)
        >>> bool(oracle.u(torch.ones(1, 3), one, 0 * one).abs().max() < 1e-4)  # data and noise have the same law
        True
    """

    def __init__(
        self,
        means: Tensor,
        factors: Tensor,
        ridge: float,
        weights: Tensor,
        labels: Tensor | None = None,
        num_steps: int = 32,
    ) -> None:
        """Take means [K, D], factors [K, D, R], ridge > 0, weights [K] (sum 1) and the class of each [K] long."""
        k, d = means.shape
        if factors.ndim != 3 or factors.shape[:2] != (k, d) or weights.shape != (k,):
            received = (tuple(means.shape), tuple(factors.shape), tuple(weights.shape))
            raise invalid("mixture", received, "means [K, D], factors [K, D, R], weights [K]", "check the shapes")
        if not ridge > 0:
            raise invalid("ridge", ridge, "ridge > 0", "pass the variance outside the factors")
        self.means, self.ridge, self.labels = means.double(), ridge, labels
        basis, singular, _ = torch.linalg.svd(factors.double(), full_matrices=False)
        self.basis, self.eigenvalues = basis, singular.square()
        self.log_weights = weights.double().log()
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
        means, basis, eigenvalues = self.means[components], self.basis[components], self.eigenvalues[components]
        flat = basis.transpose(1, 2).flatten(0, 1)  # [K R, D]
        s, a = t[:, None], 1 - t[:, None]
        q = a**2 * self.ridge + s**2
        offsets = torch.einsum("kd,kdr->kr", means, basis)
        y = (z @ flat.T).view(len(z), *offsets.shape) - a[:, :, None] * offsets
        variance = (a**2)[:, :, None] * eigenvalues + q[:, :, None]
        shrunk = eigenvalues * y / variance / q[:, :, None]
        logits = self.log_weights[components] + (a * (z @ means.T) - a**2 * means.square().sum(1) / 2) / q
        logits = logits + (a**2 * (shrunk * y).sum(2) - variance.log().sum(2)) / 2
        mass = logits.softmax(1)
        m, h = mass @ means, (mass[:, :, None] * shrunk).flatten(1) @ flat
        x_hat = s**2 / q * m + a * self.ridge / q * z + a * s**2 * h
        return x_hat, s / q * (z - a * m) - s * a**2 * h
