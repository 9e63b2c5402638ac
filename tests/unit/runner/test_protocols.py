"""Results of every protocol lie side by side in the run's file, and nothing measured is replaced unasked."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import dynamics
from dynamics.analysis import metric_title, summary
from dynamics.config import RunConfig
from dynamics.models import DiTOptions
from dynamics.runner import run
from dynamics.store import collect, open_results, protocol_name
from dynamics.training import TrainingOptions

USUAL: dict[str, Any] = {"nfe": (1,), "num_samples": 12, "exact_rows": 2, "progress": False}
OTHERS: tuple[dict[str, Any], ...] = (
    {"num_samples": 20},
    {"weights": "model", "seed": 1},
    {"exact_rows": 3, "checkpoint": 1},
    {"field": "v", "nfe": (2,), "method": "heun"},
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    training = TrainingOptions(num_steps=2, batch_size=8, checkpoint_every=1, num_threads=1)
    config = RunConfig(model=DiTOptions(dim=16, depth=1, heads=2), training=training)
    return run(config, tmp_path_factory.mktemp("protocols") / "run", progress=False)


@pytest.fixture
def folder(trained: Path) -> Path:
    """A run that was trained, and not evaluated."""
    groups = dict(open_results(trained).children)
    kept = {name: child.to_dataset() for name, child in groups.items() if not name.startswith("evaluation")}
    dynamics.store.write_run(trained / "run.nc", kept, dict(open_results(trained).attrs))
    return trained


def evaluations(folder: Path) -> dict[str, xr.Dataset]:
    children = open_results(folder).children
    return {name: child.to_dataset() for name, child in children.items() if name.startswith("evaluation")}


def test_every_pair_of_protocols_is_there_afterwards(folder: Path) -> None:
    seen: dict[str, xr.Dataset] = {}
    for options in ({}, *OTHERS):
        measured = dynamics.evaluate(folder, **{**USUAL, **options})
        there = evaluations(folder)
        for name, before in seen.items():
            xr.testing.assert_identical(there[name], before)
        new = set(there) - set(seen)
        assert len(new) == 1, options
        seen[new.pop()] = measured
    assert next(iter(seen)) == "evaluation"
    names = set(seen) - {"evaluation"}
    assert {"evaluation_n20_seed0_ema_rows2", "evaluation_n12_seed0_ema_heun_rows2"} <= names
    for one, two in combinations(seen.values(), 2):
        assert one.attrs["protocol"] != two.attrs["protocol"]
    table = summary(open_results(folder))
    assert {
        "fd_digits_u_nfe1",
        "fd_digits_u_nfe1@n20_seed0_ema_rows2",
        "one_step_error@n12_seed0_ema_rows3_step1",
    } <= set(table)
    assert metric_title("fd_digits_u_nfe1@n20_seed0_ema").endswith("NFE 1, n20_seed0_ema")


def test_other_settings_of_one_protocol_join_it_and_the_same_ones_stay(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = dynamics.evaluate(folder, **USUAL)
    joined = dynamics.evaluate(folder, **{**USUAL, "field": "v", "nfe": (2,)})
    assert (joined.field.values.tolist(), joined.nfe.values.tolist()) == (["u", "v"], [1, 2])
    np.testing.assert_array_equal(joined.fd_digits.sel(field="u", nfe=1), first.fd_digits.sel(field="u", nfe=1))
    again = dynamics.evaluate(folder, **{**USUAL, "progress": True})
    assert "NFE 1 of u was measured before" in capsys.readouterr().err
    xr.testing.assert_identical(again, joined)
    marked = again.copy(deep=True)
    marked["fd_digits"][:] = 7.0
    dynamics.store.update_run(folder / "run.nc", "evaluation", marked)
    assert float(dynamics.evaluate(folder, **USUAL).fd_digits.sel(field="u", nfe=1)) == 7.0
    anew = dynamics.evaluate(folder, **USUAL, replace=True)
    assert float(anew.fd_digits.sel(field="u", nfe=1)) == float(first.fd_digits.sel(field="u", nfe=1))
    assert float(anew.fd_digits.sel(field="v", nfe=2)) == 7.0, "what was not asked for stays"


ABOUT = {"num_samples": 12, "evaluation_seed": 0, "weights": "ema", "label_mode": "uniform", "method": "euler"}


@pytest.mark.parametrize(
    "change",
    [
        {"num_samples": 13},
        {"evaluation_seed": 1},
        {"weights": "0.99"},
        {"label_mode": "balanced"},
        {"method": "heun"},
        {"exact_rows_per_bin": 4},
        {"checkpoint": 5},
        {"reference_sha256": "a" * 64},
    ],
)
def test_every_choice_names_another_protocol(change: dict[str, Any]) -> None:
    usual = {**ABOUT, "exact_rows_per_bin": 128, "checkpoint": 10}
    assert protocol_name(usual, 10) == "n12_seed0_ema"
    assert protocol_name({**usual, **change}, 10) != "n12_seed0_ema"


def of_run(run_id: str, **groups: int) -> dict[str, xr.Dataset]:
    """Groups of one run by name, with the number of samples that their one number is of."""
    content = {"/": xr.Dataset(attrs={"run_id": run_id})}
    for name, count in groups.items():
        attrs = {"num_samples": count, "evaluation_seed": 0, "weights": "ema"}
        values = {"fd": (("field", "nfe"), [[float(count)]], {"units": "1", "long_name": "x"})}
        content[f"/{name}"] = xr.Dataset(values, {"field": ["u"], "nfe": [1]}, attrs)
    return content


@pytest.mark.parametrize(("wanted", "first"), [((), 500), (("n2000_seed0_ema",), 2000)])
def test_runs_are_merged_with_what_was_measured_alike(wanted: tuple[str, ...], first: int) -> None:
    runs = [
        of_run("a", evaluation=500, evaluation_n2000_seed0_ema=2000),
        of_run("b", evaluation=2000, evaluation_n500_seed0_ema=500),
        of_run("c", evaluation=500),
    ]
    tree = dynamics.store.merge([(str(i), content) for i, content in enumerate(runs)], wanted=wanted)
    other = 2500 - first
    assert set(tree.children) == {"evaluation", f"evaluation_n{other}_seed0_ema"}
    assert set(tree["evaluation"].fd.values.ravel()) == {first}
    assert set(tree[f"evaluation_n{other}_seed0_ema"].fd.values.ravel()) == {other}
    assert set(tree["evaluation"].run.values) == ({"a", "b", "c"} if first == 500 else {"a", "b"})


def test_collect_of_folders_that_differ(folder: Path) -> None:
    dynamics.evaluate(folder, **USUAL)
    dynamics.evaluate(folder, **{**USUAL, "seed": 1})
    tree = collect([folder / "run.nc"])
    assert {"evaluation", "evaluation_n12_seed1_ema_rows2"} <= set(tree.children)
