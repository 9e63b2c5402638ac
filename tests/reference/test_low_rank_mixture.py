"""Low-rank mixtures against the log-density's own gradient, full covariances, and brute-force integration."""

from typing import Any

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.distributions import MultivariateNormal

from dynamics.data import LowRankMixtureSet
from dynamics.oracles import LowRankMixtureOracle, MixtureOracle

DIM, RANK, RIDGE = 6, 2, 0.05
LABELS = torch.tensor([0, 0, 1, 1, 1])
NULL = 2


def parts() -> tuple[Tensor, Tensor, Tensor]:
    stream = torch.Generator().manual_seed(0)
    means = torch.randn(5, DIM, generator=stream, dtype=torch.float64)
    factors = 0.7 * torch.randn(5, DIM, RANK, generator=stream, dtype=torch.float64)
    factors[1] = 0  # a component of one image
    return means, factors, torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25], dtype=torch.float64)


def covariances(factors: Tensor) -> Tensor:
    return factors @ factors.mT + RIDGE * torch.eye(DIM, dtype=torch.float64)


@pytest.fixture(scope="module")
def oracle() -> LowRankMixtureOracle:
    means, factors, weights = parts()
    return LowRankMixtureOracle(means, factors, RIDGE, weights, LABELS)


def rows(n: int = 40) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    z = 1.5 * torch.randn(n, DIM, generator=stream, dtype=torch.float64)
    t = torch.rand(n, generator=stream, dtype=torch.float64)
    t[:4] = torch.tensor([0.0, 1.0, 1e-4, 1 - 1e-6])
    return z, t, t * torch.rand(n, generator=stream, dtype=torch.float64), torch.arange(n) % 3


def test_the_posterior_is_the_gradient_of_the_log_density(oracle: LowRankMixtureOracle) -> None:
    """E[e | z] = -t grad log p_t(z), whatever the class; z = (1-t) E[x] + t E[e]."""
    means, factors, weights = parts()
    z, t, _, c = rows()
    z.requires_grad_()
    a, s = 1 - t[:, None, None, None], t[:, None, None, None]
    spread = a**2 * covariances(factors) + s**2 * torch.eye(DIM, dtype=torch.float64)
    log_p = MultivariateNormal(a[:, :, 0] * means, spread).log_prob(z[:, None])
    allowed = (c[:, None] == NULL) | (c[:, None] == LABELS)
    density = (log_p + weights.log()).masked_fill(~allowed, -torch.inf).logsumexp(1)
    (score,) = torch.autograd.grad(density.sum(), z)
    x_hat, e_hat = oracle.posterior(z.detach(), t, c)
    torch.testing.assert_close(e_hat, -t[:, None] * score, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close((1 - t[:, None]) * x_hat + t[:, None] * e_hat, z.detach(), rtol=1e-9, atol=1e-9)


def test_it_answers_as_the_oracle_of_full_covariances(oracle: LowRankMixtureOracle) -> None:
    means, factors, weights = parts()
    full = MixtureOracle(means, covariances(factors), weights, LABELS)
    z, t, r, c = rows()
    for condition in (c, None):
        torch.testing.assert_close(oracle.v(z, t, condition), full.v(z, t, condition), rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(oracle.u(z, t, r, condition), full.u(z, t, r, condition), rtol=1e-8, atol=1e-8)


def test_u_is_the_average_of_v_along_its_path(oracle: LowRankMixtureOracle) -> None:
    z, t, r, c = rows(8)
    t, r = t.clamp(min=0.2), r.clamp(max=0.1)
    t[0], r[0] = 1.0, 0.0
    for i in range(len(z)):

        def slope(s: float, point: Any, label: Tensor = c[i : i + 1]) -> Any:
            return oracle.v(torch.from_numpy(point)[None], torch.tensor([s], dtype=torch.float64), label)[0].numpy()

        end = solve_ivp(slope, (float(t[i]), float(r[i])), z[i].numpy(), rtol=1e-9, atol=1e-11).y[:, -1]
        brute = (z[i] - torch.from_numpy(end)) / (t[i] - r[i])
        found = oracle.u(z[i : i + 1], t[i : i + 1], r[i : i + 1], c[i : i + 1])[0]
        torch.testing.assert_close(found, brute, rtol=2e-4, atol=2e-4)


def test_moments_of_samples() -> None:
    means, factors, weights = parts()
    data = LowRankMixtureSet(means, factors, RIDGE, weights, LABELS, (1, 2, 3), 2)
    x, y = data.sample(200_000, torch.Generator().manual_seed(0))
    for label in (0, 1):
        share = weights * (label == LABELS)
        assert abs(float((y == label).double().mean() - share.sum())) < 0.005
        share = share / share.sum()
        rows = x[y == label].flatten(1).double()
        mean = share @ means
        second = (share[:, None, None] * (covariances(factors) + means[:, :, None] * means[:, None])).sum(0)
        torch.testing.assert_close(rows.mean(0), mean, rtol=0, atol=0.02)
        torch.testing.assert_close(rows.T.cov(correction=0), second - mean[:, None] * mean, rtol=0, atol=0.05)


def test_bad_mixtures_are_refused() -> None:
    means, factors, weights = parts()
    with pytest.raises(ValueError, match="ridge: received 0"):
        LowRankMixtureOracle(means, factors, 0.0, weights)
    with pytest.raises(ValueError, match="mixture: received"):
        LowRankMixtureOracle(means, factors[:2], RIDGE, weights)
