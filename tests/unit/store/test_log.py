"""The log's promises: exact numbers, torn lines, rewinding, and labelled datasets at the end."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from dynamics import atomic
from dynamics.store import RunLog, check, measurement_datasets, training_dataset


def row(step: int, **values: object) -> dict[str, object]:
    return {"group": "training", "step": step, **values}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a folder" / "log [1].jsonl"


def test_records_round_trip_exactly(path: Path) -> None:
    numbers = [0.1, 1e-310, -0.0, math.pi * 1e200, math.inf, math.nan]
    with RunLog(path) as log:
        log.append(row(1, values=numbers, name='é "quoted"\n', flag=True, none=None))
        log.append(row(2, f4=np.float32(0.1), i=np.int32(3), t=torch.tensor([1.0, 2.0])))
    first, second = RunLog(path).read()
    assert np.array(first["values"]).tobytes() == np.array(numbers).tobytes()
    assert (first["name"], first["flag"], first["none"]) == ('é "quoted"\n', True, None)
    assert (second["f4"], second["i"], second["t"]) == (float(np.float32(0.1)), 3, [1.0, 2.0])


def test_a_record_is_with_the_system_before_close(path: Path) -> None:
    log = RunLog(path)
    log.append(row(1))
    assert RunLog(path).read() == [row(1)]
    log.close()


def test_an_absent_file_is_an_empty_log(path: Path) -> None:
    assert RunLog(path).read() == []
    RunLog(path).rewind(3)
    assert not path.exists()


@pytest.mark.parametrize(
    "record", [{"step": 1}, {"group": "a"}, {"group": "a", "step": 1.5}, {"group": "a", "step": True}]
)
def test_group_and_step_are_needed(path: Path, record: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"record\['(group|step)'\]"):
        RunLog(path).append(record)


def test_what_has_no_json_form_is_refused_and_not_half_written(path: Path) -> None:
    with RunLog(path) as log:
        log.append(row(1))
        with pytest.raises(ValueError, match="object"):
            log.append(row(2, bad=object()))
    assert RunLog(path).read() == [row(1)]


def test_every_torn_end_is_tolerated_and_the_next_record_survives(path: Path) -> None:
    with RunLog(path) as log:
        log.append(row(1, raw_v=3.5))
        log.append(row(2, raw_v=[1.0, 2.0]))
    content = path.read_bytes()
    first = content.index(b"\n") + 1
    for end in range(first, len(content) + 1):
        path.write_bytes(content[:end])
        whole = 2 if end >= len(content) - 1 else 1  # a record without its newline is whole
        assert len(RunLog(path).read()) == whole
        with RunLog(path) as log:
            log.append(row(3))
        assert [record["step"] for record in RunLog(path).read()] == [*range(1, whole + 1), 3]


def test_damage_in_the_middle_names_file_and_line(path: Path) -> None:
    with RunLog(path) as log:
        for step in range(3):
            log.append(row(step))
    lines = path.read_bytes().split(b"\n")
    for damaged in (b'{"group": "trai', b"", b"\x00\xff", b"3", b'{"group": "training"}'):
        path.write_bytes(b"\n".join([lines[0], damaged, *lines[2:]]))
        with pytest.raises(ValueError, match=r"log \[1\]\.jsonl, line 2.*remedy"):
            RunLog(path).read()


def written(path: Path) -> bytes:
    """A log of steps and measurements; return its bytes."""
    with RunLog(path) as log:
        for step in (1, 2, 3):
            log.append(row(step, raw_v=0.1 * step, worst=math.inf if step == 2 else 0.0))
            log.append({"group": "gaps", "step": step, "x": 1})
    return path.read_bytes()


def test_no_change_of_a_character_is_silent(path: Path) -> None:
    content = written(path)
    log, before = RunLog(path), RunLog(path).read()
    mark, last = log.mark_at(3), len(content) - 1
    for place in range(len(content)):
        for other in {ord("0") + (content[place] + 1) % 10, ord("x"), content[place] ^ 1} - {content[place]}:
            path.write_bytes(content[:place] + bytes([other]) + content[place + 1 :])
            if place == last:  # as if the writer had been killed there: a checkpoint knows better
                assert log.mark_at(3) != mark or log.read() == before
                continue
            with pytest.raises(ValueError, match=r"log \[1\]\.jsonl, line \d.*remedy: restore"):
                log.read()


def test_lines_that_are_gone_or_in_another_order_are_not_missed_in_silence(path: Path) -> None:
    lines = written(path).splitlines(keepends=True)
    mark = RunLog(path).mark_at(3)
    for index in range(len(lines) - 1):
        swapped = [*lines[:index], lines[index + 1], lines[index], *lines[index + 2 :]]
        for damaged in (lines[:index] + lines[index + 1 :], swapped, [*lines[: index + 1], *lines[index:]]):
            path.write_bytes(b"".join(damaged))
            with pytest.raises(ValueError, match=r"line \d"):
                RunLog(path).read()
    for left in range(len(lines)):
        path.write_bytes(b"".join(lines[:left]))
        assert RunLog(path).mark_at(3) != mark
    path.write_bytes(b"".join(lines))
    assert RunLog(path).mark_at(3) == RunLog(path).mark_at(9) == mark != RunLog(path).mark_at(2)


def test_a_log_of_an_earlier_version_is_read_and_goes_on_as_one_of_this(path: Path) -> None:
    path.parent.mkdir()
    old = b'{"group": "training", "step": 1, "raw_v": NaN}\n{"group": "training", "step": 2, "raw_v": 0.5}\n'
    path.write_bytes(old)
    assert math.isnan(RunLog(path).read()[0]["raw_v"])
    with RunLog(path) as log:
        log.append(row(3))
    assert [record["step"] for record in RunLog(path).read()] == [1, 2, 3]
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.6"))
    with pytest.raises(ValueError, match="line 3"):
        RunLog(path).read()
    path.write_bytes(old)
    RunLog(path).rewind(2)
    assert [record["step"] for record in RunLog(path).read()] == [1, 2]
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.6"))
    with pytest.raises(ValueError, match="line 2"):
        RunLog(path).read()


def test_what_is_not_finite_is_json_and_comes_back(path: Path) -> None:
    def never(word: str) -> None:
        raise AssertionError(word)

    data = xr.Dataset({"x": ("a", np.array([np.nan, -np.inf, 0.1], dtype=np.float32), {"worst": math.nan})})
    with RunLog(path) as log:
        log.append(row(1, raw_v=math.nan, values=np.array([math.inf, 1.0]), more={"a": (torch.tensor(-math.inf), 2)}))
        log.append({"group": "gaps", "step": 1, "dataset": data})
    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=never)
    first, second = RunLog(path).read()
    assert math.isnan(first["raw_v"])
    assert (first["values"], first["more"]) == ([math.inf, 1.0], {"a": [-math.inf, 2]})
    back = measurement_datasets([second])["gaps"]
    np.testing.assert_array_equal(back["x"].values[0], data["x"].values)
    assert math.isnan(back["x"].attrs["worst"])


def test_a_line_nested_too_deep_is_damage(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("[" * 100_000 + "\n")
    with pytest.raises(ValueError, match=r"line 1"):
        RunLog(path).read()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_log_that_is_removed_under_its_writer_is_an_error(path: Path, replaced: bool) -> None:
    with RunLog(path) as log:
        log.append(row(1))
        log.sync()
        content = path.read_bytes()
        path.unlink()
        if replaced:
            path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a file that was removed or changed.*remedy"):
            log.sync()
        path.write_bytes(b"")
        with pytest.raises(ValueError, match=r"a file that was removed or changed.*remedy"):
            log.read()


def test_rewind_drops_later_records_of_every_group_and_the_torn_line(path: Path) -> None:
    with RunLog(path) as log:
        for step in (1, 2, 3):
            log.append(row(step, raw_v=0.1 * step))
            log.append({"group": "gaps", "step": step, "x": 1})
        before = path.read_bytes().split(b"\n")
        with path.open("ab") as file:
            file.write(b'{"group": "gaps", "st')
        log.rewind(2)
        assert path.read_bytes() == b"\n".join(before[:4]) + b"\n"
        log.append(row(3, raw_v=9.0))
    assert [record["step"] for record in RunLog(path).read()] == [1, 1, 2, 2, 3]


def test_a_failed_rewind_leaves_the_log(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunLog(path) as log:
        log.append(row(1))
        log.append(row(2))
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(atomic.os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        RunLog(path).rewind(1)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_training_dataset() -> None:
    records = [
        row(3, raw_v=1.5, n=3, flag=False, kind="abc"),
        row(1, raw_v=math.inf, n=1, flag=True, gap=[1.0, 2.0]),
        row(2, n=2, flag=True, kind="a", gap=[3, math.nan]),
        {"group": "gaps", "step": 1, "other": 1.0},
    ]
    names = ("raw_v", "n", "flag", "kind", "gap", "never")
    dataset = training_dataset(records, {name: ("1", name) for name in names}, {"gap": ("bin", [0.1, 0.3])})
    check(dataset, "training")
    assert dataset["step"].values.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(dataset["raw_v"], [np.inf, np.nan, 1.5])
    assert (dataset["n"].dtype, dataset["flag"].dtype) == (np.int64, np.bool_)
    assert dataset["kind"].values.tolist() == ["", "a", "abc"]
    assert dataset["gap"].dims == ("step", "bin")
    np.testing.assert_array_equal(dataset["gap"], [[1, 2], [3, np.nan], [np.nan, np.nan]])
    assert dataset["bin"].values.tolist() == [0.1, 0.3]
    assert "never" not in dataset
    assert training_dataset([], {}).sizes == {"step": 0}


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([row(1, odd=1.0)], "training/odd.*units"),
        ([row(1, raw_v=[1.0])], "training/raw_v at step 1.*dims"),
        ([row(1, raw_v=1.0), row(2, raw_v="a")], "training/raw_v at step 1"),
        ([row(1, gap=[1.0])], "training/gap at step 1.*2 numbers"),
        ([row(4, gap=[1.0, None])], "training/gap at step 4"),
        ([row(4, gap=1.0)], "training/gap at step 4"),
        ([row(7), row(7)], "received 7.*rewind"),
    ],
)
def test_training_dataset_names_what_does_not_fit(records: list[dict[str, object]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training_dataset(records, {"raw_v": ("1", "a"), "gap": ("1", "b")}, {"gap": ("bin", [0.1, 0.3])})


def test_one_dimension_has_one_set_of_values() -> None:
    units = {"a": ("1", "a"), "b": ("1", "b")}
    with pytest.raises(ValueError, match="rename the dimension 'bin'"):
        training_dataset([row(1, a=[1.0], b=[2.0])], units, {"a": ("bin", [0.1]), "b": ("bin", [0.2])})


def measured(step: int) -> xr.Dataset:
    attrs = {"units": "1", "long_name": "x"}
    return xr.Dataset(
        {
            "f4": ("bin", np.array([0.1 * step, np.nan], dtype=np.float32), attrs),
            "i4": ((), np.int32(step), attrs),
            "flag": ("bin", [True, False], attrs),
            "empty": (("none", "bin"), np.zeros((0, 2), dtype=np.float32), attrs),
            "name": ("bin", ["a", "b" * step], attrs),
        },
        {"bin": ("bin", [0.1, 0.3], {"units": "1"}), "edge": ("bin", [1, 2]), "scheme": "sketch"},
        {"splits": 4},
    )


def test_measurements_keep_attrs_coords_and_dtypes(path: Path) -> None:
    steps = (10, 0, 5)
    with RunLog(path) as log:
        for step in steps:
            log.append({"group": "gaps", "step": step, "dataset": measured(step)})
        log.append(row(10, raw_v=1.0))
    ((group, dataset),) = measurement_datasets(RunLog(path).read()).items()
    assert group == "gaps"
    check(dataset, group)
    assert dataset["step"].values.tolist() == [0, 5, 10]
    for step in steps:
        part, expected = dataset.sel(step=step).drop_vars("step"), measured(step)
        xr.testing.assert_equal(part, expected)
        assert {n: v.attrs for n, v in part.variables.items()} == {n: v.attrs for n, v in expected.variables.items()}
    kinds = {name: variable.dtype.kind for name, variable in measured(5).variables.items()}
    assert {name: dataset[name].dtype.kind for name in kinds} == kinds
    assert (dataset["f4"].dtype, dataset["i4"].dtype, dataset["empty"].dtype) == (np.float32, np.int32, np.float32)
    assert dataset.attrs == {"splits": 4}
    assert "step" not in dataset["edge"].dims


def test_plain_dicts_are_measurements_too() -> None:
    content = json.loads(json.dumps(measured(1).to_dict(data="list")))
    result = measurement_datasets([{"group": "a", "step": 1, "dataset": content}])
    xr.testing.assert_allclose(result["a"].isel(step=0).drop_vars("step")["i4"], measured(1)["i4"])


def test_measurements_that_do_not_fit_are_named() -> None:
    records = [{"group": "gaps", "step": step, "dataset": measured(step).to_dict(data="list")} for step in (1, 1)]
    with pytest.raises(ValueError, match=r"'gaps': received 1.*rewind"):
        measurement_datasets(records)
    bare = [xr.Dataset({"a": ("x", np.zeros(n))}).to_dict(data="list") for n in (2, 3)]
    with pytest.raises(ValueError, match=r"measurements of 'gaps'.*coordinate"):
        measurement_datasets([{"group": "gaps", "step": n, "dataset": content} for n, content in enumerate(bare)])
