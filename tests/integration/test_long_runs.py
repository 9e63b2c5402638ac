"""What goes wrong on long runs: explosions, no time, no disk; and what watches them changes nothing."""

import errno
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import Result, launch, on_ranks, trained
from sweeps._sweep import same_results

from dynamics.cli.exits import explained
from dynamics.config import RunConfig
from dynamics.flow.rows import Rows
from dynamics.instruments import GapProbe
from dynamics.runner import RunFolder, heartbeat, run
from dynamics.runner import tensorboard as board
from dynamics.store import RunLog, read_run
from dynamics.training import DiskFullError, Interrupted, NonFiniteLossError, TrainState, loop, monitor

Change = Callable[..., RunConfig]
Twin = Callable[[RunConfig], Path]
AVERAGES = ("model.safetensors", "ema_0.9.safetensors", "ema_0.99.safetensors")


@pytest.fixture
def changed(tiny: RunConfig) -> Change:
    def change(**training: Any) -> RunConfig:
        return tiny.model_copy(update={"training": tiny.training.model_copy(update=training)})

    return change


def lines(out: Path, group: str) -> list[dict[str, Any]]:
    return [record for record in RunLog(out / "log.jsonl").read() if record["group"] == group]


def last_weights(out: Path) -> list[bytes]:
    newest = max((out / "checkpoints").iterdir())
    return [(newest / name).read_bytes() for name in AVERAGES]


def spoil(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Put NaN into two rows of the batches after these many steps."""
    draw = loop.draw

    def spoiled(*args: Any, **drawn: Any) -> Rows:
        rows = draw(*args, **drawn)
        if args[-1] in steps:
            rows = replace(rows, x=rows.x.clone())
            rows.x[torch.tensor([3, 13])] = torch.nan
        return rows

    monkeypatch.setattr(loop, "draw", spoiled)


def stop_at(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Let each attempt in turn run out of time at a step."""
    near, left = loop.TimeLimit.near, list(steps)
    plan, done = loop.Recipe.plan, [0]

    def spy(recipe: Any, step: int, states: Any) -> Any:
        done[0] = step + 1
        return plan(recipe, step, states)

    def is_near(self: Any) -> bool:
        if left and done[0] == left[0]:
            left.pop(0)
            return True
        return near(self)

    monkeypatch.setattr(loop.Recipe, "plan", spy)
    monkeypatch.setattr(loop.TimeLimit, "near", is_near)


@pytest.fixture
def nervous(monkeypatch: pytest.MonkeyPatch) -> None:
    """A monitor that sees alarms everywhere."""
    for name, value in (("WARM_UP", 4), ("PATIENCE", 2), ("NOISES", 0.1), ("MEMORY", 5)):
        monkeypatch.setattr(monitor, name, value)


@pytest.mark.filterwarnings("ignore:alarm at step")
def test_alarms_are_kept_change_nothing_and_survive_interruptions(
    changed: Change, nervous: None, twin: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, off = changed(alarm_factor=1.01), twin(changed(alarm_factor=None))
    with pytest.warns(UserWarning, match=r"alarm at step \d+: .* times the usual"):
        run(config, tmp_path / "on", progress=False)
    assert last_weights(tmp_path / "on") == last_weights(off)
    found = lines(tmp_path / "on", "alarms")
    assert len(found) >= 5
    assert {"step", "series", "value", "usual"} < set(found[0])
    assert all(alarm["value"] > 1.01 * alarm["usual"] for alarm in found)
    assert {alarm["series"].split(",")[0] for alarm in found} >= {"raw loss", "du/dt norm"}
    assert read_run(tmp_path / "on" / "run.nc").attrs["num_alarms"] == len(found)
    assert lines(off, "alarms") == lines(off, "monitor") == []
    # at a step of which one more would have been an alarm, among others
    stops = [found[1]["step"] - 1, found[3]["step"] + 1]
    stop_at(monkeypatch, *stops)
    for _ in stops:
        with pytest.raises(Interrupted):
            run(config, tmp_path / "stopped", progress=False)
    run(config, tmp_path / "stopped", progress=False)
    assert lines(tmp_path / "stopped", "alarms") == found
    same_results(tmp_path / "stopped", tmp_path / "on")


@pytest.mark.filterwarnings("ignore:the loss or its gradient")
def test_steps_without_a_finite_loss_are_left_out_and_recorded(
    changed: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, 8, 9, 15)
    states: list[tuple[int, Any]] = []
    skip = loop.skip

    def look(state: TrainState) -> None:
        states.append((state.step, frozen(state)))
        skip(state)
        states.append((state.step, frozen(state)))

    monkeypatch.setattr(loop, "skip", look)
    run(changed(skip_nonfinite=2), tmp_path, progress=False)
    assert [step for step, _ in states] == [8, 9, 9, 10, 15, 16]
    assert all(same(states[0][1], content) for _, content in states[:4]), "weights, averages, moments, curricula, sums"
    assert not same(states[0][1], states[4][1])
    found = lines(tmp_path, "nonfinite")
    assert [record["step"] for record in found] == [9, 10, 16]
    assert [row["row"] for row in found[0]["rows"]] == [3, 13]
    tree = read_run(tmp_path / "run.nc")
    assert np.flatnonzero(np.isnan(tree["training"].loss)).tolist() == [8, 9, 15]
    assert (tree.attrs["num_nonfinite"], tree["training"].sizes["step"]) == (3, 24)
    assert not (tmp_path / "nonfinite.json").exists()


def frozen(state: TrainState) -> Any:
    moments = state.optimizer.state_dict()["state"]
    return {
        "weights": [p.detach().clone() for p in state.model.parameters()],
        "emas": [w.clone() for ema in state.emas.values() for w in ema.values()],
        "moments": [t.clone() for of_one in moments.values() for t in of_one.values()],
        "lr": [torch.tensor(group["lr"]) for group in state.optimizer.param_groups],
        "cells": [state.cells.clone()],
        "curricula": json.dumps(state.curricula),
    }


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    tensors = (pair for name in a if name != "curricula" for pair in zip(a[name], b[name], strict=True))
    return a["curricula"] == b["curricula"] and all(torch.equal(x, y) for x, y in tensors)


@pytest.mark.filterwarnings("ignore:the loss or its gradient")
@pytest.mark.parametrize("interrupted", [False, True])
def test_too_many_in_a_row_stop_the_run_wherever_it_was_interrupted(
    changed: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    spoil(monkeypatch, 3, 8, 9, 10)
    config = changed(skip_nonfinite=2)
    if interrupted:  # the step of the checkpoint is one of those left out
        stop_at(monkeypatch, 10)
        with pytest.raises(Interrupted):
            run(config, tmp_path, progress=False)
    with pytest.raises(NonFiniteLossError, match="at step 11; 3 in a row, 4 of 24 in all"):
        run(config, tmp_path, progress=False)
    assert json.loads((tmp_path / "nonfinite.json").read_text(), parse_constant=pytest.fail)["step"] == 11


def test_nothing_is_left_out_unless_asked_for(changed: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, 3)
    with pytest.raises(NonFiniteLossError, match="at step 4"):
        run(changed(), tmp_path, progress=False)
    assert lines(tmp_path, "nonfinite") == []


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_ranks_leave_out_the_same_steps(
    changed: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parallel: str
) -> None:
    spoil(monkeypatch, 5, 6)
    config = changed(skip_nonfinite=2, num_steps=10, parallel=parallel)
    first, second = on_ranks(config, tmp_path / "both")
    steps = [record["step"] for record in first["records"]]
    assert steps == [record["step"] for record in second["records"]] == [1, 2, 3, 4, 5, 8, 9, 10]
    assert torch.equal(first["cells"], second["cells"])
    assert [record["step"] for record in lines(tmp_path / "both", "nonfinite")] == [6, 7]
    config = changed(skip_nonfinite=1, num_steps=10, parallel=parallel)
    results = launch(lambda rank: trained(config, tmp_path / "one"), tmp_path / "ranks", seconds=20)
    assert all("NonFiniteLossError" in result["error"] and "at step 7" in result["error"] for result in results)


def test_a_run_stops_before_its_time_is_up(
    tiny: RunConfig, twin: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with pytest.raises(Interrupted, match="stopped before the time limit at step 1, checkpoint written") as stop:
        run(tiny, out, progress=False, wall_minutes=0.01)
    assert stop.value.signal.name == "SIGUSR2"
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time())))
    with pytest.raises(SystemExit) as code, explained():
        run(tiny, out, progress=False)
    assert code.value.code == 75
    assert RunFolder(out).checkpoints().steps() == [1, 2]
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    run(tiny, out, progress=False, wall_minutes=60)
    same_results(out, twin(tiny))


def test_the_time_of_one_rank_is_up_for_all(changed: Change, tmp_path: Path) -> None:
    def action(rank: int) -> Result:
        if rank == 1:
            os.environ["SLURM_JOB_END_TIME"] = str(int(time.time()))
        return trained(changed(num_steps=6), tmp_path / "both")

    results = launch(action, tmp_path / "ranks", seconds=30)
    assert [[(s.name, step) for s, step in result.get("stops", [])] for result in results] == [[("SIGUSR2", 1)]] * 2
    assert RunFolder(tmp_path / "both").checkpoints().steps() == [1]


def test_a_full_disk_at_a_checkpoint_leaves_the_one_before(
    tiny: RunConfig, twin: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, rename = tmp_path / "run", os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target).name == "step_00000015":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
        rename(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SystemExit) as code, explained():
        run(tiny, out, progress=False)
    assert code.value.code == 75
    text = capsys.readouterr().err
    assert "no room for the checkpoint of step 15 in" in text
    assert "are needed" in text
    assert "the same command continues from the last checkpoint" in text
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["step_00000005", "step_00000010"]
    monkeypatch.setattr(os, "replace", rename)
    run(tiny, out, progress=False)
    same_results(out, twin(tiny))


@pytest.mark.parametrize("group", ["training", "gaps", "monitor"])
def test_a_full_disk_in_the_middle_of_a_record_loses_nothing(
    tiny: RunConfig, twin: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    out, write = tmp_path / "run", os.write
    step = {"training": 9, "gaps": 14, "monitor": 15}[group]

    def full(descriptor: int, content: bytes) -> int:
        if content.startswith(f'{{"group": "{group}", "step": {step},'.encode()):
            write(descriptor, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DiskFullError, match=r"no room for log.jsonl in .*: [\d.]+ GB are free"):
        run(tiny, out, progress=False)
    monkeypatch.setattr(os, "write", write)
    run(tiny, out, progress=False)
    same_results(out, twin(tiny))


def test_the_heart_beats_while_something_is_measured(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "EVERY", 0.01)
    file, measure, seen = tmp_path / "heartbeat.json", GapProbe.measure, []

    def slow(self: GapProbe, state: TrainState) -> Any:
        began = time.time()
        while (beat := json.loads(file.read_text()))["doing"] != "measuring gaps" or beat["time"] < began + 0.05:
            assert time.time() < began + 20, beat
            time.sleep(0.005)
        assert beat["since"] <= began < beat["time"]
        seen.append(beat)
        return measure(self, state)

    monkeypatch.setattr(GapProbe, "measure", slow)
    run(tiny, tmp_path, progress=False)
    assert [beat["step"] for beat in seen] == [0, 7, 14, 21, 24]
    assert [beat["last_checkpoint"] for beat in seen] == [None, 5, 10, 20, 20]
    assert [beat["eta_s"] is None for beat in seen] == [True, False, False, False, False]
    assert seen[1]["eta_s"] == pytest.approx(17 / seen[1]["steps_per_s"])
    assert (seen[0]["loss"], seen[0]["pid"], seen[0]["ranks"]) == (None, os.getpid(), 1)
    end = json.loads(file.read_text())
    assert (end["doing"], end["step"], end["num_steps"], end["last_checkpoint"]) == ("finished", 24, 24, 24)
    assert end["loss"] == lines(tmp_path, "training")[-1]["loss"]


def test_the_heartbeat_of_a_run_that_stopped(tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted):
        run(tiny, tmp_path, progress=False, wall_minutes=0.01)
    end = json.loads((tmp_path / "heartbeat.json").read_text())
    assert (end["doing"], end["step"], end["last_checkpoint"]) == ("stopped", 1, 1)


def curve(out: Path, name: str) -> dict[int, list[float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    out_of: dict[int, list[float]] = {}
    for event in events.Scalars(name):
        out_of.setdefault(event.step, []).append(event.value)
    return out_of


def test_curves_for_tensorboard_change_nothing_and_are_purged(
    tiny: RunConfig, twin: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "EVERY", 3)
    out, append = tmp_path / "with", RunLog.append

    def dies(self: RunLog, record: Any) -> None:
        append(self, record)
        if record["step"] == 14:
            raise MemoryError("between two checkpoints")

    monkeypatch.setattr(RunLog, "append", dies)
    with pytest.raises(MemoryError):
        run(tiny, out, progress=False, tensorboard=True)
    assert list(curve(out, "training/raw_u")) == [3, 6, 9, 12]
    monkeypatch.setattr(RunLog, "append", append)
    run(tiny, out, progress=False, tensorboard=True)
    same_results(out, twin(tiny))
    found = curve(out, "training/raw_u")
    recorded = {record["step"]: record["raw_u"] for record in lines(out, "training")}
    assert list(found) == [3, 6, 9, 12, 15, 18, 21, 24]
    for step, values in found.items():
        assert values == [pytest.approx(recorded[step], rel=1e-6)], "one value, step 12 was written twice"
    assert not (twin(tiny) / "tensorboard").exists()


def test_tensorboard_missing_is_said_before_training(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ValueError, match=r"pip install 'meanflow-dynamics\[tensorboard\]'"):
        run(tiny, tmp_path / "run", progress=False, tensorboard=True)
    assert not (tmp_path / "run").exists()
