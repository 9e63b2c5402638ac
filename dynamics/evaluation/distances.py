"""Distances between two sets of rows, in float64: Frechet, kernel, energy, and precision with recall."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from dynamics.options import invalid
from dynamics.rng import generator

_CHUNK = 256
Kernel = Callable[[Tensor, Tensor], Tensor]
"""a [N, D], b [M, D] -> [N, M]"""


@dataclass(frozen=True)
class KernelDistance:
    """An estimate of the squared maximum mean discrepancy (may be negative) and its standard error."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class PrecisionRecall:
    """Share of generated rows that lie where real ones do, and of real rows that lie where generated ones do."""

    precision: float
    recall: float


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Frechet distance of the Gaussians with the two sets' means and unbiased covariances (Heusel 2017, 1706.08500).

    Args:
        features_a: Features [N, D], N >= 2.
        features_b: Features [M, D], M >= 2. Few rows bias the distance upwards: compare equal counts only.

    Returns:
        The squared distance, >= 0, in squared feature units.

    Raises:
        ValueError: Fewer than 2 rows, different D, or numbers that are not finite.

    Example:
        >>> a = torch.tensor([[-1.0], [1.0]])
        >>> round(frechet_distance(a, 2 * a + 3), 9)  # standard deviations 2**.5 and 8**.5, means 0 and 3
        11.0
    """
    a, b = _checked(features_a, features_b)
    return frechet_from_moments(a.mean(0), _covariance(a), b.mean(0), _covariance(b))


def frechet_from_moments(mu1: Tensor, cov1: Tensor, mu2: Tensor, cov2: Tensor) -> float:
    """Frechet distance of two Gaussians: |mu1 - mu2|^2 + tr(cov1 + cov2 - 2 (cov1^1/2 cov2 cov1^1/2)^1/2).

    The last trace is the sum of the singular values of F1^T F2 for any factors cov = F F^T, which needs no root of a
    product that is symmetric in theory only; covariances of deficient rank are fine.

    Args:
        mu1: Mean [D].
        cov1: Positive semi-definite covariance [D, D].
        mu2: Mean [D].
        cov2: Positive semi-definite covariance [D, D]; its factor is kept for the next distance to it.

    Returns:
        The squared distance, >= 0.

    Raises:
        ValueError: Shapes that do not fit, numbers that are not finite, or a matrix that is no covariance.

    Example:
        >>> zero, eye = torch.zeros(3), torch.eye(3)
        >>> round(frechet_from_moments(zero, eye, zero + 2, 9 * eye), 9)  # 3 * (2 - 0)^2 + 3 * (3 - 1)^2
        24.0
    """
    dim = mu1.numel()
    if mu1.shape != mu2.shape or mu1.ndim != 1 or not cov1.shape == cov2.shape == (dim, dim):
        shapes = [list(value.shape) for value in (mu1, cov1, mu2, cov2)]
        raise invalid("moments", shapes, "[D], [D, D], [D], [D, D]", "use one extractor for both sets")
    means = (mu1.double() - mu2.double()).square().sum()
    traces = cov1.double().trace() + cov2.double().trace()
    factor1, factor2 = _factor("cov1", cov1.double()), _factor_of_reference("cov2", cov2.double())
    distance = float(means + traces - 2 * torch.linalg.svdvals(factor1.T @ factor2).sum())
    if distance != distance or distance == float("inf"):
        raise invalid("moments", distance, "finite numbers", "check the samples for nan and inf")
    return max(distance, 0.0)


def kernel_distance(features_a: Tensor, features_b: Tensor, subset_size: int | None = None) -> KernelDistance:
    """Unbiased squared MMD with the kernel (x . y / D + 1)^3 (Binkowski 2018, 1801.01401, eq. 4 and section 3).

    Without `subset_size`, one U-statistic over all rows with a jackknife standard error. With it, the mean over
    disjoint random subsets, which costs less memory and time for very many rows.

    Args:
        features_a: Features [N, D].
        features_b: Features [M, D].
        subset_size: Rows per subset, >= 2; both sets must hold at least two subsets.

    Returns:
        The estimate, unbiased for every N and M, and its standard error.

    Raises:
        ValueError: Fewer than 2 rows (3 for the jackknife), different D, numbers that are not finite, or a
            `subset_size` that does not fit.

    Example:
        >>> a = torch.tensor([[0.0], [0.0], [0.0]])
        >>> kernel_distance(a, a + 1).value  # kernels 1 within a, 8 within b, 1 between: 1 + 8 - 2
        7.0
    """
    a, b = _checked(features_a, features_b)
    rows = min(len(a), len(b))
    if subset_size is None:
        if rows < 3:
            raise invalid("features", f"{rows} rows", "at least 3 rows for a standard error", "draw more samples")
        return _mmd(a, b, _cubic)
    if subset_size < 2 or rows // subset_size < 2:
        raise invalid("subset_size", subset_size, f"2..{rows // 2} for {rows} rows", "leave it out to use all rows")
    # DIFFERS: Binkowski's code draws 100 overlapping subsets, whose spread says nothing about the error of their mean
    num_subsets = rows // subset_size
    random = generator(0, "kernel distance")
    a = a[torch.randperm(len(a), generator=random)]
    b = b[torch.randperm(len(b), generator=random)]
    parts = [slice(i * subset_size, (i + 1) * subset_size) for i in range(num_subsets)]
    values = torch.tensor([_mmd(a[part], b[part], _cubic).value for part in parts], dtype=torch.float64)
    return KernelDistance(float(values.mean()), float(values.std() / num_subsets**0.5))


def energy_distance(points_a: Tensor, points_b: Tensor) -> KernelDistance:
    """Unbiased energy distance, 2 E|x - y| - E|x - x'| - E|y - y'| (Szekely and Rizzo 2013, eq. 5), all pairs.

    It is 0 in expectation only for two equal distributions, whatever they are, and needs no feature space: a distance
    for points of few dimensions.

    Args:
        points_a: Points [N, D], N >= 3.
        points_b: Points [M, D], M >= 3.

    Returns:
        The estimate, in the unit of a coordinate, and its jackknife standard error.

    Raises:
        ValueError: Fewer than 3 rows, different D, or numbers that are not finite.

    Example:
        >>> a = torch.tensor([[0.0], [0.0], [0.0]])
        >>> energy_distance(a, a + 1).value  # 2 between, 0 within
        2.0
    """
    a, b = _checked(points_a, points_b)
    if min(len(a), len(b)) < 3:
        received = f"{min(len(a), len(b))} rows"
        raise invalid("points", received, "at least 3 rows for a standard error", "draw more samples")
    return _mmd(a, b, _minus_distance)  # the squared MMD of this kernel


def precision_recall(features_real: Tensor, features_fake: Tensor, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi 2019, 1904.06991, eq. 1 and 2).

    A row lies within a set when it is no farther from some member than that member's k-th nearest neighbour in the set.

    Args:
        features_real: Features of the data [N, D], N > k.
        features_fake: Features of the samples [M, D], M > k. Use N = M: both shares depend on the counts.
        k: Number of neighbours, not counting the member itself.

    Returns:
        Precision and recall in [0, 1].

    Raises:
        ValueError: k < 1, no more than k rows, different D, or numbers that are not finite.

    Example:
        >>> real = torch.arange(10.0)[:, None]
        >>> precision_recall(real, real[:5] + 0.5, k=1)
        PrecisionRecall(precision=1.0, recall=0.6)
    """
    real, fake = _checked(features_real, features_fake)
    if not 1 <= k < min(len(real), len(fake)):
        allowed = f"1 <= k < {min(len(real), len(fake))}, the smaller number of rows"
        raise invalid("k", k, allowed, "draw more samples or lower k")
    precision = _share_within(fake, real, _radii_of_reference(real, k))
    return PrecisionRecall(precision, _share_within(real, fake, _radii(fake, k)))


def _checked(features_a: Tensor, features_b: Tensor) -> tuple[Tensor, Tensor]:
    for features in (features_a, features_b):
        if features.ndim != 2 or len(features) < 2 or features.shape[1] < 1:
            raise invalid("features", list(features.shape), "[N, D] with N >= 2 rows", "draw more samples")
        if not bool(torch.isfinite(features).all()):
            raise invalid("features", "nan or inf", "finite numbers", "check the samples for nan and inf")
    if features_a.shape[1] != features_b.shape[1]:
        widths = f"D = {features_a.shape[1]} and {features_b.shape[1]}"
        raise invalid("features", widths, "the same D", "use one extractor for both sets")
    return features_a.double(), features_b.double()


def _covariance(features: Tensor) -> Tensor:
    centred = features - features.mean(0)
    return centred.T @ centred / (len(features) - 1)


def _factor(name: str, covariance: Tensor) -> Tensor:
    """Return F [D, rank] with F F^T = covariance."""
    if not bool(torch.isfinite(covariance).all()):
        raise invalid(name, "nan or inf", "finite numbers", "check the samples for nan and inf")
    scale = float(covariance.abs().max())
    if float((covariance - covariance.T).abs().max()) > 1e-6 * scale:
        raise invalid(name, "an asymmetric matrix", "a covariance", "pass (cov + cov.T) / 2")
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    if float(values.min()) < -1e-6 * scale:
        raise invalid(name, f"an eigenvalue of {float(values.min()):.3g}", "eigenvalues >= 0", "pass a covariance")
    # what round-off leaves of a zero eigenvalue, 1e-16, would come back as 1e-8 in its root
    kept = values > len(values) * torch.finfo(torch.float64).eps * values.max()
    factor: Tensor = vectors[:, kept] * values[kept].sqrt()
    return factor


_factor_of_reference = lru_cache(maxsize=1)(_factor)


def _cubic(a: Tensor, b: Tensor) -> Tensor:
    base = a @ b.T / a.shape[1] + 1
    return base * base * base  # ** 3 is five times slower


def _minus_distance(a: Tensor, b: Tensor) -> Tensor:
    return -torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _kernel_sums(a: Tensor, b: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """Return the kernel matrix' sums over b [N] and over a [M], without ever holding all of it."""
    over_b, over_a = [], torch.zeros(len(b), dtype=torch.float64, device=b.device)
    for rows in _chunks(a):
        matrix = kernel(rows, b)
        over_b.append(matrix.sum(1))
        over_a += matrix.sum(0)
    return torch.cat(over_b), over_a


def _mmd(a: Tensor, b: Tensor, kernel: Kernel) -> KernelDistance:
    n, m = len(a), len(b)
    aa, bb = _sums_of_reference(a, kernel), _sums_of_others(b, kernel)
    ab, ba = _kernel_sums(a, b, kernel)
    within_a, within_b, between = aa.sum(), bb.sum(), ab.sum()
    value = within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2 * between / (n * m)
    if min(n, m) < 3:
        return KernelDistance(float(value), float("nan"))
    # the estimate without row i of a (or of b), for the two-sample jackknife
    without_a = (within_a - 2 * aa) / ((n - 1) * (n - 2)) - 2 * (between - ab) / ((n - 1) * m)
    without_b = (within_b - 2 * bb) / ((m - 1) * (m - 2)) - 2 * (between - ba) / (n * (m - 1))
    variance = (n - 1) * without_a.var(correction=0) + (m - 1) * without_b.var(correction=0)
    return KernelDistance(float(value), float(variance.sqrt()))


def _sums_of_others(a: Tensor, kernel: Kernel) -> Tensor:
    """Return each row's kernel sum over the other rows of the set, [N]."""
    own = torch.cat([kernel(rows, rows).diagonal() for rows in _chunks(a)])
    return _kernel_sums(a, a, kernel)[0] - own


# the reference is the same for one set of samples after another
_sums_of_reference = lru_cache(maxsize=1)(_sums_of_others)


def _radii(members: Tensor, k: int) -> Tensor:
    """Squared distance of each member to its k-th nearest neighbour in the set, [M]."""
    # the member itself is among the k + 1 nearest, at distance 0
    return torch.cat([_squared(part, members).topk(k + 1, largest=False).values[:, -1] for part in _chunks(members)])


_radii_of_reference = lru_cache(maxsize=1)(_radii)


def _share_within(rows: Tensor, members: Tensor, radii: Tensor) -> float:
    inside = [(_squared(part, members) <= radii).any(1) for part in _chunks(rows)]
    return float(torch.cat(inside).double().mean())


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances [N, M], from differences to the middle of b so that few digits cancel."""
    middle = b.mean(0)
    a, b = a - middle, b - middle
    return a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * a @ b.T


def _chunks(rows: Tensor) -> list[Tensor]:
    return [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]
