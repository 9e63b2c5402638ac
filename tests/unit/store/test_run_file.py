"""Round trips, atomic replacement, damage and versions of run files."""

import errno
import os
import re
import resource
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from dynamics import atomic
from dynamics.store import (
    SCHEMA_VERSION,
    collect,
    netcdf,
    open_results,
    read_run,
    run_file,
    update_run,
    write_run,
    write_tree,
)
from dynamics.store.checksum import LENGTH, TAG
from dynamics.store.inspection import inspected

ATTRS = {"units": "1", "long_name": "x"}


def var(dims: object, values: object, **attrs: object) -> xr.Variable:
    return xr.Variable(dims, values, {**ATTRS, **attrs})


def rich() -> xr.Dataset:
    return xr.Dataset(
        {
            "f8": var("step", [1.0, np.nan, -np.inf]),
            "f4": var("step", np.float32([0.1, 2, 3]), two=[1, 2], names=["a", "b"], unicode="é日", nothing=""),
            "i4": var("step", np.int32([1, -2, 3])),
            "u1": var("step", np.uint8([0, 1, 255])),
            "i8": var("step", [2**62, -(2**62), 0]),
            "c16": var("step", np.array([1j, 2, 3])),
            "flag": var("step", [True, False, True]),
            "text": var("step", ["a", "", "é日本 longer"]),
            "scalar": var((), 2.5),
            "word": var((), "hé"),
            "table": var(("step", "bare"), np.arange(12.0).reshape(3, 4)),
            "none": var(("zero", "bare"), np.zeros((0, 4), dtype=np.float32)),
            "no_text": var("zero", np.zeros(0, dtype="U3")),
            "seconds_spent": var("step", [1.0, 2.0, 3.0], units="seconds"),
            "large": var("wide", np.arange(20_000.0)),
            "square": var(("task", "task2"), np.eye(2)),
        },
        {"step": [3, 4, 5], "label": ("step", ["x", "yy", "z"]), "scale": 7, "task": ["v", "u[.1,.3]"]},
        {"splits": 4, "note": "é"},
    )


def groups() -> dict[str, xr.Dataset]:
    only_coords = xr.Dataset(coords={"q": [1.0, 2.0], "name": ("q", ["a", "b"])})
    return {"training": rich(), "empty": xr.Dataset(), "coords": only_coords}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a run [1] é" / "run.nc"


def test_round_trip(path: Path) -> None:
    write_run(path, groups(), {"run_id": "a", "seed": 3, "seconds": 1.5})
    tree = read_run(path)
    assert set(tree.children) == set(groups())
    for name, expected in groups().items():
        found = tree[name].to_dataset()
        xr.testing.assert_identical(found, expected)
        for key, variable in expected.variables.items():
            assert found[key].dtype == variable.dtype or variable.size == 0, key
            assert found[key].encoding == {}
    assert tree.attrs == {"run_id": "a", "seed": 3, "seconds": 1.5, "schema_version": SCHEMA_VERSION}
    assert {type(value) for value in tree.attrs.values()} == {str, int, float}


@pytest.mark.parametrize("way", ["short", "long"])
def test_our_reader_agrees_with_xarrays(path: Path, way: str) -> None:
    write_run(path, groups(), {"run_id": "a"})
    with h5py.File(path, "a") as file:
        assert netcdf.CONSOLIDATED in file.attrs
        if way == "long":
            del file.attrs[netcdf.CONSOLIDATED]
            # the netCDF C library writes ASCII attributes like this
            file["training"].attrs["fixed"] = np.bytes_("abc")
    with h5py.File(path) as file:
        ours = netcdf.read(file, inspected(file, str(path), path.stat().st_size))
    theirs = xr.open_groups(path, engine="h5netcdf", decode_times=False)
    assert set(ours) == set(theirs)
    for name, lazy in theirs.items():
        twin = lazy.load()
        twin.attrs.pop(netcdf.CONSOLIDATED, None)
        xr.testing.assert_identical(ours[name], twin)
        assert {n: v.dtype for n, v in ours[name].variables.items()} == {n: v.dtype for n, v in twin.variables.items()}
        lazy.close()


@pytest.mark.parametrize("way", ["short", "long"])
def test_a_small_file_packs_its_strings(path: Path, way: str) -> None:
    texts = np.array([["é" * (i % 7), f'{{"seed": {i}}}'] for i in range(300)])
    dataset = xr.Dataset(coords={"text": (("row", "two"), texts), "few": ("two", ["a", ""])})
    write_run(path, {"training": dataset}, {"slim": 1})
    with h5py.File(path, "a") as file:
        assert file["training/text"].dtype == "S1"
        assert file["training/text"].id.get_storage_size() < 2 * texts.size
        if way == "long":
            del file.attrs[netcdf.CONSOLIDATED]
    with h5py.File(path) as file:
        ours = netcdf.read(file, inspected(file, str(path), path.stat().st_size))["/training"]
    xr.testing.assert_identical(ours, dataset)
    assert ours.text.dtype == texts.dtype
    with xr.open_dataset(path, group="training", engine="h5netcdf") as theirs:
        xr.testing.assert_identical(theirs.load(), dataset)


def test_packed_strings_do_not_fill_the_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(path, {"training": xr.Dataset(coords={"text": ("row", ["a" * 100] * 100)})}, {"slim": 1})
    monkeypatch.setattr(netcdf, "LONGEST", 9_999)
    with pytest.raises(ValueError, match="10000 letters"), h5py.File(path) as file:
        netcdf.read(file, inspected(file, str(path), path.stat().st_size))


def test_attributes_are_encoded_and_the_callers_stay(path: Path) -> None:
    dataset = xr.Dataset({"a": var("x", [1.0], law={"p": 1}, on=True)}, attrs={"parent": None})
    before = dataset.copy(deep=True)
    write_run(path, {"gaps": dataset}, {"path": Path("/data"), "amp": False, "options": {"a": None}, "none": None})
    xr.testing.assert_identical(dataset, before)
    tree = read_run(path)
    assert tree["gaps/a"].attrs == {**ATTRS, "law": '{"p": 1}', "on": 1}
    assert tree["gaps"].attrs == {"parent": ""}
    found = {name: tree.attrs[name] for name in ("path", "amp", "options", "none")}
    assert found == {"path": "/data", "amp": 0, "options": '{"a": null}', "none": ""}


def test_a_bad_dataset_changes_nothing(path: Path) -> None:
    write_run(path, {"gaps": rich()}, {})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="gaps/a"):
        write_run(path, {"gaps": xr.Dataset({"a": ("x", [1.0])})}, {})
    with pytest.raises(ValueError, match="gaps/a"):
        update_run(path, "gaps", xr.Dataset({"a": ("x", [1.0])}))
    assert path.read_bytes() == before


@pytest.mark.parametrize("stage", ["write", "fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_no_other(path: Path, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(path, {"gaps": rich()}, {"run_id": "old"})
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if stage == "write":
        monkeypatch.setattr(Path, "write_bytes", fail)
    else:
        monkeypatch.setattr(atomic.os, stage, fail)
    for call in (
        lambda: write_run(path, {"gaps": rich()}, {"run_id": "new"}),
        lambda: update_run(path, "more", rich()),
        lambda: write_tree(path, xr.DataTree()),
    ):
        with pytest.raises(OSError, match=r"No space left on device: '.*/run\.nc'"):
            call()
        assert path.read_bytes() == before
        assert sorted(os.listdir(path.parent)) == [".run.nc.lock", "run.nc"]


def test_a_full_disk_is_an_error_in_words(path: Path) -> None:
    """The system itself refuses to write on: HDF5 would take the process down."""
    write_run(path, {"gaps": rich()}, {"run_id": "old"})
    before = path.read_bytes()
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, usual[1]))
    try:
        with pytest.raises(OSError, match=re.escape(f"[Errno 27] File too large: '{path}'")):
            update_run(path, "more", rich())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert path.read_bytes() == before
    assert sorted(os.listdir(path.parent)) == [".run.nc.lock", "run.nc"]


def test_leftovers_of_a_killed_writer_go_with_the_next_write(path: Path) -> None:
    write_run(path, {}, {})
    (path.parent / ".run.nc.0123.tmp").write_bytes(b"half")
    (path.parent / ".other.nc.0123.tmp").write_bytes(b"half")
    write_run(path, {}, {})
    assert sorted(os.listdir(path.parent)) == [".other.nc.0123.tmp", ".run.nc.lock", "run.nc"]


def test_update_replaces_one_group_and_keeps_the_others(path: Path) -> None:
    write_run(path, groups(), {"run_id": "a", "seed": 1, "list": [1, 2]})
    fresh = xr.Dataset({"fd_digits": var("nfe", [3.0, 2.0])}, {"nfe": [1, 2]})
    update_run(path, "evaluation", fresh, {"seconds": 2.5, "seed": 2})
    update_run(path, "coords", fresh)
    tree = read_run(path)
    xr.testing.assert_identical(tree["training"].to_dataset(), rich())
    xr.testing.assert_identical(tree["evaluation"].to_dataset(), fresh)
    xr.testing.assert_identical(tree["coords"].to_dataset(), fresh)
    assert (tree.attrs["run_id"], tree.attrs["seed"], tree.attrs["seconds"]) == ("a", 2, 2.5)
    assert list(tree.attrs["list"]) == [1, 2]


def test_files_of_the_tests_are_those_of_users(path: Path) -> None:
    """The tests' conftest has them written faster; where chunks lie in the file may differ, and nothing else."""
    found, sizes = [], []
    for write in (run_file._write, run_file._write.plain):  # type: ignore[attr-defined]
        write(path, run_file._run_tree(groups(), {"run_id": "a"}))
        found.append(xr.open_datatree(path, engine="h5netcdf", decode_times=False).load())
        found[-1].close()
        sizes.append(path.stat().st_size)
    xr.testing.assert_identical(*found)
    assert sizes[0] == sizes[1]


def test_update_of_a_missing_file_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="write the run first"):
        update_run(tmp_path / "no" / "run.nc", "a", xr.Dataset())
    assert os.listdir(tmp_path) == []


def test_any_flipped_byte_is_refused_or_harmless(path: Path) -> None:
    """In numbers, scalars, strings, attributes, the structure, and the checksum itself."""
    write_run(path, {"gaps": rich()}, {"run_id": "a", "config_json": '{"seed": 3}'})
    expected, content = read_run(path), path.read_bytes()
    random_state = np.random.default_rng(0)
    known = [content.index(part) for part in (b"longer", b"seed", b"seconds", np.float64(2.5).tobytes(), b"sha256 ")]
    refused = 0
    offsets = [*known, *random_state.integers(0, len(content), 100), *range(len(content) - 73, len(content), 7)]
    for offset in offsets:
        damaged = bytearray(content)
        damaged[offset] ^= 1 << int(random_state.integers(8))
        path.write_bytes(damaged)
        try:
            same = read_run(path).identical(expected)
        except ValueError as error:
            same, refused = bool(re.search(r"run\.nc.*(undamaged|netCDF-4).*remedy", str(error))), refused + 1
        assert same, offset
    assert refused == len(offsets)


def test_files_without_a_checksum_are_read_as_before(path: Path) -> None:
    write_run(path, {"gaps": rich()}, {"run_id": "a"})
    expected, content = read_run(path), path.read_bytes()
    path.write_bytes(content[:-LENGTH])
    assert read_run(path).identical(expected)
    path.write_bytes(content)
    with h5py.File(path, "r+") as file:  # another program changes it
        file.attrs["note"] = "mine"
    assert read_run(path).attrs == {**expected.attrs, "note": "mine"}
    update_run(path, "more", rich())
    assert path.read_bytes()[-LENGTH:].startswith(TAG)


@pytest.mark.parametrize("engine", ["h5netcdf", "h5py"])
def test_a_file_that_is_open_elsewhere_in_the_process_is_read_and_changed(path: Path, engine: str) -> None:
    write_run(path, {"gaps": rich()}, {"run_id": "a"})
    with xr.open_datatree(path, engine="h5netcdf") if engine == "h5netcdf" else h5py.File(path) as there:
        assert open_results(path).attrs["run_id"] == "a"
        update_run(path, "more", rich())
        assert "more" in open_results(path)
        assert "more" not in there


def test_truncated_and_foreign_files_are_errors(path: Path) -> None:
    write_run(path, {"gaps": rich()}, {})
    content = path.read_bytes()
    for damaged, said in (
        (b"", "is empty"),
        (b"not a netCDF file", "begins with"),
        (content[: len(content) // 2], "undamaged"),
        (content[:100], "undamaged"),
        (content[: -LENGTH - 1], "undamaged"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"run\.nc.*{said}.*remedy"):
            read_run(path)
    xr.Dataset({"a": ("x", [1.0])}).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(ValueError, match=r"run\.nc.*schema_version"):
        read_run(path)


def test_a_newer_schema_is_refused_by_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(run_file, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
        write_run(path, {}, {})
    with pytest.raises(ValueError, match=rf"schema_version of .*run\.nc: received {SCHEMA_VERSION + 1}"):
        read_run(path)


def test_a_branch_is_written_as_a_tree(path: Path) -> None:
    study = xr.DataTree.from_dict({"/study/training": rich(), "/other": xr.Dataset()})
    write_tree(path, study["study"])
    tree = read_run(path)
    assert list(tree.children) == ["training"]
    xr.testing.assert_identical(tree["training"].to_dataset(), rich())
    assert "schema_version" not in study["study"].attrs


def test_open_results(tmp_path: Path) -> None:
    data = {"gaps": xr.Dataset({"a": var("step", [1.0])}, {"step": [0]})}
    for name in ("a", "b"):
        write_run(tmp_path / "study" / name / "run.nc", data, {"run_id": name, "config_json": "{}"})
    run = tmp_path / "study" / "a"
    assert open_results(run).identical(open_results(run / "run.nc"))
    assert open_results(str(run)).attrs["run_id"] == "a"
    study = open_results(tmp_path / "study")
    assert study["gaps"]["run"].values.tolist() == ["a", "b"]
    write_tree(tmp_path / "other" / "small.nc", collect([run / "run.nc"]))
    assert open_results(tmp_path / "other")["gaps"].sizes["run"] == 1
    write_tree(tmp_path / "other" / "second.nc", study)
    with pytest.raises(ValueError, match=r"second\.nc, small\.nc"):
        open_results(tmp_path / "other")
    write_tree(tmp_path / "other" / "merged.nc", study)
    assert open_results(tmp_path / "other")["gaps"].sizes["run"] == 2
    (tmp_path / "nothing").mkdir()
    for missing in ("nothing", "no_such"):
        with pytest.raises(ValueError, match=f"{missing}.*remedy"):
            open_results(tmp_path / missing)


def test_a_config_beside_that_is_another_one_is_refused(path: Path) -> None:
    config = '{"seed": 3, "data": {"name": "digits"}, "observers": [{"every": 7}]}'
    write_run(path, {}, {"run_id": "a", "config_json": config})
    beside = path.with_name("config.json")
    beside.write_text('{"observers": [{"every": 7, "joined_later": 0}], "data": {"name": "digits"},\n "seed": 3}')
    assert open_results(path.parent).attrs["run_id"] == "a"
    for content, said in (
        (config.replace("3", "4"), "'seed 4 instead of 3'; allowed: the config of run a"),
        (config.replace("7", "8"), "'observers.0.every 8 instead of 7'"),
        ('{"seed": 3, "observers": []}', "observers \\[\\] instead of"),
        ('{"seed": 3, "da', r"Unterminated string"),
        ("[" * 100_000, "recursion"),
        ("\0", "JSON"),
    ):
        beside.write_text(content)
        with pytest.raises(ValueError, match=f"config.json.*{said}.*remedy"):
            open_results(path.parent)
    beside.write_bytes(b'{"seed": "\xff"}')
    with pytest.raises(ValueError, match=r"config\.json.*remedy"):
        open_results(path.parent)
