"""The integrator on equations whose answer is known."""

import math

import pytest
import torch
from torch import Tensor

from dynamics.flow.integrator import euler, follow, heun, runge_kutta


def slope(z: Tensor, s: Tensor) -> Tensor:
    """dz/ds = z cos(s), z(s) = z(0) exp(sin(s))."""
    return z * s.cos()[:, None]


def grid(num_steps: int, start: float = 0.0, end: float = 2.0) -> Tensor:
    return torch.linspace(start, end, num_steps + 1, dtype=torch.float64)[:, None].repeat(1, 3)


Z = torch.tensor([[1.0, 2.0], [-0.5, 0.3], [0.0, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize(("scheme", "order"), [(euler, 1), (heun, 2), (runge_kutta, 4)])
def test_orders(scheme: type, order: int) -> None:
    exact = Z * math.exp(math.sin(2.0))
    errors = [float((follow(scheme(slope), Z, grid(n))[1] - exact).abs().max()) for n in (32, 64)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("scheme", [euler, heun, runge_kutta])
def test_the_mean_slope_leads_to_the_end_and_back_in_time(scheme: type) -> None:
    for start, end in ((0.0, 2.0), (2.0, 0.5)):
        mean, last = follow(scheme(slope), Z, grid(8, start, end))
        torch.testing.assert_close(Z + (end - start) * mean, last, rtol=1e-12, atol=1e-12)


def test_shares_weigh_the_steps() -> None:
    times = torch.tensor([[0.0, 0.0, 1.0], [0.5, 0.1, 1.0], [2.0, 0.3, 1.0]], dtype=torch.float64)
    shares = torch.tensor([[0.25, 1.0, 0.5], [0.75, 0.0, 0.5]], dtype=torch.float64)
    mean, last = follow(euler(slope), Z, times, shares)
    first = slope(Z, times[0])
    second = slope(Z + (times[1] - times[0])[:, None] * first, times[1])
    torch.testing.assert_close(mean, shares[0][:, None] * first + shares[1][:, None] * second)
    torch.testing.assert_close(mean[0] * 2 + Z[0], last[0])
    torch.testing.assert_close(last[2], Z[2])  # a path of no length stays, and its mean is the slope there
    torch.testing.assert_close(mean[2], first[2])


def test_an_average_slope_is_a_step_of_its_own() -> None:
    seen: list[tuple[float, float]] = []

    def average(z: Tensor, start: Tensor, end: Tensor) -> Tensor:
        seen.append((float(start[0]), float(end[0])))
        return z * ((end.sin() - start.sin()).exp() - 1)[:, None] / (end - start)[:, None]

    _, last = follow(average, Z, grid(3))
    torch.testing.assert_close(last, Z * math.exp(math.sin(2.0)), rtol=1e-12, atol=1e-12)
    assert sum(seen, ()) == pytest.approx((0, 2 / 3, 2 / 3, 4 / 3, 4 / 3, 2))
