import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import xarray as xr
from sweeps._sweep import Small

from dynamics.store import open_results, read_run, write_run
from dynamics.sweep.collect import collect_sweep, set_aside
from dynamics.sweep.events import events, record
from dynamics.sweep.seeds_begun import begin
from dynamics.sweep.status import statuses

Done = Callable[..., None]


def flip(path: Path) -> None:
    """Damage a file in its middle, where numbers are."""
    content = bytearray(path.read_bytes())
    for index in range(len(content) // 4, len(content) // 2):
        content[index] ^= 0xFF
    path.write_bytes(content)


def test_a_sweep_done_missing_damaged_and_mended(tiny_sweep: Small, have_done: Done) -> None:
    runs = tiny_sweep.runs
    assert collect_sweep(tiny_sweep.folder, tiny_sweep.experiment, runs, progress=False).path is None
    have_done(*runs[:7])
    found = collect_sweep(tiny_sweep.folder, tiny_sweep.experiment, runs, progress=False)
    assert found.num_runs == 7
    assert found.missing == {run.run_id: "new" for run in runs[7:]}
    tree = open_results(tiny_sweep.folder.merged)
    training, evaluation = tree["training"].to_dataset(), tree["evaluation"].to_dataset()
    assert list(training.run.values) == [run.run_id for run in runs[:7]]
    assert list(training.rate.values) == ["", "", "slow", "slow", "fast", "fast", "slow"]
    assert list(training.init.values) == ["v", "v", *["random"] * 4, "v"]
    assert list(training.seed.values) == [0, 1, 0, 1, 0, 1, 0]
    assert list(training.role.values) == ["before", "before", *["grid"] * 5]
    assert evaluation.sizes["run"] == 7
    assert tree.attrs["experiment"] == "tiny"
    assert json.loads(tree.attrs["missing"]) == found.missing
    assert {"git_sha", "dirty", "diff_hash", "config_json", "host"} <= set(training.coords)
    own = read_run(tiny_sweep.folder.run(runs[6].run_id).result)
    xr.testing.assert_equal(training.raw_u.isel(run=6, drop=True).reset_coords(drop=True), own["training"].raw_u)

    # one file is damaged: it is named, left out, set aside and made again from what its run left
    result = tiny_sweep.folder.run(runs[3].run_id).result
    intact = read_run(result)
    flip(result)
    found = collect_sweep(tiny_sweep.folder, tiny_sweep.experiment, runs, replace=True, progress=False)
    assert found.num_runs == 6
    assert str(result) in found.missing[runs[3].run_id]
    assert statuses(tiny_sweep.folder, [runs[3]])[0].state == "damaged"
    tiny_sweep.do(runs[3])
    assert statuses(tiny_sweep.folder, [runs[3]])[0].state == "damaged", "only retry touches it"
    assert set_aside(tiny_sweep.folder, runs[3]) == ["run.nc"]
    assert (result.parent / "set_aside_0" / "run.nc").exists()
    record(result.parent, "set_aside")
    have_done(*runs[7:])
    tiny_sweep.do(*runs)
    found = collect_sweep(tiny_sweep.folder, tiny_sweep.experiment, runs, progress=False)
    assert (found.num_runs, found.missing) == (10, {})
    mended = read_run(result)
    xr.testing.assert_identical(mended["training"].to_dataset(), intact["training"].to_dataset())
    xr.testing.assert_identical(mended["evaluation"].to_dataset(), intact["evaluation"].to_dataset())


def test_collecting_less_than_there_was_is_refused(tiny_sweep: Small, have_done: Done) -> None:
    runs = tiny_sweep.runs[2:4]
    have_done(*runs)
    collect_sweep(tiny_sweep.folder, tiny_sweep.experiment, runs, progress=False)
    tiny_sweep.folder.run(runs[0].run_id).result.unlink()
    with pytest.raises(ValueError, match=f"1 finished runs that are not on this disk, such as {runs[0].run_id}"):
        collect_sweep(tiny_sweep.folder, tiny_sweep.experiment, runs, progress=False)
    assert open_results(tiny_sweep.folder.merged)["training"].sizes["run"] == 2
    other = tiny_sweep.folder.merged.with_name("other.nc")
    assert collect_sweep(tiny_sweep.folder, tiny_sweep.experiment, runs, out=other, progress=False).num_runs == 1
    assert collect_sweep(tiny_sweep.folder, tiny_sweep.experiment, runs, replace=True, progress=False).num_runs == 1


def test_a_result_of_another_config_is_never_merged(tiny_sweep: Small, have_done: Done) -> None:
    runs = tiny_sweep.runs[2:4]
    have_done(*runs)
    mine, other = (tiny_sweep.folder.run(run.run_id).result for run in runs)
    mine.write_bytes(other.read_bytes())
    found = collect_sweep(tiny_sweep.folder, tiny_sweep.experiment, runs, progress=False)
    assert found.num_runs == 1
    assert "the config of run" in found.missing[runs[0].run_id]


def test_stale_runs_and_mixed_revisions_are_named(tiny_sweep: Small, have_done: Done) -> None:
    runs = tiny_sweep.runs[2:5]
    have_done(*runs)
    result = tiny_sweep.folder.run(runs[1].run_id).result
    tree = read_run(result)
    groups = {name: child.to_dataset() for name, child in tree.children.items()}
    write_run(result, groups, {**tree.attrs, "git_sha": "abc", "dirty": 0})
    found = collect_sweep(tiny_sweep.folder, tiny_sweep.experiment, runs[1:], progress=False)
    assert found.stale == [runs[0].run_id]
    assert found.revisions["abc"] == 1
    assert len(found.revisions) == 2


def test_what_cannot_be_resumed_is_set_aside_as_a_whole(tiny_sweep: Small, have_done: Done) -> None:
    run = tiny_sweep.runs[2]
    have_done(run)
    folder = tiny_sweep.folder.run(run.run_id)
    assert set_aside(tiny_sweep.folder, run) == []
    folder.log.write_text("no json\n" + folder.log.read_text())
    assert set_aside(tiny_sweep.folder, run) == ["log.jsonl", "checkpoints", "run.nc", "config.json"]
    tiny_sweep.do(run)
    assert statuses(tiny_sweep.folder, [run])[0].state == "done"
    for step in folder.checkpoints().steps():
        (folder.checkpoints().path(step) / "state.json").write_text("{")
    assert set_aside(tiny_sweep.folder, run)[1] == "checkpoints"
    tiny_sweep.do(run)
    folder.log.unlink()
    assert set_aside(tiny_sweep.folder, run) == ["checkpoints", "run.nc", "config.json"]
    assert sorted(path.name for path in folder.path.glob("set_aside_*")) == [f"set_aside_{i}" for i in range(3)]
    assert [event["kind"] for event in events(folder.path)].count("finished") == 3


def bend(path: Path) -> None:
    """Break one byte in the middle of a text."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] = 0xFF
    path.write_bytes(content)


def test_a_damaged_config_is_named_and_written_anew(tiny_sweep: Small, have_done: Done) -> None:
    runs = tiny_sweep.runs[2:5]
    have_done(*runs)
    unreadable, other, _ = (tiny_sweep.folder.run(run.run_id) for run in runs)
    intact = unreadable.config.read_bytes()
    bend(unreadable.config)
    other.config.write_bytes(intact)  # which is readable, and not its own
    found = collect_sweep(tiny_sweep.folder, tiny_sweep.experiment, runs, progress=False)
    assert found.num_runs == 1
    for run, folder in zip(runs, (unreadable, other), strict=False):
        assert f"{folder.config}: received" in found.missing[run.run_id]
        assert statuses(tiny_sweep.folder, [run])[0].state == "damaged"
        assert set_aside(tiny_sweep.folder, run) == ["config.json"], "the training stays"
        record(folder.path, "set_aside", files=["config.json"])
    assert unreadable.config.read_bytes() == intact
    tiny_sweep.do(*runs)
    found = collect_sweep(tiny_sweep.folder, tiny_sweep.experiment, runs, progress=False)
    assert (found.num_runs, found.missing) == (3, {})


def test_a_folder_of_another_run_is_set_aside_as_a_whole(tiny_sweep: Small, have_done: Done) -> None:
    run, other = tiny_sweep.runs[2:4]
    have_done(run, other)
    folder = tiny_sweep.folder.run(run.run_id)
    for name in ("config.json", "run.nc"):
        (folder.path / name).write_bytes((tiny_sweep.folder.run(other.run_id).path / name).read_bytes())
    assert set_aside(tiny_sweep.folder, run) == ["log.jsonl", "checkpoints", "run.nc", "config.json"]


def test_a_damaged_diary_is_set_aside_and_the_run_goes_on(
    tiny_sweep: Small, have_done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tiny_sweep.runs[2:4]
    have_done(*runs)
    monkeypatch.setattr("dynamics.sweep.status.alive", lambda event: False)  # this process has done them
    diary = tiny_sweep.folder.run(runs[0].run_id).path / "events.jsonl"
    diary.write_bytes(diary.read_bytes().replace(b'"kind": "finished"', b'"kind": "fXnished"'))
    found = collect_sweep(tiny_sweep.folder, tiny_sweep.experiment, runs, progress=False)
    assert found.num_runs == 1
    assert str(diary) in found.missing[runs[0].run_id]
    assert set_aside(tiny_sweep.folder, runs[0]) == ["events.jsonl"]
    tiny_sweep.do(*runs)
    assert [status.state for status in statuses(tiny_sweep.folder, runs)] == ["done", "done"]


def test_a_damaged_note_of_the_start_begins_the_run_anew(tiny_sweep: Small, have_done: Done) -> None:
    run = next(run for run in tiny_sweep.runs if run.first is not None)
    have_done(run)
    note = tiny_sweep.folder.run(run.run_id).path / "start.json"
    bend(note)
    with pytest.raises(ValueError, match=re.escape(f"{note}: received ")):
        tiny_sweep.folder.run(run.run_id).origin()
    moved = set_aside(tiny_sweep.folder, run)
    assert moved == ["log.jsonl", "checkpoints", "run.nc", "config.json", "start.json"]


def test_two_people_collect_at_once(tiny_sweep: Small, have_done: Done) -> None:
    runs = tiny_sweep.runs[2:4]
    have_done(*runs)
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = collect_sweep(tiny_sweep.folder, tiny_sweep.experiment, runs, progress=False).num_runs - 2
            finally:
                os._exit(code)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0, 0]
    assert open_results(tiny_sweep.folder.merged)["training"].sizes["run"] == 2
    left = sorted(path.name for path in tiny_sweep.folder.merged.parent.iterdir())
    assert left == [".digits.nc.lock", "digits", "digits.nc"]


def test_collecting_without_the_looks_that_were_made_is_refused(tiny_sweep: Small, have_done: Done) -> None:
    folder, runs = tiny_sweep.folder, tiny_sweep.runs[2:4]
    have_done(*runs)
    begin(folder, 2, 10)
    collect_sweep(folder, tiny_sweep.experiment, runs, progress=False)
    (folder.path / "seeds.json").unlink()
    with pytest.raises(ValueError, match=r"looks after \[5, 10\] seeds, .*nothing of any.*--max-seeds 10 finds them"):
        collect_sweep(folder, tiny_sweep.experiment, runs, progress=False)
    assert open_results(folder.merged).attrs["looks"] == "[5, 10]"
    begin(folder, 2, 10)
    assert collect_sweep(folder, tiny_sweep.experiment, runs, progress=False).num_runs == 2
