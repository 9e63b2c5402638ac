"""What is asked of samples, and what is measured where there are features, pictures, or points of the plane."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dynamics.data import Checkerboard, Digits, DigitsMixture, TwoMoons
from dynamics.evaluation import EvaluationOptions, evaluate, reference_for
from dynamics.evaluation.distance_floor import samples_of
from dynamics.evaluation.distances import energy_distance
from dynamics.evaluation.sample_quality import draw_conditions
from dynamics.evaluation.vector_field import EXTENT, NUM_SIDE, TIMES, vector_field
from dynamics.flow.condition import ClassLabels, Joint
from dynamics.oracles import GaussianOracle
from dynamics.rng import generator

CPU = torch.device("cpu")
OPTIONS = EvaluationOptions(nfe=(1, 2), num_samples=300, batch_size=70)


pytestmark = pytest.mark.usefixtures("coarse_truth")


def test_labels_are_those_of_earlier_runs() -> None:
    stream = generator(0, "evaluation labels")
    expected = torch.randint(10, (300,), generator=stream)
    assert torch.equal(draw_conditions(OPTIONS, ClassLabels(10)), expected)
    balanced = OPTIONS.model_copy(update={"label_mode": "balanced"})
    assert torch.equal(draw_conditions(balanced, ClassLabels(7)), torch.arange(300) % 7)


def test_pictures_are_classes_by_rows_and_features_are_compared() -> None:
    oracle, data = GaussianOracle(0.5), DigitsMixture().load()
    measured = evaluate(oracle.u, reference_for(data), OPTIONS)
    assert measured.samples.dims == ("field", "nfe", "class", "row", "channel", "height", "width")
    assert measured.samples.shape == (1, 2, 10, 10, 1, 8, 8)
    assert {"fd_digits", "kd_digits", "kd_digits_sem", "accuracy", "precision", "recall"} <= set(measured.data_vars)
    assert not {"points", "energy_distance", "velocity"} & set(measured.data_vars)


def test_the_populations_own_samples_have_the_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What answers with fresh samples lies at the floor; the floor is measured once for all runs, and kept."""
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path))
    data, options = DigitsMixture().load(), OPTIONS.model_copy(update={"nfe": (1,), "only_frechet": True})

    def perfect(z: Tensor, t: Tensor, r: Tensor, c: Tensor) -> Tensor:
        return z - samples_of(data, c, generator(int(z[0, 0, 0, 0] * 1e6), "x"))

    measured = evaluate(perfect, reference_for(data), options)
    assert set(measured.data_vars) >= {"fd_digits", "accuracy"}
    assert not {"kd_digits", "precision", "recall"} & set(measured.data_vars)
    distance = float(measured.fd_digits.sel(field="u", nfe=1))
    floor, spread = float(measured.floor_fd_digits), float(measured.floor_fd_digits_std)
    assert 0 < spread < floor
    assert abs(distance - floor) < 4 * spread
    (file,) = (tmp_path / "floors").iterdir()
    file.write_text('{"mean": 7, "std": 1}')
    assert float(evaluate(perfect, reference_for(data), options).floor_fd_digits) == 7
    file.write_text("{")
    assert float(evaluate(perfect, reference_for(data), options).floor_fd_digits) == floor


def test_each_label_gets_samples_of_its_class() -> None:
    data = TwoMoons().load()
    labels = torch.tensor([1, 0, 0, 1, 1, 1, 1])
    x = samples_of(data, labels, generator(0, "x"))
    nearest = torch.cdist(x.flatten(1).double(), data.means).argmin(1)
    assert torch.equal(data.labels[nearest], labels)


def test_finite_data_have_no_floor() -> None:
    measured = evaluate(GaussianOracle(0.5).u, reference_for(Digits().load()), OPTIONS.model_copy(update={"nfe": (1,)}))
    assert "floor_fd_digits" not in measured


def test_batches_of_samples_change_nothing() -> None:
    oracle, reference = TwoMoons().load().oracle(), reference_for(TwoMoons().load())
    whole = OPTIONS.model_copy(update={"batch_size": 300, "nfe": (1,)})
    one, two = (evaluate(oracle.u, reference, o) for o in (OPTIONS, whole))
    np.testing.assert_allclose(one.points.sel(nfe=[1]), two.points, atol=1e-6)


def test_points_are_compared_and_kept_as_they_are() -> None:
    data = TwoMoons().load()
    asked: list[Tensor] = []

    def exact(z: Tensor, t: Tensor, r: Tensor, c: Tensor) -> Tensor:
        asked.append(c)
        return data.oracle().u(z, t, r, c)

    measured = evaluate(exact, reference_for(data), OPTIONS)
    assert measured.points.dims == ("field", "nfe", "point", "axis")
    assert measured.points.shape == (1, 2, 300, 2)
    assert measured.reference_points.shape == (4000, 2)
    assert not {"samples", "accuracy"} & set(measured.data_vars)
    distance, error = measured.energy_distance, measured.energy_distance_sem
    assert bool((abs(distance) < 4 * error + 2e-3).all())
    wrong = evaluate(lambda z, t, r, c: exact(z, t, r, c) + 0.3, reference_for(data), OPTIONS)
    assert bool((wrong.energy_distance > distance + 5e-3).all())
    # each class lies on its own side of the line between the moons
    expected = draw_conditions(OPTIONS, data.condition)
    assert measured.class_of_point.values.tolist() == expected.tolist()
    height = measured.points.sel(nfe=1).isel(field=0, axis=1).values
    assert height[expected == 0].mean() > 0.2 > -0.2 > height[expected == 1].mean()
    kept = torch.from_numpy(measured.points.sel(nfe=2).values[0])
    again = energy_distance(reference_for(data).points, kept)
    assert float(distance[0, 1]) == pytest.approx(again.value, abs=1e-9)
    assert measured.reference_points.attrs["long_name"] == "points of the data"
    assert measured.attrs["num_reference"] == 10_000
    # the field is asked for without a class
    assert set(asked[-1].tolist()) == {2}


@pytest.mark.parametrize("options", [TwoMoons(), Checkerboard()])
def test_the_exact_field_is_drawn_where_it_is(options: TwoMoons | Checkerboard) -> None:
    data = options.load()
    oracle = data.oracle()
    field = vector_field(oracle.u, data, CPU)
    assert field.velocity.dims == ("times", "vertical", "horizontal", "axis")
    np.testing.assert_allclose(field.velocity, field.velocity_exact, atol=1e-5)
    k, i, j = 1, 4, 11
    t, z = TIMES[k][0], (field.horizontal.values[j], field.vertical.values[i])
    assert np.ptp(field.horizontal.values) == 2 * EXTENT
    expected = oracle.v(torch.tensor(z).view(1, 2), torch.tensor([t], dtype=torch.float64))
    np.testing.assert_allclose(field.velocity.values[k, i, j], expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.stack([field.t, field.r], 1), TIMES)


def test_the_density_of_a_field_is_that_of_its_points() -> None:
    data = TwoMoons().load()
    field = vector_field(data.oracle().u, data, CPU)
    cell = (2 * EXTENT / (NUM_SIDE - 1)) ** 2
    mass = field.density.sum(("vertical", "horizontal")) * cell
    np.testing.assert_allclose(mass.values[[1, 4]], 1, atol=0.02)  # at t = 1/2 all lies inside, and is smooth
    x = data.reference()[0].flatten(1).double()
    z = torch.tensor([field.horizontal.values[7], field.vertical.values[9]])
    normal = torch.distributions.MultivariateNormal(z, 0.25 * torch.eye(2, dtype=torch.float64))
    assert float(field.density[1, 9, 7]) == pytest.approx(float(normal.log_prob(0.5 * x).exp().mean()), rel=1e-3)


@dataclass(frozen=True)
class Pair(Joint):
    label: Tensor
    scale: Tensor


class Scaled(ClassLabels):
    """A condition of two tensors, whose first is a label."""

    def draw(self, num_rows: int, mode: str, stream: torch.Generator) -> Pair:  # type: ignore[override]
        return Pair(super().draw(num_rows, "balanced", stream), torch.linspace(0, 1, num_rows))

    def pictured(self, num_each: int) -> Pair:  # type: ignore[override]
        return Pair(super().pictured(num_each), torch.ones(num_each * self.num_classes))


def test_conditions_of_several_tensors_reach_the_network_whole() -> None:
    data = Digits().load()

    class Other(type(data)):  # type: ignore[misc]
        condition = Scaled(10)

    other = Other(data.pixels, data.labels, 16, 10, "digits", "", "", classifier="digits")
    seen: list[Pair] = []

    def u(z: Tensor, t: Tensor, r: Tensor, c: Pair) -> Tensor:
        assert len(c.label) == len(c.scale) == len(z)
        seen.append(c)
        return z

    measured = evaluate(u, reference_for(other), OPTIONS.model_copy(update={"nfe": (1,)}))
    assert measured.samples.shape == (1, 1, 10, 10, 1, 8, 8)
    assert "fd_digits" in measured
    assert "accuracy" not in measured  # nobody knows which part of c a classifier should find
    scales = torch.cat([c.scale for c in seen[1:]]) if len(seen[0].scale) == 100 else torch.cat([c.scale for c in seen])
    assert scales[-300:].tolist() == torch.linspace(0, 1, 300).tolist()
