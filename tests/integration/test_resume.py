"""Nothing is lost: a run that was killed, stopped or damaged ends bitwise where an undisturbed one does."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from forks import ended, forked, killed_run
from sweeps._sweep import same_results

from dynamics import cli
from dynamics.config import RunConfig, with_values
from dynamics.data import Npz
from dynamics.instruments import GapsOptions
from dynamics.models import DiTOptions
from dynamics.presets import PRESETS
from dynamics.runner import RunFolder, run
from dynamics.store import RunLog, read_run
from dynamics.training import DamagedCheckpointError, NonFiniteLossError, StartOptions


@pytest.fixture
def undisturbed(tiny: RunConfig, twin: Callable[[RunConfig], Path]) -> Path:
    return twin(tiny)


def test_kills_at_every_kind_of_step(tiny: RunConfig, undisturbed: Path, tmp_path: Path) -> None:
    """Die right after a given number of logged records, again and again."""
    out = tmp_path / "killed"
    for after in (1, 3, 5, 6, 7, 9, 11, 2, 24):
        ended(forked(partial(killed_run, tiny, out, after)))
    run(tiny, out, progress=False)
    same_results(out, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_signals_leave_a_checkpoint(tiny: RunConfig, undisturbed: Path, tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "stopped"
    assert ended(forked(partial(killed_run, tiny, out, 11, number))) == 75
    steps = RunFolder(out).checkpoints().steps()
    assert steps[-1] == RunFolder(out).log.read_text().count("raw_v") >= 6
    run(tiny, out, progress=False)
    same_results(out, undisturbed)


@pytest.mark.parametrize("name", ["alphaflow", "soflow", "shortcut", "split", "imf", "tvm", "temf", "dmf"])
def test_objectives_of_the_family_go_on(name: str, tmp_path: Path) -> None:
    """With their teachers, what they draw for each row, and what their curricula have learned."""
    options = {"num_steps": 6, "batch_size": 16, "checkpoint_every": 2, "num_threads": 1}
    changes = {"model": DiTOptions(dim=16, depth=1, heads=2), "observers": ()}
    config = with_values(PRESETS[f"digits-{name}"], changes | {f"training.{n}": value for n, value in options.items()})
    out, undisturbed = tmp_path / "killed", run(config, tmp_path / "undisturbed", progress=False)
    assert ended(forked(partial(killed_run, config, out, 5))) == -signal.SIGKILL
    run(config, out, progress=False)
    same_results(out, undisturbed)


def test_command_line_stops_with_75_and_continues(tmp_path: Path) -> None:
    """The same through the real command, stopped by SIGTERM in a process of its own, which sends it to itself."""
    (tmp_path / "stops_itself.py").write_text("""
import os, signal
from dynamics.store import RunLog
append = RunLog.append
def stopping(self, record):
    append(self, record)
    if record["group"] == "training" and record["step"] == 3:
        os.kill(os.getpid(), signal.SIGTERM)
RunLog.append = stopping
""")
    environment = {**os.environ, "DYNAMICS_EXTENSIONS": "stops_itself"}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    words = [
        *("train", "digits-improved", "--out", str(tmp_path / "run")),
        *("--model.dim", "16", "--model.depth", "1", "--model.heads", "2", "--training.batch-size", "16"),
        *("--training.num-steps", "20", "--training.num-threads", "1", "--observers.0.rows-per-bin", "4"),
    ]
    command = [sys.executable, "-m", "dynamics", *words]
    stopped = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert stopped.returncode == 75, stopped.stderr
    assert "the same command continues" in stopped.stderr
    cli.main(words)
    assert read_run(tmp_path / "run" / "run.nc")["training"].sizes["step"] == 20


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(
    tiny: RunConfig, undisturbed: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(undisturbed, tmp_path / "damaged"))
    (out / "run.nc").unlink()
    newest = RunFolder(out).checkpoints().path(24) / "model.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    with pytest.warns(UserWarning, match=r"step_00000024 is damaged \(model.safetensors fails its checksum\)"):
        run(tiny, out, progress=False)
    same_results(out, undisturbed)


def test_all_checkpoints_damaged_is_an_error_and_never_a_silent_restart(
    tiny: RunConfig, undisturbed: Path, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    (tmp_path / "run.nc").unlink()
    for step in RunFolder(tmp_path).checkpoints().steps():
        (RunFolder(tmp_path).checkpoints().path(step) / "state.json").write_text("{")
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(DamagedCheckpointError, match="no intact checkpoint"),
    ):
        run(tiny, tmp_path, progress=False)


def test_another_config_in_the_same_folder_is_refused(tiny: RunConfig, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    with pytest.raises(ValueError, match="seed: 0 there, 1 asked for"):
        run(tiny.model_copy(update={"seed": 1}), tmp_path, progress=False)


def test_a_finished_run_is_left_alone(tiny: RunConfig, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "run.nc").stat().st_mtime_ns
    run(tiny, tmp_path, progress=False)
    assert (tmp_path / "run.nc").stat().st_mtime_ns == before


def test_a_log_that_lacks_steps_is_an_error_and_never_a_result_with_holes(
    tiny: RunConfig, undisturbed: Path, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    (tmp_path / "run.nc").unlink()
    log = RunFolder(tmp_path).log
    lines = log.read_text().splitlines(keepends=True)

    def refused(message: str, *left: str) -> None:
        log.write_text("".join(left))
        with pytest.raises(ValueError, match=message):
            run(tiny, tmp_path, progress=False)
        assert log.read_text() == "".join(left), "what is left stays as it is"
        assert not (tmp_path / "run.nc").exists()

    refused(r"log.jsonl, line 10: .*checkpoints after step 6", *(line for line in lines if '"step": 7' not in line))
    refused(r"log.jsonl, line 5", *(line.replace('"step": 3,', '"step": 4,') for line in lines))
    last = next(i for i, line in enumerate(lines) if '"step": 24' in line)
    refused("1 of the 24 steps before the checkpoint are missing, such as 24", *lines[:last])
    refused("records up to step 24 that are not all, or not those, of the checkpoint", *lines[:-1])
    log.unlink()
    with pytest.raises(ValueError, match="24 of the 24 steps"):
        run(tiny, tmp_path, progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": Npz(path="nowhere.npz")}, "nowhere.npz"),
        ({"start": StartOptions(run="feedfeedfeed")}, "feedfeedfeed"),
        ({}, "an observer says no"),
    ],
)
def test_a_start_that_is_refused_leaves_no_trace(
    tiny: RunConfig, tmp_path: Path, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is free for the command without the mistake."""
    out = tmp_path / "run"
    if not changes:
        monkeypatch.setattr(GapsOptions, "observer", refuse)
    with pytest.raises(ValueError, match=message):
        run(tiny.model_copy(update=changes), out, progress=False)
    assert not out.exists()
    assert not list(tmp_path.iterdir())


def refuse(*_: object) -> None:
    raise ValueError("an observer says no")


def test_folders_that_are_none_of_a_run_are_refused_by_name(tiny: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for out, message in (
        ("file", r"out: received '.*file'; allowed: a folder that can be written, which .*file is not"),
        ("file/run", r"out: received '.*run'; allowed: a folder that can be written, which .*file is not"),
        ("photos", r"out: received '.*photos with cat.png and no config.json'; allowed: an empty folder"),
    ):
        with pytest.raises(ValueError, match=message):
            run(tiny, tmp_path / out, progress=False)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_removed_under_its_run_ends_it(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one that has a checkpoint without a config, or an empty run.nc."""
    out, append = tmp_path / "run", RunLog.append

    def removing(self: RunLog, record: Mapping[str, object]) -> None:
        append(self, record)
        if record["step"] == 7:
            shutil.rmtree(out, ignore_errors=True)

    monkeypatch.setattr(RunLog, "append", removing)
    with pytest.raises(ValueError, match=r"log.jsonl: received 'a file that was removed or changed'.*remedy"):
        run(tiny, out, progress=False)
    assert not out.exists()


def test_files_of_killed_writers_go_away(tiny: RunConfig, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    (tmp_path / "run.nc").unlink()
    (tmp_path / "checkpoints" / ".step_00000024.77").mkdir()
    for name in ("log.jsonl", "run.nc"):
        (tmp_path / f".{name}.0123.tmp").write_text("half")
    run(tiny, tmp_path, progress=False)
    assert {path.name for path in tmp_path.rglob(".*")} == {".log.jsonl.lock", ".run.nc.lock"}


@pytest.mark.filterwarnings("ignore:the loss or its gradient", "ignore:alarm at step")
def test_a_run_of_which_more_than_half_was_left_out_is_no_result(tiny: RunConfig, tmp_path: Path) -> None:
    """However many are allowed in a row: the weights are lost after the first of 24 steps."""
    changes = {"learning_rate": 1e30, "warmup_steps": 0, "skip_nonfinite": 100}
    config = tiny.model_copy(update={"training": tiny.training.model_copy(update=changes)})
    for _ in range(2):  # the same when it goes on
        with pytest.raises(NonFiniteLossError, match=r"at step \d+; \d+ in a row, 13 of 24 in all"):
            run(config, tmp_path / "run", progress=False)
    strict = json.loads((tmp_path / "run" / "nonfinite.json").read_text(), parse_constant=pytest.fail)
    assert strict["rows"]
    assert not (tmp_path / "run" / "run.nc").exists()
