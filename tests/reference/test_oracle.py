"""The exact velocities against other ways to compute them: ODE solvers, brute force, Monte Carlo, additivity.

Errors are relative to the root mean square of the exact velocity over the whole table of times, because u* itself
passes through zero (for std = 1, u*(z, 1, 0) = 0).
"""

import math

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from dynamics.data import DataOptions, Digits
from dynamics.flow.path import expand, interpolate
from dynamics.oracles import EmpiricalOracle, GaussianOracle, GuidedOracle, MixtureOracle, Oracle, PosteriorOracle

TIMES = [
    (1.0, 0.0), (1.0, 1.0), (1.0, 0.5), (1.0, 0.999), (1.0, 1e-4), (0.9, 0.1), (0.7, 0.7), (0.5, 0.0), (0.5, 0.3),
    (0.3, 0.3), (0.3, 0.2), (0.1, 0.0), (0.1, 0.05), (0.02, 0.0), (0.02, 0.01), (5e-3, 0.0), (1e-3, 0.0),
    (1e-3, 1e-3), (0.0, 0.0),
]  # fmt: skip
STDS = [1.0, 0.5, 0.1, 0.05]
DIM, COPIES = 4, 8


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def table(copies: int = COPIES) -> tuple[Tensor, Tensor]:
    t, r = torch.tensor(TIMES, dtype=torch.float64).repeat_interleave(copies, 0).unbind(1)
    return t, r


def gaussian_rows(std: float) -> tuple[Tensor, Tensor, Tensor]:
    t, r = table()
    z, _ = interpolate(std * normal(len(t), DIM, seed=0), normal(len(t), DIM, seed=1), t)
    return z, t, r


def digit_rows(name: str) -> tuple[PosteriorOracle, Tensor, Tensor, Tensor, Tensor]:
    """Rows of every time in the table, two of three with their class and one without."""
    data = DataOptions.member(name)().load()
    t, r = table(copies=2)
    x, y = data.reference()
    y = y[: len(t)].clone()
    y[::3] = data.num_classes
    z, _ = interpolate(x[: len(t)].double(), normal(len(t), *data.shape, seed=2), t)
    return data.oracle(), z, t, r, y


def worst(found: Tensor, exact: Tensor) -> float:
    """Largest row error over the rms of the exact velocity."""
    return float((found - exact).flatten(1).square().mean(1).sqrt().max() / exact.square().mean().sqrt())


def along_the_path(oracle: Oracle, z: Tensor, t: Tensor, r: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """u, and du/dt where z moves with v while r stays."""
    one = torch.ones_like(t)
    return torch.func.jvp(lambda z, t, r: oracle.u(z, t, r), (z, t, r), (v, one, 0 * one))


def mixture_of_one(std: float) -> MixtureOracle:
    eye = torch.eye(DIM, dtype=torch.float64)
    return MixtureOracle(torch.zeros(1, DIM), std**2 * eye[None], torch.ones(1))


def two_classes() -> tuple[Tensor, Tensor]:
    return normal(6, 2, seed=5), torch.tensor([0, 0, 1, 1, 1, 0])


# ---- one Gaussian -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("std", STDS)
def test_gaussian_equals_a_numerical_ode(std: float) -> None:
    """dz/dt = z (t - (1-t) q^2) / s^2 (closed form), solved by an independent program."""
    oracle = GaussianOracle(std)
    for t, r in TIMES:
        if t - r < 1e-3:
            continue

        def v(a: float, z: list[float]) -> list[float]:
            return [z[0] * (a - (1 - a) * std**2) / ((1 - a) ** 2 * std**2 + a**2)]

        end = solve_ivp(v, (t, r), [0.7], rtol=1e-11, atol=1e-13, method="DOP853").y[0, -1]
        found = oracle.u(*(torch.tensor([a], dtype=torch.float64) for a in (0.7, t, r)))
        assert float(found) == pytest.approx((0.7 - end) / (t - r), abs=1e-8), (t, r)


@pytest.mark.parametrize("std", STDS)
def test_gaussian_velocity_is_the_mean_of_e_minus_x(std: float) -> None:
    """v* = Cov(e - x, z) / Var(z) z, from the joint Gaussian law."""
    z, t, _ = gaussian_rows(std)
    slope = (t - (1 - t) * std**2) / ((1 - t) ** 2 * std**2 + t**2)
    torch.testing.assert_close(GaussianOracle(std).v(z, t), slope[:, None] * z, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("std", STDS)
def test_gaussian_transport_keeps_the_law(std: float) -> None:
    """z_r = z_t s(r)/s(t): the ODE maps the marginal at t to the marginal at r."""
    z, t, r = gaussian_rows(std)
    s_t, s_r = (((1 - a) ** 2 * std**2 + a**2).sqrt()[:, None] for a in (t, r))
    z_r = z - (t - r)[:, None] * GaussianOracle(std).u(z, t, r)
    torch.testing.assert_close(z_r, z * s_r / s_t, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("std", STDS)
def test_meanflow_identity_of_the_exact_gaussian(std: float) -> None:
    """u = v - (t - r) du/dt holds exactly, so the identity we train on has the right solution."""
    oracle = GaussianOracle(std)
    z, t, r = gaussian_rows(std)
    v = oracle.v(z, t)
    u, du_dt = along_the_path(oracle, z, t, r, v)
    assert float((u - (v - expand(t - r, z) * du_dt)).abs().max()) < 1e-6


# ---- mixtures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("std", STDS)
def test_mixture_of_one_component_equals_the_gaussian(std: float) -> None:
    z, t, r = gaussian_rows(std)
    exact, mixture = GaussianOracle(std), mixture_of_one(std)
    assert worst(mixture.u(z, t, r), exact.u(z, t, r)) < 1e-4
    assert worst(mixture.v(z, t), exact.v(z, t)) < 1e-12


@pytest.mark.parametrize("std", STDS)
def test_meanflow_identity_of_the_mixture(std: float) -> None:
    """To 1e-4, the error of 32 Runge-Kutta steps, instead of 1e-6."""
    z, t, r = gaussian_rows(std)
    oracle = mixture_of_one(std)
    v = oracle.v(z, t)
    u, du_dt = along_the_path(oracle, z, t, r, v)
    assert worst(v - expand(t - r, z) * du_dt, u) < 1e-4


def test_mixture_posterior_equals_gaussian_conditioning() -> None:
    """E[x | z] of each component by the textbook formula with matrix inverses."""
    k, d = 3, 4
    means, roots = normal(k, d, seed=3), normal(k, d, d, seed=4)
    covariances = roots @ roots.mT / d + 0.01 * torch.eye(d, dtype=torch.float64)
    weights, labels = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64), torch.tensor([0, 1, 1])
    oracle = MixtureOracle(means, covariances, weights, labels)
    for t in (1.0, 0.6, 0.05, 1e-3):
        z = normal(7, d, seed=6)
        for label in (0, 1, 2):
            mass, x_hat = [], []
            for mean, covariance, weight, own in zip(means, covariances, weights, labels, strict=True):
                marginal = (1 - t) ** 2 * covariance + t**2 * torch.eye(d, dtype=torch.float64)
                density = torch.distributions.MultivariateNormal((1 - t) * mean, marginal).log_prob(z)
                allowed = label in (2, int(own))
                mass.append(density + weight.log() if allowed else torch.full_like(density, -math.inf))
                gain = (1 - t) * covariance @ torch.linalg.inv(marginal)
                x_hat.append(mean + (z - (1 - t) * mean) @ gain.T)
            m = torch.einsum("kb,kbd->bd", torch.stack(mass).softmax(0), torch.stack(x_hat))
            found = oracle.v(z, torch.full((7,), t, dtype=torch.float64), torch.full((7,), label))
            assert worst(found, (z - m) / t) < 1e-8, (t, label)


def test_mixture_is_exact_at_the_data() -> None:
    """At t = 0 the noise is independent of z = x: v = -x for every class."""
    oracle, z, _, _, y = digit_rows("digits-mixture")
    torch.testing.assert_close(oracle.v(z, torch.zeros(len(z)), y), -z, rtol=1e-9, atol=1e-9)


# ---- finite data --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [1.0, 0.8, 0.3, 0.1])
def test_empirical_velocity_equals_brute_force(t: float) -> None:
    x, labels = two_classes()
    oracle = EmpiricalOracle(x, labels)
    z = normal(5, 2, seed=7)
    for label in (0, 1, 2):
        for row in z:
            density = [
                math.exp(-float(((row - (1 - t) * point) ** 2).sum()) / (2 * t**2)) if label in (2, int(own)) else 0.0
                for point, own in zip(x, labels, strict=True)
            ]
            weight = torch.tensor(density, dtype=torch.float64) / sum(density)
            expected = (row - (weight[:, None] * x).sum(0)) / t
            found = oracle.v(row[None], torch.tensor([t], dtype=torch.float64), torch.tensor([label]))[0]
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("label", [None, 0, 1])
def test_empirical_velocity_is_the_regression_of_samples(label: int | None) -> None:
    """Monte Carlo: v - v*(z_t, t) is uncorrelated with every function of (z_t, t), within 5 standard errors."""
    points, labels = two_classes()
    oracle = EmpiricalOracle(points, labels)
    members = points if label is None else points[labels == label]
    num, stream = 100_000, torch.Generator().manual_seed(8)
    x = members[torch.randint(len(members), (num,), generator=stream)]
    t = 0.05 + 0.95 * torch.rand(num, generator=stream, dtype=torch.float64)
    z, v = interpolate(x, torch.randn(num, 2, generator=stream, dtype=torch.float64), t)
    best = oracle.v(z, t, None if label is None else torch.full((num,), label))
    residual = v - best
    for f in (torch.ones_like(z), z, z.tanh(), best, expand(t, z) * z, (3 * z).sin(), best.flip(1)):
        product = residual * f
        error = product.std(0) / num**0.5
        assert bool((product.mean(0).abs() < 5 * error).all())
    slipped = EmpiricalOracle(points * 1.05, labels).v(z, t, None if label is None else torch.full((num,), label))
    product = (v - slipped) * slipped  # the test can tell a wrong field
    assert bool((product.mean(0).abs() > 5 * product.std(0) / num**0.5).any())


def test_empirical_average_velocity_ends_on_a_training_row() -> None:
    oracle, z, t, r, y = digit_rows("digits")
    rows = (r == 0) & (t > 0)
    z, t, y = z[rows], t[rows], y[rows]
    end = (z - expand(t, z) * oracle.u(z, t, torch.zeros_like(t), y)).flatten(1)
    x, labels = Digits().load().reference()
    distance, nearest = torch.cdist(end, x.flatten(1).double()).min(1)
    assert float(distance.max()) < 1e-3
    assert bool(((labels[nearest] == y) | (y == 10)).all())


def test_labels_may_be_absent() -> None:
    points, labels = two_classes()
    z, t, null = normal(3, 2, seed=9), torch.full((3,), 0.5), torch.full((3,), 2)
    with_labels, without = EmpiricalOracle(points, labels), EmpiricalOracle(points)
    for y in (None, null):
        torch.testing.assert_close(with_labels.v(z, t, y), without.v(z, t))
    mixed = with_labels.v(z, t, torch.tensor([0, 2, 1]))
    for row, y in enumerate((0, 2, 1)):
        alone = with_labels.v(z[row : row + 1], t[:1], torch.tensor([y]))[0]
        torch.testing.assert_close(mixed[row], alone)


# ---- every ODE oracle ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits", "digits-mixture"])
def test_average_velocities_add_up(name: str) -> None:
    """(t-r) u(z_t, t, r) = (t-s) u(z_t, t, s) + (s-r) u(z_s, s, r)."""
    oracle, z, t, r, y = digit_rows(name)
    s = r + 0.6 * (t - r)
    first = oracle.u(z, t, s, y)
    z_s = z - expand(t - s, z) * first
    parts = expand(t - s, z) * first + expand(s - r, z) * oracle.u(z_s, s, r, y)
    assert worst(parts, expand(t - r, z) * oracle.u(z, t, r, y)) < 1e-4


@pytest.mark.parametrize("name", ["digits", "digits-mixture"])
def test_few_steps_suffice(name: str) -> None:
    """32 Runge-Kutta steps against 128, with class labels."""
    oracle, z, t, r, y = digit_rows(name)
    assert oracle.num_steps == 32
    few = oracle.u(z, t, r, y)
    oracle.num_steps = 128
    assert worst(few, oracle.u(z, t, r, y)) < 1e-4


@pytest.mark.parametrize("name", ["digits", "digits-mixture"])
def test_r_equals_t_is_the_instantaneous_velocity(name: str) -> None:
    oracle, z, t, _, y = digit_rows(name)
    assert worst(oracle.u(z, t, t, y), oracle.v(z, t, y)) < 1e-8


def test_velocity_keeps_shape_and_dtype() -> None:
    oracle, z, t, r, y = digit_rows("digits-mixture")
    u = oracle.u(z[:4].float(), t[:4].float(), r[:4].float(), y[:4])
    assert u.dtype == torch.float32
    assert u.shape == z[:4].shape


# ---- guidance -----------------------------------------------------------------------------------------------------


def test_guidance_of_scale_one_changes_nothing() -> None:
    base, z, t, r, y = digit_rows("digits-mixture")
    guided = GuidedOracle(base, scale=1.0)
    torch.testing.assert_close(guided.u(z, t, r, y), base.u(z, t, r, y), rtol=1e-8, atol=1e-8)
    assert torch.equal(guided.v(z, t, y), base.v(z, t, y))


def test_guided_velocity_mixes_both_inside_the_interval() -> None:
    base, z, t, _, y = digit_rows("digits-mixture")
    guided = GuidedOracle(base, scale=2.5, t_start=0.05, t_end=0.7).v(z, t, y)
    con, unc = base.v(z, t, y), base.v(z, t, torch.full_like(y, 10))
    inside = (t >= 0.05) & (t <= 0.7)
    mixed = torch.where(expand(inside, z), 2.5 * con + (1 - 2.5) * unc, con)
    torch.testing.assert_close(guided, mixed, rtol=1e-9, atol=1e-9)
    labelled = inside & (y != 10)
    assert bool(labelled.any())
    assert float((guided - con)[labelled].abs().max()) > 0.1


def test_null_class_is_unguided() -> None:
    base, z, t, r, y = digit_rows("digits-mixture")
    guided, null = GuidedOracle(base, scale=2.5), y == 10
    torch.testing.assert_close(guided.u(z, t, r, y)[null], base.u(z, t, r, y)[null], rtol=1e-9, atol=1e-9)
    nothing = torch.full_like(y, 10)
    torch.testing.assert_close(guided.v(z, t, nothing), base.v(z, t, None), rtol=1e-12, atol=1e-12)


def test_guided_velocities_add_up() -> None:
    base, z, t, r, y = digit_rows("digits-mixture")
    guided = GuidedOracle(base, scale=2.0)
    s = r + 0.6 * (t - r)
    first = guided.u(z, t, s, y)
    parts = expand(t - s, z) * first + expand(s - r, z) * guided.u(z - expand(t - s, z) * first, s, r, y)
    assert worst(parts, expand(t - r, z) * guided.u(z, t, r, y)) < 1e-3


def test_guided_velocity_of_an_interval_follows_its_own_path() -> None:
    """u over [r, t] across both edges against many small steps of the guided v itself."""
    base, z, _, _, y = digit_rows("digits-mixture")
    z, y = z[:12], y[:12]
    guided = GuidedOracle(base, scale=2.5, t_start=0.3, t_end=0.7)
    t, r = torch.full_like(z[:, 0, 0, 0], 0.9), torch.full_like(z[:, 0, 0, 0], 0.1)
    path, num_steps = z, 40
    for k in range(num_steps):  # Runge-Kutta, whose steps meet the edges 0.7 and 0.3 and look at neither from beyond
        a, h = t - (t - r) * k / num_steps, (t - r) / num_steps
        half, full = expand(h / 2, z), expand(h, z)
        first = guided.v(path, a - 1e-9, y)
        second = guided.v(path - half * first, a - h / 2, y)
        third = guided.v(path - half * second, a - h / 2, y)
        fourth = guided.v(path - full * third, a - h + 1e-9, y)
        path = path - full / 6 * (first + 2 * second + 2 * third + fourth)
    assert worst(expand(t - r, z) * guided.u(z, t, r, y), z - path) < 1e-5


def test_guided_field_is_the_fixed_point_of_the_training_target() -> None:
    """w v + (1-w-k) v_unc + k v_con = v_con at scale w / (1 - k)."""
    base, z, t, _, y = digit_rows("digits")
    w, k = 0.2, 0.92
    guided = GuidedOracle(base, scale=w / (1 - k))
    v, v_unc, v_con = base.v(z, t, y), base.v(z, t, torch.full_like(y, 10)), guided.v(z, t, y)
    target = torch.where(expand(y == 10, z), v, w * v + (1 - w - k) * v_unc + k * v_con)
    assert worst(target, v_con) < 1e-8


# ---- errors -------------------------------------------------------------------------------------------------------


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"std: received 0\.0; allowed: std > 0; remedy"):
        GaussianOracle(0.0)
    with pytest.raises(ValueError, match=r"x, y: received \(0, None\)"):
        EmpiricalOracle(torch.zeros(0, 2))
    with pytest.raises(ValueError, match=r"x, y: received \(3, 2\)"):
        EmpiricalOracle(torch.zeros(3, 2), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="mixture: received"):
        MixtureOracle(torch.zeros(2, 3), torch.zeros(2, 3, 3), torch.ones(3))
    with pytest.raises(ValueError, match="covariances: received"):
        MixtureOracle(torch.zeros(1, 2), -torch.eye(2)[None], torch.ones(1))
