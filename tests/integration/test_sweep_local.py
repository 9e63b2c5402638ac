"""Sweeps on this machine: Ctrl-C, two people at once, a cancellation, processes that cannot start."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from forks import TESTS, Command
from sweeps._held import held
from sweeps._sweep import Small, same_results, small

from dynamics.sweep.events import events, record
from dynamics.sweep.grid import Planned
from dynamics.sweep.status import statuses

Undisturbed = Callable[[str, Planned], Path]


def command(sweep: Small, *words: str) -> Command:
    """Start the command in a forked process."""
    said = sweep.folder.results / f"{time.monotonic_ns()}.txt"
    said.parent.mkdir(exist_ok=True)
    return Command(said, *arguments(sweep, *words))


def arguments(sweep: Small, *words: str) -> list[str]:
    return [sweep.folder.experiment, *words, "--results", str(sweep.folder.results)]


def start(sweep: Small, hold: Path, *words: str) -> "subprocess.Popen[str]":
    """Start the command as a shell does, in a process group of its own; its runs last while `hold` is there."""
    # tests that a shell runs in its background inherit that SIGINT is ignored
    program = """
import signal, sys
from pathlib import Path
from dynamics.cli.experiments import main
from sweeps._held import held
signal.signal(signal.SIGINT, signal.default_int_handler)
with held(Path(sys.argv[1])):
    main("sweeps", sys.argv[2:])
"""
    command = [sys.executable, "-c", program, str(hold), *arguments(sweep, *words)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def wait_until(condition: Callable[[], bool], process: "Command | subprocess.Popen[str]", seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def num_records(sweep: Small, run: Planned) -> int:
    log = sweep.folder.run(run.run_id).log
    return log.read_text().count("raw_v") if log.exists() else 0


def test_ctrl_c_leaves_checkpoints_and_the_same_command_continues(tmp_path: Path, undisturbed: Undisturbed) -> None:
    sweep = small("slow", tmp_path)
    first, second = sweep.runs[:2]
    only = ("--only", first.run_id, second.run_id, "--parallelism", "2")
    process = start(sweep, tmp_path / "hold", "submit", *only)
    wait_until(lambda: all(num_records(sweep, run) > 5 for run in (first, second)), process)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 130, errors
    assert "each run writes its checkpoint" in errors
    for run in (first, second):
        status = statuses(sweep.folder, [run])[0]
        assert status.state == "stopped"
        steps = sweep.folder.run(run.run_id).checkpoints().steps()
        assert steps[-1] == status.events[-1]["step"] >= 5
    mine = str(tmp_path)
    assert not [p for p in psutil.process_iter(["cmdline"]) if mine in " ".join(p.info["cmdline"] or ())]
    said, code = command(sweep, "submit", *only).communicate()
    assert code == 0, said
    assert "2 done" in said
    same_results(sweep.folder.run(first.run_id).path, undisturbed("slow", first))


def test_two_people_submit_and_the_submitter_dies(tmp_path: Path) -> None:
    """Two submitters share the work; one is killed -9, its run goes on by itself; every run is started once."""
    sweep, hold = small("slow", tmp_path), tmp_path / "hold"
    runs = sweep.runs[:3]
    only = ("--only", *(run.run_id for run in runs), "--parallelism", "1")
    with held(hold):
        one, two = command(sweep, "submit", *only), command(sweep, "submit", *only)
    wait_until(lambda: sum(num_records(sweep, run) > 5 for run in runs) == 2, one)
    os.kill(one.pid, signal.SIGKILL)
    one.communicate()
    hold.unlink()
    said, _ = two.communicate()
    wait_until(lambda: all(s.state == "done" for s in statuses(sweep.folder, runs)), command(sweep, "submit", *only))
    for run in runs:
        kinds = [event["kind"] for event in events(sweep.folder.run(run.run_id).path)]
        assert kinds.count("started") == kinds.count("finished") == 1, (kinds, said)


def test_cancel_from_another_terminal(tmp_path: Path) -> None:
    sweep = small("slow", tmp_path)
    only = ("--only", *(run.run_id for run in sweep.runs[:2]), "--parallelism", "1")
    with held(tmp_path / "hold"):
        submitter = command(sweep, "submit", *only)
    wait_until(lambda: num_records(sweep, sweep.runs[0]) > 5, submitter)
    said, _ = command(sweep, "cancel").communicate()
    assert "cancelled 1 runs" in said
    said, code = submitter.communicate()
    assert code == 1, said
    assert [s.state for s in statuses(sweep.folder, sweep.runs[:2])] == ["stopped", "cancelled"]
    assert num_records(sweep, sweep.runs[1]) == 0


def test_a_process_that_cannot_even_start_is_a_failure_with_its_log(tmp_path: Path) -> None:
    sweep = small("tiny", tmp_path)
    run = sweep.runs[2]
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "submitit.py").write_text("raise ImportError('broken on purpose')")
    os.environ["PYTHONPATH"], before = str(broken), os.environ.get("PYTHONPATH")
    try:
        from dynamics.planning.resources import RESOURCES
        from dynamics.sweep.local import run_here
        from dynamics.sweep.submit import ClusterOptions

        run_here(sweep.folder, [run], ClusterOptions(), RESOURCES["digits"])
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
    status = statuses(sweep.folder, [run])[0]
    assert status.state == "failed"
    assert "ended before the run began" in status.detail


def test_retry_starts_what_failed_again(tmp_path: Path) -> None:
    sweep = small("tiny", tmp_path)
    run = sweep.runs[2]
    folder = sweep.folder.run(run.run_id)
    folder.path.mkdir(parents=True)
    folder.log.write_text("damage\n")
    record(folder.path, "failed", error="it was so")
    said, code = command(sweep, "retry", "--cluster", "debug").communicate()
    assert code == 0, said
    assert f"{run.run_id}: set aside log.jsonl" in said
    assert statuses(sweep.folder, [run])[0].state == "done"
