"""The one integrator: follow dz/ds = f(z, s) over a grid of times, and average its slope.

A step from one time to the next takes an average slope. Euler, Heun and Runge-Kutta make one from f; a network that has
learned average velocities is one.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from dynamics.flow.path import expand

Slope = Callable[[Tensor, Tensor], Tensor]
"""f(z [B, ...], s [B]) -> dz/ds [B, ...]"""
Average = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(z [B, ...], start [B], end [B]) -> mean of dz/ds between two times, on the path that starts from z, [B, ...]"""


def euler(f: Slope) -> Average:
    """The slope at the start: first order, one evaluation a step."""
    return lambda z, start, end: f(z, start)


def heun(f: Slope) -> Average:
    """Mean of the slopes at the start and at Euler's end: second order, two evaluations a step."""

    def average(z: Tensor, start: Tensor, end: Tensor) -> Tensor:
        slope = f(z, start)
        return (slope + f(z + expand(end - start, z) * slope, end)) / 2

    return average


def runge_kutta(f: Slope) -> Average:
    """The classical scheme: fourth order, four evaluations a step."""

    def average(z: Tensor, start: Tensor, end: Tensor) -> Tensor:
        h, middle = expand(end - start, z), (start + end) / 2
        k1 = f(z, start)
        k2 = f(z + h / 2 * k1, middle)
        k3 = f(z + h / 2 * k2, middle)
        k4 = f(z + h * k3, end)
        return (k1 + 2 * k2 + 2 * k3 + k4) / 6

    return average


def follow(average: Average, z: Tensor, grid: Tensor, shares: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Take one step after another.

    Args:
        average: Average slope of a step.
        z: Where the path starts, [B, ...].
        grid: Times of each row, in either direction, [num_steps + 1, B].
        shares: What each step counts in the mean, [num_steps, B], sum 1 for each row; by default all count the same,
            which is the mean over time where steps are equally long.

    Returns:
        Mean slope and end of the path, [B, ...] each.

    Example:
        >>> grid = torch.linspace(0, 1, 9).double()[:, None]
        >>> mean, end = follow(runge_kutta(lambda z, s: z), torch.ones(1, 1).double(), grid)
        >>> round(float(mean), 4), round(float(end), 4)         # dz/ds = z: e - 1, and e
        (1.7183, 2.7183)
    """
    num_steps, mean = len(grid) - 1, torch.zeros_like(z)
    for k, (start, end) in enumerate(pairwise(grid)):
        slope = average(z, start, end)
        z = z + expand(end - start, z) * slope
        mean = mean + (slope / num_steps if shares is None else expand(shares[k], z) * slope)
    return mean, z
