"""Distances against closed forms, brute force, and torchmetrics."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from dynamics.evaluation import distances
from dynamics.evaluation.distances import (
    energy_distance,
    frechet_distance,
    frechet_from_moments,
    kernel_distance,
    precision_recall,
)
from dynamics.evaluation.inception import import_torchvision


def normal(rows: int, dim: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_moments(mean: Tensor, root: Tensor, rows: int, seed: int) -> Tensor:
    """Rows whose sample mean and unbiased covariance are exactly mean and root @ root.T."""
    raw = normal(rows, len(mean), seed)
    orthogonal = torch.linalg.qr(raw - raw.mean(0)).Q * (rows - 1) ** 0.5
    return mean + orthogonal @ root.T


class Identity(nn.Module):
    num_features = 16

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(("mu", "std1", "std2"), [(0.0, 1.0, 1.0), (3.0, 1.0, 2.0), (-1.0, 0.5, 0.0), (2.0, 0.0, 0.0)])
def test_frechet_of_isotropic_gaussians(mu: float, std1: float, std2: float) -> None:
    dim = 7
    zero, eye = torch.zeros(dim, dtype=torch.float64), torch.eye(dim, dtype=torch.float64)
    found = frechet_from_moments(zero, std1**2 * eye, zero + mu, std2**2 * eye)
    assert found == pytest.approx(dim * (mu**2 + (std1 - std2) ** 2), abs=1e-12)


def test_frechet_of_commuting_covariances() -> None:
    basis = torch.linalg.qr(normal(9, 9, 0)).Q
    a, b = normal(9, 1, 1)[:, 0].abs(), normal(9, 1, 2)[:, 0].abs()
    zero = torch.zeros(9, dtype=torch.float64)
    found = frechet_from_moments(zero, basis * a**2 @ basis.T, zero, basis * b**2 @ basis.T)
    assert found == pytest.approx(float((a - b).square().sum()), rel=1e-10)


def test_frechet_of_two_by_two_covariances() -> None:
    # for 2x2 matrices tr sqrt(M) = sqrt(tr M + 2 sqrt(det M))
    one = torch.tensor([[2.0, 0.7], [0.7, 1.0]], dtype=torch.float64)
    two = torch.tensor([[0.5, -0.4], [-0.4, 3.0]], dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)
    product = one @ two
    root_trace = math.sqrt(product.trace() + 2 * math.sqrt(torch.linalg.det(product)))
    expected = float(one.trace() + two.trace()) - 2 * root_trace
    assert frechet_from_moments(zero, one, zero, two) == pytest.approx(expected, rel=1e-12)


def test_frechet_of_features_with_exact_moments() -> None:
    mean = normal(5, 1, 3)[:, 0]
    eye = torch.eye(5, dtype=torch.float64)
    a, b = with_moments(mean, 2 * eye, 40, 0), with_moments(mean + 1, 5 * eye, 90, 1)
    assert frechet_distance(a, b) == pytest.approx(5 * 1 + 5 * 9, rel=1e-10)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-12)


@pytest.mark.parametrize("rows", [5, 200])
def test_frechet_to_oneself_is_zero_also_at_deficient_rank(rows: int) -> None:
    a = normal(rows, 30, 4, scale=10)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    shifted = frechet_distance(a, a + 2)
    assert shifted == pytest.approx(30 * 4, rel=1e-9)


def test_frechet_of_gaussians_in_orthogonal_subspaces() -> None:
    # the covariances' product is zero; roots of eigenvalues that are zero up to round-off would show as 1e-6
    basis = torch.linalg.qr(normal(30, 30, 20)).Q
    zero = torch.zeros(30, dtype=torch.float64)
    one, two = 100 * basis[:, :5] @ basis[:, :5].T, 100 * basis[:, 5:] @ basis[:, 5:].T
    assert frechet_from_moments(zero, one, zero, two) == pytest.approx(3000, abs=1e-9)


def test_frechet_equals_torchmetrics() -> None:
    import_torchvision()
    fid = pytest.importorskip("torchmetrics.image.fid")
    a, b = normal(300, 16, 5), normal(250, 16, 6, 1.3) @ torch.diag(torch.linspace(0.3, 2, 16).double()) + 0.2
    metric = fid.FrechetInceptionDistance(feature=Identity())
    metric.update(a, real=True)
    metric.update(b, real=False)
    assert frechet_distance(a, b) == pytest.approx(float(metric.compute()), rel=1e-6)


def test_kernel_equals_torchmetrics() -> None:
    import_torchvision()
    kid = pytest.importorskip("torchmetrics.image.kid")
    a, b = normal(300, 16, 7), normal(300, 16, 8, 1.2) + 0.3
    metric = kid.KernelInceptionDistance(feature=Identity(), subsets=1, subset_size=300)
    metric.update(a, real=True)
    metric.update(b, real=False)
    assert kernel_distance(a, b).value == pytest.approx(float(metric.compute()[0]), rel=1e-6)


def brute_mmd(a: Tensor, b: Tensor) -> float:
    def kernel(x: Tensor, y: Tensor) -> float:
        return (float(x @ y) / len(x) + 1) ** 3

    def within(x: Tensor) -> float:
        return float(np.mean([kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]))

    return within(a) + within(b) - 2 * float(np.mean([kernel(x, y) for x in a for y in b]))


@pytest.mark.parametrize("chunk", [4, 256])
def test_kernel_and_its_jackknife_equal_brute_force(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "_CHUNK", chunk)
    a, b = normal(9, 3, 9), normal(7, 3, 10) + 0.5
    found = kernel_distance(a, b)
    assert found.value == pytest.approx(brute_mmd(a, b), rel=1e-12)
    left_a = np.array([brute_mmd(torch.cat([a[:i], a[i + 1 :]]), b) for i in range(9)])
    left_b = np.array([brute_mmd(a, torch.cat([b[:i], b[i + 1 :]])) for i in range(7)])
    assert found.standard_error == pytest.approx(math.sqrt(8 * left_a.var() + 6 * left_b.var()), rel=1e-10)


@pytest.mark.parametrize("subset_size", [None, 30])
def test_kernel_is_unbiased_and_its_standard_error_is_its_spread(subset_size: int | None) -> None:
    # E k(x, y) = 1 + 3 E(x.y/D)^2 for centred symmetric x, y, and E(x.y)^2 = D s^2 s'^2
    dim, scale = 4, 2.0
    expected = 3 / dim * (1 + scale**4 - 2 * scale**2)
    runs = [
        kernel_distance(normal(120, dim, 2 * i), normal(90, dim, 2 * i + 1, scale), subset_size) for i in range(150)
    ]
    values = np.array([run.value for run in runs])
    assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(150)
    errors = np.array([run.standard_error for run in runs])
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(values.std(ddof=1), rel=0.25)


def test_chunks_do_not_show() -> None:
    a, b = normal(700, 2, 11), normal(600, 2, 12) + 0.2
    kernel = [(x @ y.T / 2 + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))]
    sums = [(k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in kernel[:2]]
    assert kernel_distance(a, b).value == pytest.approx(float(sums[0] + sums[1] - 2 * kernel[2].mean()), rel=1e-8)


def brute_share(rows: Tensor, members: Tensor, k: int) -> float:
    inside = 0
    for row in rows:
        radii = [sorted(float((m - other).norm()) for other in members)[k] for m in members]
        inside += any(float((row - m).norm()) <= radius for m, radius in zip(members, radii, strict=True))
    return inside / len(rows)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_recall_equals_brute_force(k: int) -> None:
    real, fake = normal(25, 2, 13), normal(20, 2, 14) + 2
    found = precision_recall(real, fake, k)
    assert found.precision == pytest.approx(brute_share(fake, real, k))
    assert found.recall == pytest.approx(brute_share(real, fake, k))
    assert 0 < found.precision < 1
    assert 0 < found.recall < 1


def test_precision_recall_across_chunks_and_far_from_the_origin() -> None:
    real, fake = normal(700, 2, 15), normal(600, 2, 16, 1.5)
    between, own = torch.cdist(fake, real), torch.cdist(real, real)
    expected = float((between <= own.sort(1).values[:, 3]).any(1).double().mean())
    assert precision_recall(real, fake).precision == pytest.approx(expected)
    assert precision_recall(real + 1e8, fake + 1e8).precision == pytest.approx(expected, abs=2e-3)


def test_precision_recall_tell_dropped_modes_from_bad_samples() -> None:
    modes = torch.tensor([[0.0, 0.0], [100.0, 0.0]], dtype=torch.float64)
    real = torch.cat([normal(200, 2, 17) + mode for mode in modes])
    dropped = precision_recall(real, normal(400, 2, 18))
    assert dropped.precision > 0.9
    assert 0.4 < dropped.recall < 0.6
    junk = torch.cat([real[:200] + 0.01, normal(200, 2, 19) + 1000])
    assert precision_recall(real, junk).precision == pytest.approx(0.5)


GOOD = torch.zeros(5, 3)
BAD = [(torch.zeros(1, 3), "N >= 2"), (torch.zeros(5), "N >= 2"), (torch.zeros(5, 2), "same D")]
BAD += [(torch.full((5, 3), value), "nan or inf") for value in (math.nan, math.inf)]


@pytest.mark.parametrize(("bad", "message"), BAD)
@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance, precision_recall])
def test_bad_features_are_refused(distance: object, bad: Tensor, message: str) -> None:
    assert callable(distance)
    for pair in ((GOOD, bad), (bad, GOOD)):
        with pytest.raises(ValueError, match=message):
            distance(*pair)


def test_bad_settings_are_refused() -> None:
    for k in (0, 5):
        with pytest.raises(ValueError, match="k: received"):
            precision_recall(GOOD, GOOD, k)
    for subset_size in (1, 3):
        with pytest.raises(ValueError, match="subset_size: received"):
            kernel_distance(GOOD, GOOD, subset_size)
    with pytest.raises(ValueError, match="at least 3 rows"):
        kernel_distance(GOOD[:2], GOOD)


def test_bad_moments_are_refused() -> None:
    zero, eye = torch.zeros(2), torch.eye(2)
    cases = [
        (torch.zeros(3), eye, "moments: received"),
        (zero, torch.eye(3), "moments: received"),
        (zero, -eye, "eigenvalues >= 0"),
        (zero, torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "asymmetric"),
        (zero, eye * math.nan, "nan or inf"),
        (zero + math.nan, eye, "finite"),
    ]
    for mean, covariance, message in cases:
        with pytest.raises(ValueError, match=message):
            frechet_from_moments(zero, eye, mean, covariance)


def test_what_is_kept_of_a_reference_is_kept_of_no_other() -> None:
    first, second, fake = normal(60, 3, 1), normal(60, 3, 2, 1.5), normal(50, 3, 3)
    kernel = [kernel_distance(real, fake) for real in (first, second, first)]
    inside = [precision_recall(real, fake) for real in (first, second, first)]
    assert kernel[0] == kernel[2] == kernel_distance(first.clone(), fake)
    assert inside[0] == inside[2] == precision_recall(first.clone(), fake)
    assert kernel[1] == kernel_distance(second.clone(), fake) != kernel[0]
    assert inside[1] == precision_recall(second.clone(), fake) != inside[0]
    assert precision_recall(first, fake, k=1) == precision_recall(first.clone(), fake, k=1)


def brute_energy(a: Tensor, b: Tensor) -> float:
    def mean(one: Tensor, two: Tensor, own: bool) -> float:
        values = [
            math.dist(x, y) for i, x in enumerate(one.tolist()) for j, y in enumerate(two.tolist()) if not own or i != j
        ]
        return sum(values) / len(values)

    return 2 * mean(a, b, False) - mean(a, a, True) - mean(b, b, True)


def test_energy_distance_equals_brute_force_and_its_jackknife() -> None:
    a, b = normal(9, 2, 0), normal(7, 2, 1) + 0.5
    found = energy_distance(a, b)
    assert found.value == pytest.approx(brute_energy(a, b), rel=1e-12)
    left_a = np.array([brute_energy(torch.cat([a[:i], a[i + 1 :]]), b) for i in range(9)])
    left_b = np.array([brute_energy(a, torch.cat([b[:i], b[i + 1 :]])) for i in range(7)])
    variance = 8 * left_a.var() + 6 * left_b.var()
    assert found.standard_error == pytest.approx(variance**0.5, rel=1e-9)


def test_energy_distance_is_twice_the_squared_distance_of_distribution_functions() -> None:
    """On a line, against scipy, whose estimate counts a row with itself too."""
    a, b = normal(300, 1, 2), 1.3 * normal(200, 1, 3)
    biased = scipy.stats.energy_distance(a[:, 0].numpy(), b[:, 0].numpy()) ** 2
    within = sum(float(torch.cdist(x, x).sum()) * (1 / len(x) / (len(x) - 1) - 1 / len(x) ** 2) for x in (a, b))
    assert energy_distance(a, b).value == pytest.approx(biased - within, rel=1e-9)


def test_energy_distance_is_unbiased_and_its_error_is_the_spread() -> None:
    found = [energy_distance(normal(60, 2, 2 * i), normal(60, 2, 2 * i + 1) + 0.5) for i in range(200)]
    values = np.array([f.value for f in found])
    large = energy_distance(normal(4000, 2, 1000), normal(4000, 2, 1001) + 0.5)
    assert abs(values.mean() - large.value) < 4 * (values.std() / 200**0.5 + large.standard_error)
    assert np.mean([f.standard_error for f in found]) == pytest.approx(values.std(), rel=0.15)
    same = np.array([energy_distance(normal(60, 2, 2 * i), normal(60, 2, 2 * i + 1)).value for i in range(200)])
    assert abs(same.mean()) < 4 * same.std() / 200**0.5


def test_energy_distance_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(ValueError, match="points: received '2 rows'"):
        energy_distance(normal(2, 2, 0), normal(5, 2, 1))
    with pytest.raises(ValueError, match="the same D"):
        energy_distance(normal(5, 3, 0), normal(5, 2, 1))
