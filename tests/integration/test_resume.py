"""Nothing is lost: a run that was killed, stopped or damaged ends bitwise where an undisturbed one does."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from forks import ended, forked, killed_run
from sweeps._sweep import same_results

from dynamics import cli
from dynamics.config import RunConfig
from dynamics.runner import RunFolder, run
from dynamics.store import read_run
from dynamics.training import DamagedCheckpointError


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
        *("--training.num-steps", "60", "--training.num-threads", "1", "--observers.0.rows-per-bin", "4"),
    ]
    command = [sys.executable, "-m", "dynamics", *words]
    stopped = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert stopped.returncode == 75, stopped.stderr
    assert "the same command continues" in stopped.stderr
    cli.main(words)
    assert read_run(tmp_path / "run" / "run.nc")["training"].sizes["step"] == 60


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
    log.write_text("".join(line for line in log.read_text().splitlines(keepends=True) if '"step": 7' not in line))
    with pytest.raises(ValueError, match="1 of the 24 steps before the checkpoint are missing, such as 7"):
        run(tiny, tmp_path, progress=False)
    log.unlink()
    with pytest.raises(ValueError, match="24 of the 24 steps"):
        run(tiny, tmp_path, progress=False)
