"""Averages of the weights along power functions of training time, and any other length rebuilt from kept ones.

    average_T = integral of p(tau) theta(tau) dtau,   p(tau) = (gamma + 1) tau^gamma / T^(gamma + 1),   0 <= tau <= T

(Karras et al., 2312.02696, sections 3.1, 3.2 and appendix C). What counts of gamma is the profile's standard deviation
as a share of T, here the average's length; .05 and .1 are gamma 16.97 and 6.94. A moving average with the decay
(1 - 1/t)^(gamma + 1) in step t is that average of the weights after each step, without an error.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dynamics.options import invalid

LONGEST = 0.2887
"""Length of the plain mean, gamma = 0, rounded up: no average that forgets the first weights is longer."""
TOLERANCE = 0.05
"""Largest distance of a rebuilt profile from the one asked for, as a share of that one's norm."""
ROUNDING = {"float32": 1e-7, "float16": 2e-4}
"""Error of a kept weight by its precision, as a share of it, about; averages shorter than those kept amplify it."""
LARGEST_ROUNDING = 2e-3
"""Largest such error of a rebuilt weight."""
_PREFIX = "length"


def average_name(length: float) -> str:
    """Return what the average of a length is called among a run's weights.

    Example:
        >>> average_name(0.05), length_in("length0.05"), length_in("0.999")
        ('length0.05', 0.05, None)
    """
    return f"{_PREFIX}{float(length)}"


def length_in(name: str) -> float | None:
    """Return the length in the name of an average; None where the name is of other weights."""
    if not name.startswith(_PREFIX):
        return None
    try:
        length = float(name.removeprefix(_PREFIX))
    except ValueError:
        length = math.nan
    check_length(length, name)
    return length


def weights_name(weights: str, length: float | None) -> str:
    """Return what the weights are called that are asked for by name or by the length of their average.

    Raises:
        ValueError: They are asked for by both, or that is no length.
    """
    if length is None:
        return weights
    if weights != "ema":
        raise invalid("weights", weights, "no other weights with an ema_length", "leave one of the two out")
    check_length(length)
    return average_name(length)


def check_length(length: float, received: object = None, name: str = "ema_length") -> None:
    """Refuse what is no length of a power-function average."""
    if not 0 < length <= LONGEST:
        allowed = f"0 < length <= {LONGEST} of training, the plain mean"
        raise invalid(name, length if received is None else received, allowed, "such as 0.05")


@lru_cache
def gamma_of(length: float) -> float:
    """Return the exponent of the profile of a length: the root of (g + 2)^2 (g + 3) = (g + 1) / length^2.

    Example:
        >>> round(gamma_of(0.05), 2), round(gamma_of(0.1), 2)
        (16.97, 6.94)
    """
    check_length(length)
    square = length**-2
    return max(float(np.roots([1, 7, 16 - square, 12 - square]).real.max()), 0.0)


def decay_in_step(name: str, step: int) -> float:
    """Return the decay of an average in a step, of which the first is 1: constant, or that of a power function."""
    length = length_in(name)
    return float(name) if length is None else float((1 - 1 / step) ** (gamma_of(length) + 1))


def profile_products(gamma: ArrayLike, end: ArrayLike, gamma2: ArrayLike, end2: ArrayLike) -> Any:
    """Return the inner products of two profiles, integral p p2 dtau, each over its own training up to its end.

    Example:
        >>> float(profile_products(0.0, 2.0, 0.0, 4.0))
        0.25
    """
    g, t, g2, t2 = (np.asarray(a, dtype=np.float64) for a in (gamma, end, gamma2, end2))
    ratio = np.minimum(t, t2) / np.maximum(t, t2)  # powers of it do not overflow, those of steps would
    return (g + 1) * (g2 + 1) / (g + g2 + 1) / np.maximum(t, t2) * ratio ** np.where(t < t2, g2, g)


class Rebuilt(NamedTuple):
    """How an average comes from kept ones."""

    factors: np.ndarray[Any, np.dtype[np.float64]]
    """One a kept average; their sum is 1."""
    distance: float
    """Norm of the difference of the two profiles, over that of the profile asked for."""

    def carries(self, precision: str) -> bool:
        """Whether profile and rounding are near enough, of averages that are kept in a precision."""
        rounding = float(np.linalg.norm(self.factors)) * ROUNDING[precision]
        return self.distance <= TOLERANCE and rounding <= LARGEST_ROUNDING


def rebuilt(length: float, end: float, lengths: Sequence[float], ends: Sequence[float]) -> Rebuilt:
    """Return the sum of kept averages whose profile comes nearest to that of a length.

    Least squares over all sums of factors 1. # DIFFERS: the paper leaves their sum free, and its code divides by it
    afterwards; with it at 1 the part of the weights that does not move is exact.

    Args:
        length: That is asked for.
        end: Step at which the average ends.
        lengths: Of the kept averages.
        ends: Steps at which these end, none after `end`.

    Example:
        >>> rebuilt(0.05, 100, [0.05, 0.1, 0.05], [100, 100, 50]).factors.round(9).tolist()
        [1.0, 0.0, 0.0]
    """
    kept = [i for i, place in enumerate(zip(lengths, ends, strict=True)) if place == (length, end)]
    if kept:
        return Rebuilt(np.eye(len(lengths))[kept[0]], 0.0)
    gammas, times, wanted = np.array([gamma_of(a) for a in lengths]), np.array(ends) / end, gamma_of(length)
    gram = profile_products(gammas[:, None], times[:, None], gammas, times)
    cross, norm = profile_products(gammas, times, wanted, 1.0), float(profile_products(wanted, 1.0, wanted, 1.0))
    count = len(times)
    bordered = np.ones((count + 1, count + 1))
    bordered[:count, :count], bordered[count, count] = gram, 0.0
    factors = np.linalg.lstsq(bordered, np.append(cross, 1.0), rcond=None)[0][:count]
    squared = float(factors @ gram @ factors - 2 * factors @ cross) + norm
    return Rebuilt(factors, math.sqrt(max(squared, 0.0) / norm))


def check_carried(
    length: float, end: int, lengths: Sequence[float], ends: Sequence[int], precision: str = "float32"
) -> Rebuilt:
    """Return how an average is rebuilt, if the kept ones carry it.

    Raises:
        ValueError: They do not; the text says which length they carry, or that there are none.
    """
    if not lengths:
        remedy = "train with training.ema_lengths, such as 0.05 0.1"
        raise invalid("ema_length", length, "a run with snapshots of its averages", remedy)
    found = rebuilt(length, end, lengths, ends)
    if found.carries(precision):
        return found
    tried = [float(f"{a:.3g}") for a in np.geomspace(LONGEST / 60, 0.99 * LONGEST, 100)]  # as the text spells them
    carried = [a for a in tried if rebuilt(a, end, lengths, ends).carries(precision)]
    kept = f"{len(set(ends))} snapshots up to step {end}, of averages {', '.join(map(str, sorted(set(lengths))))}"
    kept += f" in {precision}"
    nearest = min([*carried, *lengths], key=lambda a: abs(math.log(a / length)))
    allowed = f"lengths that {kept}, carry; the nearest is {nearest:g}"
    remedy = "choose another length, or train with a smaller training.snapshot_every or more training.ema_lengths"
    raise invalid("ema_length", length, allowed, remedy)
