"""The gates of the testbed, on synthetic runs whose numbers are known."""

import numpy as np
import pytest
import xarray as xr
from synthetic_grams import dataset
from synthetic_runs import bins, evaluation

from dynamics.analysis import regime_gates

AXES = ("rate", "steps", "seed")
TURN = {100: -0.5, 400: 0.5}
"""Cosine of v with the large gaps, by steps."""


def gram(steps: int, names: tuple[str, str], cosine: float) -> xr.Dataset:
    """Two tasks without noise; halfway their cosine is `cosine`, at the ends it is 1."""
    parts = []
    for angle in (1.0, cosine, 1.0):
        g = np.zeros((2, 2, 4, 2))
        g[:, 0, :, 0], g[:, 1, :, 0], g[:, 1, :, 1] = 1, angle, (1 - angle**2) ** 0.5
        one = dataset(g).assign_coords(task=list(names), task2=list(names))
        parts.append(one.assign_coords(gap_low=("task", [0.0, 0.5]), gap_high=("task", [0.0, 0.7])))
    index = xr.DataArray([0, steps // 2, steps], dims="step", name="step")
    return xr.concat(parts, index, data_vars="all", coords="minimal")


def run(steps: int, seed: int) -> dict[str, xr.Dataset]:
    inherited = np.where(bins()["gap_bin_low"][1] >= 0.5, 6.0 if steps == 100 else 4.0, 0.0)
    error = 10.0 * np.ones(6)
    errors = {"u_inherited": (("step", "gap_bin"), [inherited]), "u_error": (("step", "gap_bin"), [error])}
    decomposition = xr.Dataset(errors, {"step": [steps], **bins()})
    forces = gram(steps, ("matching 0.5-0.7", "consistency 0.5-0.7"), 0.0)
    numbers = dict.fromkeys(("fd", "kd", "accuracy", "precision", "recall", "v", "u", "one_step"), 0.5)
    return {
        "evaluation": evaluation(numbers | {"fd": 30 * np.exp(seed / 10) if steps == 100 else 10.0}),
        "decomposition": xr.merge([decomposition, forces], join="outer"),
        "gram": gram(steps, ("v", "u 0.5-0.7"), TURN[steps] + seed / 100),
    }


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    cells = [(0.1, steps, seed) for steps in (100, 400) for seed in range(3)]
    runs = [run(steps, seed) for _, steps, seed in cells]
    index = {name: ("run", list(values)) for name, values in zip(AXES, zip(*cells, strict=True), strict=True)}
    labels = xr.DataArray([f"r{i}" for i in range(len(cells))], dims="run", name="run")
    merged = {
        f"/{name}": xr.concat([r[name] for r in runs], labels, data_vars="all", coords="minimal", join="outer")
        for name in runs[0]
    }
    return xr.DataTree.from_dict({"/": xr.Dataset(), **{name: ds.assign_coords(index) for name, ds in merged.items()}})


def test_each_gate_says_its_number_and_whether_it_is_passed(tree: xr.DataTree) -> None:
    found = regime_gates(tree, AXES).set_index(["steps", "gate"])
    short = found.loc["100"]
    assert short.passed.to_dict() == {"under_trained": True, "inherited": True, "conflict": True}
    assert short.value.to_dict() == pytest.approx(
        {"under_trained": 3 * np.exp(0.1), "inherited": 0.6, "conflict": -0.49}
    )
    assert short.low["under_trained"] == pytest.approx(3 * np.exp(0.1 - 4.302653 * 0.1 / 3**0.5))
    assert (short.num_seeds == 3).all()
    long = found.loc["400"]
    assert long.passed.to_dict() == {"inherited": False, "conflict": False}
    assert long.value["conflict"] == pytest.approx(0.51)


def test_an_interval_that_reaches_the_threshold_does_not_pass(tree: xr.DataTree) -> None:
    found = regime_gates(tree, AXES, level=0.9999).set_index(["steps", "gate"])
    assert not found.passed["100", "under_trained"]
    one = regime_gates(tree.map_over_datasets(lambda ds: ds.isel(run=[0, 3]) if "run" in ds.dims else ds), AXES)
    assert one.high.isna().all()
    assert one.passed.sum() == 3, "one seed has no interval: its own number decides"


def test_a_measurement_of_small_gradients_adds_little_to_the_conflict(tree: xr.DataTree) -> None:
    """Two measurements in the middle half, one of them with a hundredth of the products and the opposite sign."""
    one = tree["gram"].to_dataset().isel(run=[0])
    middle, end = one.sel(step=[50]), one.sel(step=[100])
    opposite = 0.01 * middle.gram * xr.where(middle.task == middle.task2, 1, -1)
    small = middle.assign(gram=opposite).assign_coords(step=[60])
    other = {name: tree[name].to_dataset().isel(run=[0]) for name in ("evaluation", "decomposition")}
    whole = xr.DataTree.from_dict({"/": xr.Dataset(), "gram": xr.concat([middle, small, end], "step"), **other})
    found = regime_gates(whole, AXES).set_index("gate").value["conflict"]
    assert found == pytest.approx(-0.5 * 0.99 / 1.01)
