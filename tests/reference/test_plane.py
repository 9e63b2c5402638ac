"""The toys of the plane: their velocities by quadrature over their densities, their samples, their flows."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from dynamics.data import DataOptions, GaussianMixtureSet, Population
from dynamics.evaluation.distances import energy_distance
from dynamics.flow.path import interpolate

NAMES = ["checkerboard", "eight-gaussians", "two-moons", "spiral"]
STEP = 0.025
SIDE = np.arange(-3, 3, STEP) + STEP / 2
GRID = np.stack(np.meshgrid(SIDE, SIDE, indexing="ij"), 2).reshape(-1, 2)
"""Middles of cells, so that no edge of a square lies on one."""


def load(name: str) -> Population:
    data = DataOptions.member(name)().load()
    assert isinstance(data, Population)
    return data


def bumps(points: np.ndarray, centres: list[tuple[float, float]], std: float) -> np.ndarray:
    squared = ((points[:, None] - np.array(centres)) ** 2).sum(2)
    return np.exp(-squared / (2 * std**2)).sum(1)


def density(name: str, label: int | None, points: np.ndarray = GRID) -> np.ndarray:
    """The density at points, from the words that describe the set; not normalised."""
    if name == "checkerboard":
        column, row = (np.floor(points) + 2).T
        return ((column + row) % 2 == 0) & (np.abs(points).max(1) < 2)
    if name == "eight-gaussians":
        angles = [k * math.pi / 4 for k in range(8) if label in (None, k)]
        return bumps(points, [(1.6 * math.cos(a), 1.6 * math.sin(a)) for a in angles], 0.2)
    if name == "two-moons":
        angles = [k * math.pi / 39 for k in range(40)]
        upper = [(1.2 * math.cos(a) - 0.6, 1.2 * math.sin(a) - 0.3) for a in angles]
        lower = [(-x, -y) for x, y in upper]
        return bumps(points, {None: upper + lower, 0: upper, 1: lower}[label], 0.1)
    # the spiral r = 2 a / (4.5 pi): walk along it until as far as the whole length over 143 from the last point
    fine = np.linspace(0.5 * math.pi, 4.5 * math.pi, 400_001)
    path = (2 * fine / (4.5 * math.pi))[:, None] * np.stack([np.cos(fine), np.sin(fine)], 1)
    walked = np.concatenate([[0], np.linalg.norm(np.diff(path, axis=0), axis=1).cumsum()])
    chosen = [int(np.searchsorted(walked, k * walked[-1] / 143 - 1e-9)) for k in range(144)]
    return bumps(points, [tuple(path[i]) for i in chosen], 0.1)


CASES = [
    ("checkerboard", None),
    ("checkerboard", 0),
    ("eight-gaussians", None),
    ("eight-gaussians", 3),
    ("two-moons", None),
    ("two-moons", 1),
    ("spiral", None),
]


@pytest.mark.parametrize(("name", "label"), CASES)
@pytest.mark.parametrize("t", [1.0, 0.7, 0.3])
def test_velocity_is_the_integral_over_the_density(name: str, label: int | None, t: float) -> None:
    data, weight = load(name), density(name, label)
    stream = np.random.default_rng(0)
    rows = GRID[stream.choice(len(GRID), 12, p=weight / weight.sum())]
    z = (1 - t) * rows + t * stream.standard_normal(rows.shape)
    squared = ((z[:, None] - (1 - t) * GRID) ** 2).sum(2)
    mass = weight * np.exp(-(squared - squared.min(1, keepdims=True)) / (2 * t**2))
    expected = (z - mass @ GRID / mass.sum(1, keepdims=True)) / t
    c = None if label is None else torch.full((12,), label)
    found = data.oracle().v(torch.from_numpy(z).view(-1, 2, 1, 1), torch.full((12,), t).double(), c)
    # midpoints of cells as wide as a fortieth: exact to rounding for smooth densities, else of second order
    tolerance = 2e-3 if name == "checkerboard" else 2e-5
    np.testing.assert_allclose(found.flatten(1).numpy(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_average_velocities_add_up(name: str) -> None:
    oracle = load(name).oracle()
    stream = torch.Generator().manual_seed(0)
    x, y = load(name).sample(48, stream)
    y[::2] = load(name).num_classes
    t = 0.3 + 0.7 * torch.rand(48, generator=stream, dtype=torch.float64)
    r = t * torch.rand(48, generator=stream, dtype=torch.float64) * (torch.arange(48) % 3 > 0)
    s = r + 0.6 * (t - r)
    z, _ = interpolate(x.double(), torch.randn(x.shape, generator=stream, dtype=torch.float64), t)
    h1, h2 = ((a - b).view(-1, 1, 1, 1) for a, b in ((t, s), (s, r)))
    first = h1 * oracle.u(z, t, s, y)
    parts = first + h2 * oracle.u(z - first, s, r, y)
    whole = (h1 + h2) * oracle.u(z, t, r, y)
    error = (parts - whole).flatten(1).norm(dim=1)
    assert float(error.median()) < 2e-5
    assert float(error.max()) < 5e-3  # at the edges of squares 32 steps are not many


@pytest.mark.parametrize("name", NAMES)
def test_the_exact_flow_maps_noise_to_the_data(name: str) -> None:
    data = load(name)
    stream = torch.Generator().manual_seed(1)
    e = torch.randn(400, 2, 1, 1, generator=stream, dtype=torch.float64)
    one = torch.ones(400, dtype=torch.float64)
    x, y = data.sample(4000, stream)
    samples = (e - data.oracle().u(e, one, 0 * one)).flatten(1)
    found = energy_distance(x.flatten(1), samples)
    assert found.value < 6e-3
    assert energy_distance(x.flatten(1), samples * 1.1).value > found.value + 1e-3  # it can tell
    if data.num_classes > 1:
        asked = data.oracle().u(e, one, 0 * one, torch.full((400,), 1))
        assert energy_distance(x[y == 1].flatten(1), (e - asked).flatten(1)).value < 6e-3


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_the_moments_of_the_density(name: str) -> None:
    data = load(name)
    x, y = (part.double() for part in data.sample(40_000, torch.Generator().manual_seed(2)))
    weight = density(name, None) / density(name, None).sum()
    points = x.flatten(1).numpy()
    functions: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda a: a,
        np.square,
        lambda a: a[:, :1] * a[:, 1:],
        lambda a: a - np.floor(a),  # the place inside a square
        lambda a: np.log(np.maximum(density(name, None, a), 1e-12))[:, None],  # the width of a Gaussian
    ]
    for f in functions:
        expected = (weight[:, None] * f(GRID)).sum(0)
        error = f(points).std(0) / len(points) ** 0.5
        np.testing.assert_array_less(np.abs(f(points).mean(0) - expected), 4.5 * error + 5e-4)
    shares = torch.bincount(y.long()) / len(y)
    assert len(shares) == data.num_classes
    torch.testing.assert_close(shares, torch.full_like(shares, 1 / data.num_classes), rtol=0, atol=0.01)


@pytest.mark.parametrize("name", ["two-moons", "spiral"])
def test_gaussians_along_a_curve_are_close(name: str) -> None:
    data = load(name)
    assert isinstance(data, GaussianMixtureSet)
    distance = data.means.diff(dim=0).norm(dim=1)
    inside = data.labels[1:] == data.labels[:-1]
    std = float(data.covariances[0, 0, 0]) ** 0.5
    assert float(distance[inside].max()) < std
    assert float(distance[inside].max() / distance[inside].min()) < 1.01


@pytest.mark.parametrize("name", NAMES)
def test_points_are_pure_functions_of_seed_and_step(name: str) -> None:
    data = load(name)
    assert load(name) is data
    x, y = data.batch(1, 7, 33)
    data.batch(1, 8, 5)
    assert torch.equal(x, data.batch(1, 7, 33)[0])
    assert (x.shape, x.dtype, y.dtype) == ((33, 2, 1, 1), torch.float32, torch.long)
    assert not torch.equal(x, data.batch(1, 8, 33)[0])
    assert not torch.equal(x, data.batch(2, 7, 33)[0])
    assert (data.pictures, data.drawn_by_rank, data.features()) == (False, False, None)
    assert DataOptions.member(name)().model_dump_json() == f'{{"name":"{name}"}}'
    assert x.abs().max() < 3


def test_labels_are_where_the_points_are() -> None:
    x, y = load("eight-gaussians").batch(0, 0, 1000)
    angle: Tensor = torch.atan2(x[:, 1, 0, 0], x[:, 0, 0, 0])
    nearest = (angle / (math.pi / 4)).round().long() % 8
    assert (nearest == y).double().mean() > 0.99  # half the angle between two is three standard deviations
