"""Merging runs: nothing lost, nothing truncated, everything labelled."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from dynamics.store import check, collect, read_run, write_run, write_tree

ATTRS = {"units": "1", "long_name": "x"}


def write(folder: Path, run_id: str, config: object = None, groups: object = None, **attrs: object) -> Path:
    path = folder / run_id / "run.nc"
    default = {"training": training(2)}
    write_run(path, groups or default, {"run_id": run_id, "config_json": json.dumps(config or {}), **attrs})
    return path


def training(steps: int, **variables: xr.Variable) -> xr.Dataset:
    loss = xr.Variable("step", np.arange(steps) + 0.5, ATTRS)
    return xr.Dataset({"loss": loss, **variables}, {"step": np.arange(steps) + 1})


def again(folder: Path, tree: xr.DataTree) -> xr.DataTree:
    for name, node in tree.children.items():
        check(node.to_dataset(), name, merged=True)
    write_tree(folder / "merged.nc", tree)
    return read_run(folder / "merged.nc")


def test_different_steps_strings_and_knobs_survive_two_rewrites(tmp_path: Path) -> None:
    lengths = {"a": 2, "longer name": 4, "b": 3}
    paths = []
    for seed, (run_id, steps) in enumerate(lengths.items()):
        text = xr.Variable("step", ["x" * (5 * seed + 1)] * steps, ATTRS)
        flag = xr.Variable("step", [True] * steps, ATTRS)
        count = xr.Variable((), np.int32(steps), ATTRS)
        config = {"seed": seed, "training": {"lr": 10.0**-seed, "steps": steps, "ema": 0.9}, "name": "n" * (seed + 1)}
        group = training(steps, text=text, flag=flag, count=count)
        paths.append(write(tmp_path, run_id, config, {"training": group}, seed=seed, host="h" * (seed + 1)))
    tree = collect(paths)
    merged = tree["training"].to_dataset()
    assert merged["run"].values.tolist() == list(lengths)
    assert merged["loss"].dims == ("run", "step")
    np.testing.assert_array_equal(merged["loss"].sel(run="a"), [0.5, 1.5, np.nan, np.nan])
    assert merged["text"].sel(run="b").values.tolist() == ["x" * 11] * 3 + [""]
    np.testing.assert_array_equal(merged["flag"].sel(run="a"), [1, 1, np.nan, np.nan])
    assert merged["count"].dtype == np.int32
    assert merged["loss"].attrs == ATTRS
    np.testing.assert_array_equal(merged["training.lr"], [1.0, 0.1, 0.01])
    assert merged["training.steps"].values.tolist() == [2, 4, 3]
    assert merged["name"].values.tolist() == ["n", "nn", "nnn"]
    assert merged["host"].values.tolist() == ["h", "hh", "hhh"]
    assert "training.ema" not in merged.coords
    assert json.loads(str(merged["config_json"].sel(run="b").item()))["training"]["steps"] == 3
    first = again(tmp_path, tree)
    xr.testing.assert_identical(first, tree)
    xr.testing.assert_identical(again(tmp_path, first), tree)
    longest = write(tmp_path, "a much longer name than before", {"name": "n" * 50}, host="h" * 40)
    xr.testing.assert_identical(again(tmp_path, collect([*paths, longest])), collect([*paths, longest]))


def test_groups_and_variables_may_be_missing(tmp_path: Path) -> None:
    extra = {name: xr.Variable("step", values, ATTRS) for name, values in (("n", [1, 2]), ("s", ["a", "b"]))}
    gaps = xr.Dataset({"cos": xr.Variable((), 1.0, ATTRS)})
    paths = [
        write(tmp_path, "a"),
        write(tmp_path, "b", groups={"training": training(2, **extra), "gaps": gaps, "empty": xr.Dataset()}),
    ]
    tree = again(tmp_path, collect(paths))
    assert tree["training"]["run"].values.tolist() == ["a", "b"]
    assert tree["gaps"]["run"].values.tolist() == ["b"]
    assert tree["empty"].sizes == {"run": 1}
    np.testing.assert_array_equal(tree["training/n"], [[np.nan, np.nan], [1, 2]])
    assert tree["training/s"].values.tolist() == [["", ""], ["a", "b"]]
    assert tree["training/n"].attrs == ATTRS


def test_labels_that_differ_are_joined_and_scalars_stack(tmp_path: Path) -> None:
    paths = []
    for run_id, blocks in (("a", ["whole", "block0"]), ("b", ["whole", "block0", "block1"])):
        gram = xr.Variable("group", np.arange(len(blocks), dtype=float), ATTRS)
        data = xr.Dataset({"gram": gram}, {"group": blocks, "scheme": "exact", "rank": len(blocks)})
        paths.append(write(tmp_path, run_id, groups={"gram": data}))
    merged = again(tmp_path, collect(paths))["gram"].to_dataset()
    assert merged["gram"].sel(run="b", group="block1").item() == 2.0
    assert np.isnan(merged["gram"].sel(run="a", group="block1").item())
    assert merged["scheme"].item() == "exact"
    assert merged["rank"].values.tolist() == [2, 3]


def test_knobs_of_all_kinds(tmp_path: Path) -> None:
    configs = [
        {"a": {"flag": True, "maybe": None, "list": [1, 2], "same": 1, "kind": "x", "mixed": 1, "only": 2}},
        {"a": {"flag": False, "maybe": 3, "list": [1], "same": 1.0, "kind": None, "mixed": "auto"}},
    ]
    paths = [write(tmp_path, f"r{i}", config, seconds=i + 0.5) for i, config in enumerate(configs)]
    merged = again(tmp_path, collect(paths, {"arm": ["small first", "large first"]}))["training"].to_dataset()
    assert merged["a.flag"].values.tolist() == [True, False]
    np.testing.assert_array_equal(merged["a.maybe"], [np.nan, 3])
    assert merged["a.list"].values.tolist() == ["[1, 2]", "[1]"]
    assert merged["a.kind"].values.tolist() == ["x", ""]
    assert merged["a.mixed"].values.tolist() == ["1", "auto"]
    np.testing.assert_array_equal(merged["a.only"], [2, np.nan])
    assert "a.same" not in merged.coords
    assert merged["arm"].values.tolist() == ["small first", "large first"]
    assert merged["seconds"].values.tolist() == [0.5, 1.5]
    with pytest.raises(ValueError, match=r"knobs\['arm'\].*2 values"):
        collect(paths, {"arm": [1]})


def test_a_knob_named_like_a_variable_keeps_both(tmp_path: Path) -> None:
    paths = [write(tmp_path, f"r{i}", {"loss": i, "step": i}) for i in range(2)]
    merged = collect(paths)["training"].to_dataset()
    assert merged["loss"].dims == ("run", "step")
    assert merged["config.loss"].values.tolist() == merged["config.step"].values.tolist() == [0, 1]


def test_a_knob_named_like_provenance_does_not_replace_it(tmp_path: Path) -> None:
    paths = [write(tmp_path, f"r{i}", {"seed": i, "host": f"asked{i}"}, seed=i + 10, host="real") for i in range(2)]
    merged = collect(paths)["training"].to_dataset()
    assert merged["seed"].values.tolist() == [10, 11]
    assert merged["host"].values.tolist() == ["real", "real"]


def test_group_attributes_that_differ_become_coordinates(tmp_path: Path) -> None:
    paths = [
        write(tmp_path, name, groups={"evaluation": training(1).assign_attrs(extractor=name, samples=100)})
        for name in ("digits", "mobilenet")
    ]
    merged = again(tmp_path, collect(paths))["evaluation"].to_dataset()
    assert merged["evaluation.extractor"].values.tolist() == ["digits", "mobilenet"]
    assert merged.attrs == {"samples": 100}


def test_units_that_differ_are_an_error_and_long_names_are_not(tmp_path: Path) -> None:
    def path(run_id: str, units: str, long_name: str) -> Path:
        data = xr.Dataset({"a": xr.Variable((), 1.0, {"units": units, "long_name": long_name})})
        return write(tmp_path, run_id, groups={"gaps": data})

    kept = collect([path("a", "s", "time"), path("b", "s", "time used")])
    assert kept["gaps/a"].attrs == {"units": "s", "long_name": "time"}
    with pytest.raises(ValueError, match=r"gaps.*\['ms', 's'\]"):
        collect([path("a", "s", "time"), path("c", "ms", "time")])


def test_errors_name_the_files(tmp_path: Path) -> None:
    first = write(tmp_path, "a")
    copy = tmp_path / "copy.nc"
    copy.write_bytes(first.read_bytes())
    with pytest.raises(ValueError, match=r"run_id: received 'a'.*/a/run\.nc and .*copy\.nc"):
        collect([first, copy])
    write_tree(copy, collect([first]))
    with pytest.raises(ValueError, match=r"run_id of .*copy\.nc.*not merged ones"):
        collect([first, copy])
    with pytest.raises(ValueError, match="run_files"):
        collect([])
    with pytest.raises(ValueError, match=r"no\.nc"):
        collect([tmp_path / "no.nc"])
    write_run(copy, {}, {"run_id": "x", "config_json": "{"})
    with pytest.raises(ValueError, match=r"config_json of .*copy\.nc"):
        collect([copy])
    bare = [
        write(tmp_path, f"n{n}", groups={"g": xr.Dataset({"a": xr.Variable("x", [1.0] * n, ATTRS)})}) for n in (1, 2)
    ]
    with pytest.raises(ValueError, match=r"group 'g'.*coordinate"):
        collect(bare)
