"""The exact velocities of uniform boxes against numbers of fifty digits and against quadrature."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy.integrate import quad

from dynamics.oracles import EmpiricalOracle, UniformBoxesOracle
from dynamics.oracles.uniform_boxes import truncated_normal

MIDDLES = [0.0, 1e-6, -0.3, 1.0, -2.5, 7.0, 40.0, -1e3]
WIDTHS = [0.0, 1e-9, 1e-3, 0.3, 1.0, 2.1, 4.1, 9.0, 100.0, 3e3]


def fifty_digits(middle: float, width: float) -> tuple[float, float, float]:
    """Logarithm of mean density, mean, and mean position of a truncated normal number, by definition."""
    with mpmath.workdps(50):
        mu, h = mpmath.mpf(middle), mpmath.mpf(width)
        if width == 0:
            return float(mpmath.log(mpmath.npdf(mu))), middle, 0.0
        a, b = abs(mu) - h / 2, abs(mu) + h / 2
        mass = (mpmath.erfc(a / mpmath.sqrt(2)) - mpmath.erfc(b / mpmath.sqrt(2))) / 2
        mean = (mpmath.npdf(a) - mpmath.npdf(b)) / mass * (1 if middle >= 0 else -1)
        return float(mpmath.log(mass / h)), float(mean), float((mean - mu) / h)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("middle", MIDDLES)
def test_truncated_normal(middle: float, width: float) -> None:
    found = truncated_normal(*(torch.tensor([a], dtype=torch.float64) for a in (middle, width)))
    log_density, mean, position = fifty_digits(middle, width)
    assert float(found[0]) == pytest.approx(log_density, rel=1e-12, abs=1e-12)
    assert float(found[1]) == pytest.approx(mean, rel=1e-11, abs=1e-13)
    assert float(found[2]) == pytest.approx(position, rel=1e-9, abs=1e-12 * max(1.0, abs(middle) / max(width, 1.0)))


LOW = torch.tensor([[-2.0, -1.0], [0.5, 0.0], [1.0, -2.0]], dtype=torch.float64)
HIGH = torch.tensor([[-0.5, 1.5], [0.75, 2.0], [2.0, -1.0]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 0])


def by_quadrature(z: np.ndarray, t: float, boxes: list[int]) -> np.ndarray:
    """E[e - x | z], integrating the density of (x, z) over each box."""
    total, moments = 0.0, np.zeros(2)
    for k in boxes:
        integrals = []
        for i in range(2):
            a, b = float(LOW[k, i]), float(HIGH[k, i])
            peak = min(max(z[i] / (1 - t), a), b) if t < 1 else a

            def density(x: float, i: int = i) -> float:
                return math.exp(-((z[i] - (1 - t) * x) ** 2) / (2 * t**2)) / t

            near = [min(max(peak + side * 8 * t, a), b) for side in (-1, 1)]
            cuts = dict.fromkeys([a, near[0], peak, near[1], b])
            pairs = list(zip(sorted(cuts), sorted(cuts)[1:], strict=False))
            zero, one = (
                sum(quad(lambda x, p=p: x**p * density(x), *pair, epsabs=0, epsrel=1e-12)[0] for pair in pairs)
                for p in (0, 1)
            )
            integrals.append((zero / (b - a), one / (b - a)))
        (mass_0, mean_0), (mass_1, mean_1) = integrals
        total += float(WEIGHTS[k]) * mass_0 * mass_1
        moments += float(WEIGHTS[k]) * np.array([mean_0 * mass_1, mass_0 * mean_1])
    x_hat = moments / total
    return (z - x_hat) / t


@pytest.mark.parametrize("t", [1.0, 0.999, 0.8, 0.3, 0.05, 0.01])
@pytest.mark.parametrize("label", [None, 0, 1])
def test_velocity_is_the_integral_over_the_boxes(t: float, label: int | None) -> None:
    oracle = UniformBoxesOracle(LOW, HIGH, WEIGHTS, LABELS)
    boxes = [k for k in range(3) if label is None or int(LABELS[k]) == label]
    stream = np.random.default_rng(0)
    inside = (LOW + (HIGH - LOW) * torch.from_numpy(stream.random((3, 2))))[boxes].numpy()
    rows = (1 - t) * inside + t * stream.standard_normal(inside.shape)
    c = None if label is None else torch.full((len(rows),), label)
    found = oracle.v(torch.from_numpy(rows), torch.full((len(rows),), t, dtype=torch.float64), c)
    expected = np.stack([by_quadrature(row, t, boxes) for row in rows])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8, atol=1e-8)


def test_both_ends_of_time() -> None:
    oracle = UniformBoxesOracle(LOW, HIGH, WEIGHTS, LABELS)
    z = torch.tensor([[-1.0, 0.25], [0.6, 1.0], [1.5, -1.5]], dtype=torch.float64)
    mean = (WEIGHTS[:, None] * (LOW + HIGH) / 2).sum(0)
    one, zero = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(oracle.v(z, one), z - mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(oracle.v(z, zero), -z, rtol=1e-9, atol=1e-9)
    for t in (1 - 1e-5, 1 - 1e-8, 1 - 1e-12):  # the closed form loses all its digits here
        torch.testing.assert_close(oracle.v(z, t * one), z - mean, rtol=0, atol=10 * (1 - t))
    for t in (1e-3, 1e-6, 1e-9, 1e-11):  # inside a box, nothing is known of the noise
        torch.testing.assert_close(oracle.v(z, t * one), -z, rtol=0, atol=3 * t + 1e-4 * (t < 1e-8))


def test_many_points_of_a_box_are_nearly_the_box() -> None:
    """The oracle of a fine lattice, where t is large beside its distances."""
    lattice = torch.cartesian_prod(*[(torch.arange(80, dtype=torch.float64) + 0.5) / 80] * 2)
    points = torch.cat([low + (high - low) * lattice for low, high in zip(LOW, HIGH, strict=True)])
    stream = torch.Generator().manual_seed(0)
    rows = torch.randint(len(points), (12,), generator=stream)
    t = 0.2 + 0.8 * torch.rand(12, generator=stream, dtype=torch.float64)
    z = (1 - t)[:, None] * points[rows] + t[:, None] * torch.randn(12, 2, generator=stream, dtype=torch.float64)
    # the same few steps for both: what is compared is what they follow
    boxes = UniformBoxesOracle(LOW, HIGH, torch.full((3,), 1 / 3), num_steps=4)
    finite = EmpiricalOracle(points, num_steps=4)
    torch.testing.assert_close(boxes.v(z, t), finite.v(z, t), rtol=0, atol=2e-4)
    torch.testing.assert_close(boxes.u(z, t, 0.5 * t), finite.u(z, t, 0.5 * t), rtol=0, atol=2e-4)


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="boxes: received"):
        UniformBoxesOracle(LOW, HIGH[:2], WEIGHTS)
    with pytest.raises(ValueError, match="low < high"):
        UniformBoxesOracle(HIGH, LOW, WEIGHTS)
