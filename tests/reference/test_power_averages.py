"""Averages along power functions against sums over all weights of a run, and their products against quadrature."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import recipe, state_of
from scipy.integrate import quad
from torch import Tensor

from dynamics.training import Snapshots, TrainState
from dynamics.training.power_averages import LONGEST, check_carried, gamma_of, profile_products, rebuilt
from dynamics.training.state import update_emas
from dynamics.training.step import skip

STEPS, EVERY = 160, 10
STORED = (0.05, 0.1)
ERRORS = {0.04: 3e-3, 0.06: 5e-4, 0.07: 5e-4, 0.085: 5e-4, 0.12: 5e-4, 0.15: 6e-4, 0.2: 6e-3}
"""Largest distance to the brute-force average, over that average's distance to the last weights; 16 snapshots."""


def profile(length: float, end: float) -> Callable[[float], float]:
    gamma = gamma_of(length)
    return lambda tau: (gamma + 1) / end * (tau / end) ** gamma if 0 <= tau <= end else 0.0


@pytest.mark.parametrize("length", [0.01, 0.05, 0.1, 0.2, 12**-0.5])
def test_a_length_is_the_standard_deviation_of_its_profile(length: float) -> None:
    p = profile(length, 3.0)
    mass, mean, square = (quad(lambda tau, n=n: tau**n * p(tau), 0, 3.0, epsabs=1e-13)[0] for n in range(3))
    assert mass == pytest.approx(1, rel=1e-10)
    assert (square - mean**2) ** 0.5 / 3.0 == pytest.approx(length, rel=1e-8)


@pytest.mark.parametrize(("a", "end_a"), [(0.05, 1.0), (0.1, 0.4), (0.2, 0.9)])
@pytest.mark.parametrize(("b", "end_b"), [(0.05, 0.7), (0.1, 1.0), (0.28, 0.05)])
def test_products_of_profiles_are_integrals(a: float, end_a: float, b: float, end_b: float) -> None:
    p, q = profile(a, end_a), profile(b, end_b)
    found = profile_products(gamma_of(a), end_a, gamma_of(b), end_b)
    integral = quad(lambda tau: p(tau) * q(tau), 0, min(end_a, end_b), epsabs=0, epsrel=1e-12, limit=200)[0]
    assert found == pytest.approx(integral, rel=1e-10)
    later = profile_products(gamma_of(a), 1e9 * end_a, gamma_of(b), 1e9 * end_b)
    assert later * 1e9 == pytest.approx(found, rel=1e-12), "no power of a step overflows"


def test_the_distance_is_that_of_the_profiles() -> None:
    lengths, ends = [0.05] * 4 + [0.1] * 4, [1.0, 2.0, 3.0, 4.0] * 2
    found, wanted = rebuilt(0.15, 4.0, lengths, ends), profile(0.15, 4.0)
    kept = [profile(length, end) for length, end in zip(lengths, ends, strict=True)]

    def apart(tau: float) -> float:
        return wanted(tau) - sum(f * p(tau) for f, p in zip(found.factors, kept, strict=True))

    squares = [quad(lambda tau, f=f: f(tau) ** 2, 0, 4, points=[1, 2, 3], limit=400)[0] for f in (apart, wanted)]
    assert found.distance == pytest.approx((squares[0] / squares[1]) ** 0.5, rel=1e-6)
    assert found.factors.sum() == pytest.approx(1, abs=1e-12)


def summed(length: float, weights: list[Tensor]) -> Tensor:
    """The integral of the profile over each step times the weights after it, summed."""
    power, steps = gamma_of(length) + 1, np.arange(1, len(weights) + 1)
    shares = (steps / len(weights)) ** power - ((steps - 1) / len(weights)) ** power
    return torch.from_numpy(shares) @ torch.stack(weights)


class Course:
    """A run of float64 weights that drift and tremble, with all of them, and its snapshots."""

    def __init__(self, folder: Path, lengths: tuple[float, ...] = STORED) -> None:
        self.what = recipe(num_steps=STEPS, ema_lengths=lengths, snapshot_every=EVERY)
        self.state: TrainState = state_of(self.what)
        self.state.step, self.weights = 0, list[Tensor]()
        self.snapshots, stream = Snapshots(folder), torch.Generator().manual_seed(5)
        for step in range(STEPS):
            with torch.no_grad():
                for i, p in enumerate(self.state.model.parameters()):
                    drift = 0.02 * torch.sin(torch.tensor(3.0 * step / STEPS + i))
                    p.add_(drift + 0.01 * torch.randn(p.shape, generator=stream, dtype=p.dtype))
            update_emas(self.state)
            self.state.step += 1
            self.weights.append(self.flat(dict(self.state.model.named_parameters())))
            if self.state.step in self.what.training.snapshot_steps:
                self.snapshots.save(self.state, self.what.training)

    @staticmethod
    def flat(weights: dict[str, Tensor]) -> Tensor:
        return torch.cat([weights[name].detach().flatten() for name in sorted(weights)])

    def average(self, length: float, end: int = STEPS) -> Tensor:
        return summed(length, self.weights[:end])

    def rebuilt(self, length: float, end: int | None = None) -> Tensor:
        return self.flat(self.snapshots.rebuilt_weights(length, end)[1])


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Course:
    return Course(tmp_path_factory.mktemp("course"))


@pytest.mark.parametrize("length", STORED)
@pytest.mark.parametrize("end", [10, 80, STEPS])
def test_a_kept_average_is_the_sum_over_all_weights(course: Course, length: float, end: int) -> None:
    assert float((course.rebuilt(length, end) - course.average(length, end)).abs().max()) < 1e-13


def test_a_step_that_is_left_out_is_time_all_the_same() -> None:
    state, weights = state_of(recipe(num_steps=8, ema_lengths=STORED)), list[Tensor]()
    state.step = 0
    for step in range(8):
        if step in (0, 5):
            plain = {name: weight.clone() for name, weight in state.average("0.5").items()}
            skip(state)
            assert all(torch.equal(weight, plain[name]) for name, weight in state.average("0.5").items())
        else:
            with torch.no_grad():
                for p in state.model.parameters():
                    p.add_(0.1 * step)
            update_emas(state)
            state.step += 1
        weights.append(Course.flat(dict(state.model.named_parameters())))
    for length in STORED:
        found = Course.flat(state.average(f"length{length}"))
        assert float((found - summed(length, weights)).abs().max()) < 1e-13


def test_a_kept_average_comes_back_bitwise(course: Course) -> None:
    for length in STORED:
        assert torch.equal(course.rebuilt(length), course.flat(course.state.average(f"length{length}")))


@pytest.mark.parametrize(("length", "error"), ERRORS.items())
def test_another_length_is_rebuilt(course: Course, length: float, error: float) -> None:
    true = course.average(length)
    assert float((course.rebuilt(length) - true).norm() / (true - course.weights[-1]).norm()) < error


def test_an_average_trained_beside_is_rebuilt_without_it(course: Course, tmp_path: Path) -> None:
    beside = Course(tmp_path, (0.07,)).state.average("length0.07")
    found = course.snapshots.rebuilt_weights(0.07)[1]
    assert course.flat(found).shape == course.flat(beside).shape
    distance = (course.flat(found) - course.flat(beside)).norm()
    assert float(distance / course.flat(beside).norm()) < 1e-4


@pytest.mark.parametrize("length", [0.03, 0.07, 0.2])
def test_weights_that_do_not_move_come_back(length: float) -> None:
    """Also where few averages are kept."""
    assert rebuilt(length, 4.0, [0.05, 0.1], [4.0, 4.0]).factors.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("length", "end"), [(0.005, None), (LONGEST, None), (0.07, 10)])
def test_what_the_snapshots_do_not_carry_is_refused(course: Course, length: float, end: int | None) -> None:
    with pytest.raises(ValueError, match=r"ema_length: received .*; allowed: lengths that \d+ snapshots .* nearest is"):
        course.snapshots.rebuilt_weights(length, end)


@pytest.mark.parametrize("count", [64, 256])
def test_many_snapshots_still_keep_each_average(count: int) -> None:
    kept = [(length, step) for step in range(1, count + 1) for length in (0.03, 0.05, 0.1)]
    lengths, ends = zip(*kept, strict=True)
    for length in (0.03, 0.05, 0.1):
        factors = rebuilt(length, count, lengths, ends).factors
        assert np.flatnonzero(factors).tolist() == [kept.index((length, count))]


def test_half_precision_carries_no_length_that_amplifies_its_rounding() -> None:
    lengths, ends = [0.05] * 64 + [0.1] * 64, [*range(1, 65)] * 2
    check_carried(0.02, 64, lengths, ends)
    with pytest.raises(ValueError, match="in float16, carry; the nearest is") as error:
        check_carried(0.02, 64, lengths, ends, "float16")
    nearest = float(str(error.value).split("the nearest is ")[1].split(";")[0])
    check_carried(nearest, 64, lengths, ends, "float16")


def test_the_plain_mean_may_be_asked_for_as_it_is_spelled() -> None:
    assert gamma_of(0.2887) == 0
    with pytest.raises(ValueError, match=r"length <= 0\.2887"):
        gamma_of(0.2888)


def test_half_precision_keeps_weights_to_its_rounding(course: Course, tmp_path: Path) -> None:
    half = course.what.training.model_copy(update={"snapshot_precision": "float16"})
    snapshots = Snapshots(tmp_path)
    snapshots.save(course.state, half)
    back, kept = snapshots.rebuilt_weights(0.05)[1], course.state.average("length0.05")
    for name, weight in back.items():
        assert weight.dtype == torch.float32
        assert bool(((weight - kept[name]).abs() <= 2**-11 * kept[name].abs() + 2**-25).all())
