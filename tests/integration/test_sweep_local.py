"""Sweeps on this machine: many writers, Ctrl-C, kills at any moment, full disks, two people at once."""

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from sweeps._sweep import Small, same_results, small

from dynamics.store import open_results
from dynamics.sweep.collect import collect, set_aside
from dynamics.sweep.events import events, record
from dynamics.sweep.grid import Planned, plan
from dynamics.sweep.status import statuses
from dynamics.sweep.submit import job_of

TESTS = Path(__file__).parents[1]
NO_CLUSTER = {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "1", "SUBMITIT_LOCAL_GLOBALID": "0"}


@pytest.fixture(autouse=True, scope="module")
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Do one run here, so that forked processes find everything imported and in memory."""
    sweep = small("tiny", tmp_path_factory.mktemp("warm"))
    sweep.do(sweep.runs[2])


def in_child(work: Callable[[], Any]) -> int:
    """Do something in a forked process, which spares the imports; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ.update(NO_CLUSTER)
        with open(os.devnull, "w") as silence, redirect_stderr(silence), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            work()
        code = 0
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def start(sweep: Small, *words: str) -> "subprocess.Popen[str]":
    """Start the command in a process group of its own, as a terminal does."""
    program = "import sys; from dynamics.cli.experiments import main; main('sweeps', sys.argv[1:])"
    command = [sys.executable, "-c", program, sweep.folder.experiment, *words, "--results", str(sweep.folder.results)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str]", seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def num_records(sweep: Small, run: Planned) -> int:
    log = sweep.folder.run(run.run_id).log
    return log.read_text().count("raw_v") if log.exists() else 0


def test_four_writers_of_25_runs_each_killed_once(tmp_path: Path) -> None:
    """kill -9 at a random moment of each of 100 runs, four at a time; all of them are collected."""
    sweep = small("tiny", tmp_path)
    axes = {"seed": {seed: {"seed": seed, "training.num_steps": 6} for seed in range(100)}}
    which = replace(sweep.experiment, axes=lambda s: axes, before=lambda c, k: (), evaluation=lambda s: ())
    runs = plan(which, "digits")
    began = time.monotonic()
    assert ended(in_child(job_of(sweep.folder, runs[0]))) == 0
    whole = time.monotonic() - began
    (sweep.folder.run(runs[0].run_id).result).unlink()

    def writer(number: int) -> None:
        chance = random.Random(number)
        for run in runs[number * 25 : (number + 1) * 25]:
            pid = in_child(job_of(sweep.folder, run))
            time.sleep(chance.uniform(0, whole))
            os.kill(pid, signal.SIGKILL)
            ended(pid)
            assert ended(in_child(job_of(sweep.folder, run))) == 0

    writers = [in_child(lambda number=number: writer(number)) for number in range(4)]
    assert [ended(pid) for pid in writers] == [0, 0, 0, 0]
    killed = [[event["kind"] for event in events(sweep.folder.run(run.run_id).path)] for run in runs]
    assert sum(kinds == ["started", "started", "finished"] for kinds in killed) > 20, "most kills hit a run at work"
    found = collect(sweep.folder, which, runs, progress=False)
    assert (found.num_runs, found.missing) == (100, {})
    training = open_results(sweep.folder.merged)["training"].to_dataset()
    assert training.sizes == {"run": 100, "step": 6, "gap_bin": 10}
    assert training.raw_v.notnull().all()


@contextmanager
def dying_before_write(number: int) -> Iterator[list[int]]:
    """Kill this process right before its `number`-th call that changes the disk."""
    calls = [0]
    originals = {name: getattr(os, name) for name in ("write", "fsync", "replace", "unlink", "mkdir", "rmdir")}

    def counting(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return call

    for name, original in originals.items():
        setattr(os, name, counting(original))
    try:
        yield calls
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


def test_a_kill_between_any_two_writes_loses_nothing(tmp_path: Path) -> None:
    undisturbed = small("tiny", tmp_path / "undisturbed")
    run = undisturbed.runs[2]
    undisturbed.do(run)
    expected = undisturbed.folder.run(run.run_id).path
    number, survived = 0, False
    while not survived:
        number += 5 if number > 12 else 1  # one in five, once the first ones have passed
        sweep = small("tiny", tmp_path / str(number))

        def work(sweep: Small = sweep, number: int = number) -> None:
            with dying_before_write(number):
                job_of(sweep.folder, run)()

        survived = ended(in_child(work)) == 0
        assert ended(in_child(job_of(sweep.folder, run))) == 0, f"killed before write {number}"
        same_results(sweep.folder.run(run.run_id).path, expected)
        assert statuses(sweep.folder, [run])[0].state == "done"
    assert number > 60, "so many writes there are in a run"


def test_a_full_disk_fails_the_run_and_loses_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands for a quota: the same error at the same calls."""
    undisturbed, sweep = small("tiny", tmp_path / "undisturbed"), small("tiny", tmp_path / "full")
    run = sweep.runs[2]
    undisturbed.do(run)
    folder = sweep.folder.run(run.run_id).path
    for limit in (200, 2_000, 8_000, 30_000):

        def work(limit: int = limit) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            job_of(sweep.folder, run)()

        assert ended(in_child(work)) == 1
        assert statuses(sweep.folder, [run])[0].state in ("failed", "new", "died")
    told = [event["error"] for event in events(folder) if event["kind"] == "failed"]
    assert any(os.strerror(errno.EFBIG) in error for error in told)
    assert set_aside(sweep.folder, run) == [], "nothing is damaged"
    sweep.do(run)
    same_results(folder, undisturbed.folder.run(run.run_id).path)


def test_ctrl_c_leaves_checkpoints_and_the_same_command_continues(tmp_path: Path) -> None:
    sweep, undisturbed = small("slow", tmp_path / "a"), small("slow", tmp_path / "b")
    first, second = sweep.runs[:2]
    only = ("--only", first.run_id, second.run_id, "--parallelism", "2")
    process = start(sweep, "submit", *only)
    wait_until(lambda: all(num_records(sweep, run) > 20 for run in (first, second)), process)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "each run writes its checkpoint" in errors
    for run in (first, second):
        status = statuses(sweep.folder, [run])[0]
        assert status.state == "stopped"
        steps = sweep.folder.run(run.run_id).checkpoints().steps()
        assert steps[-1] == status.events[-1]["step"] >= 20
    mine = str(tmp_path)
    assert not [p for p in psutil.process_iter(["cmdline"]) if mine in " ".join(p.info["cmdline"] or ())]
    process = start(sweep, "submit", *only)
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert "2 done" in output
    undisturbed.do(first)
    same_results(sweep.folder.run(first.run_id).path, undisturbed.folder.run(first.run_id).path)


def test_two_people_submit_and_the_submitter_dies(tmp_path: Path) -> None:
    """Two submitters share the work; one is killed -9, its run goes on by itself; every run is started once."""
    sweep = small("slow", tmp_path)
    runs = sweep.runs[:3]
    only = ("--only", *(run.run_id for run in runs), "--parallelism", "1")
    one, two = start(sweep, "submit", *only), start(sweep, "submit", *only)
    wait_until(lambda: sum(num_records(sweep, run) > 5 for run in runs) == 2, one)
    one.kill()
    _, errors = two.communicate(timeout=200)
    wait_until(lambda: all(s.state == "done" for s in statuses(sweep.folder, runs)), start(sweep, "submit", *only))
    for run in runs:
        kinds = [event["kind"] for event in events(sweep.folder.run(run.run_id).path)]
        assert kinds.count("started") == kinds.count("finished") == 1, (kinds, errors)


def test_cancel_from_another_terminal(tmp_path: Path) -> None:
    sweep = small("slow", tmp_path)
    only = ("--only", *(run.run_id for run in sweep.runs[:2]), "--parallelism", "1")
    process = start(sweep, "submit", *only)
    wait_until(lambda: num_records(sweep, sweep.runs[0]) > 5, process)
    output, errors = start(sweep, "cancel").communicate(timeout=60)
    assert "cancelled 1 runs" in output, errors
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
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
    process = start(sweep, "retry", "--cluster", "debug")
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert f"{run.run_id}: set aside log.jsonl" in output
    assert statuses(sweep.folder, [run])[0].state == "done"
