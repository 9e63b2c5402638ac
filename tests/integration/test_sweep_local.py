"""Sweeps on this machine: many writers, Ctrl-C, kills at any moment, full disks, two people at once."""

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import psutil
import pytest
from sweeps._held import held
from sweeps._sweep import Small, same_results, small

from dynamics.store import open_results
from dynamics.sweep.collect import collect, set_aside
from dynamics.sweep.commands import main
from dynamics.sweep.events import events, record
from dynamics.sweep.grid import Planned, plan
from dynamics.sweep.state import statuses
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


class Forked:
    """The command in a forked process, which spares the imports, in a process group of its own, as of a terminal."""

    def __init__(self, sweep: Small, *words: str) -> None:
        self.said = tempfile.TemporaryFile("w+")
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            os.setsid()
            for stream in (1, 2):
                os.dup2(self.said.fileno(), stream)
            sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
            os.environ["PYTHONPATH"] = str(TESTS)
            main("sweeps", arguments(sweep, *words))
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            os._exit(code)

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and what was said."""
        code = ended(self.pid)
        return code, self.output()

    def output(self) -> str:
        self.said.seek(0)
        return self.said.read()


def arguments(sweep: Small, *words: str) -> list[str]:
    return [sweep.folder.experiment, *words, "--results", str(sweep.folder.results)]


def start(sweep: Small, hold: Path, *words: str) -> "subprocess.Popen[str]":
    """Start the command as a shell does, in a process group of its own; its runs last while `hold` is there."""
    program = """
import sys
from pathlib import Path
from dynamics.sweep.commands import main
from sweeps._held import held
with held(Path(sys.argv[1])):
    main("sweeps", sys.argv[2:])
"""
    command = [sys.executable, "-c", program, str(hold), *arguments(sweep, *words)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def wait_until(
    condition: Callable[[], bool], process: "Forked | subprocess.Popen[str]", seconds: float = 120
) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        assert process.poll() is None, process.communicate() if isinstance(process, subprocess.Popen) else process.end()
        time.sleep(0.02)


def num_records(sweep: Small, run: Planned) -> int:
    log = sweep.folder.run(run.run_id).log
    return log.read_text().count("raw_v") if log.exists() else 0


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


def four_writers(tmp_path: Path, each: int, kill: Callable[[Callable[[], None], int], None]) -> list[list[str]]:
    """Let four processes do so many runs each, every one killed by `kill` and done again; return what the diaries say.

    All of them are collected.
    """
    sweep = small("tiny", tmp_path)
    axes = {"seed": {seed: {"seed": seed, "training.num_steps": 6} for seed in range(4 * each)}}
    which = replace(sweep.experiment, axes=lambda s: axes, before=lambda c, k: (), evaluation=lambda s: ())
    runs = plan(which, "digits")

    def writer(number: int) -> None:
        for index in range(number * each, (number + 1) * each):
            job = job_of(sweep.folder, runs[index])
            kill(job, index)
            assert ended(in_child(job)) == 0

    writers = [in_child(lambda number=number: writer(number)) for number in range(4)]
    assert [ended(pid) for pid in writers] == [0, 0, 0, 0]
    found = collect(sweep.folder, which, runs, progress=False)
    assert (found.num_runs, found.missing) == (4 * each, {})
    training = open_results(sweep.folder.merged)["training"].to_dataset()
    assert training.sizes == {"run": 4 * each, "step": 6, "gap_bin": 10}
    assert training.raw_v.notnull().all()
    return [[event["kind"] for event in events(sweep.folder.run(run.run_id).path)] for run in runs]


def test_four_writers_of_two_runs_each_killed_once(tmp_path: Path) -> None:
    """kill -9 between writes of each of eight runs, four at a time; all of them are collected."""

    def kill(job: Callable[[], None], index: int) -> None:
        def work() -> None:
            with dying_before_write(5 + 6 * index):
                job()

        assert ended(in_child(work)) == -signal.SIGKILL

    kinds = four_writers(tmp_path, 2, kill)
    assert kinds == [["started", "started", "finished"]] * 8


@pytest.mark.soak
def test_four_writers_of_25_runs_each_killed_once(tmp_path: Path) -> None:
    """kill -9 at a random moment of each of 100 runs, four at a time; all of them are collected."""
    sweep = small("tiny", tmp_path / "timed")
    began = time.monotonic()
    assert ended(in_child(job_of(sweep.folder, sweep.runs[2]))) == 0
    whole = time.monotonic() - began

    def kill(job: Callable[[], None], index: int) -> None:
        pid = in_child(job)
        time.sleep(random.Random(index).uniform(0, whole))
        os.kill(pid, signal.SIGKILL)
        ended(pid)

    found = four_writers(tmp_path / "sweep", 25, kill)
    assert sum(kinds == ["started", "started", "finished"] for kinds in found) > 20, "most kills hit a run at work"


def killed_before_write(tmp_path: Path, numbers: Iterable[int]) -> int:
    """Kill a run before its n-th call that changes the disk, and do it again; return the n that it never reached."""
    undisturbed = small("tiny", tmp_path / "undisturbed")
    run = undisturbed.runs[2]
    undisturbed.do(run)
    expected = undisturbed.folder.run(run.run_id).path
    for number in numbers:
        sweep = small("tiny", tmp_path / str(number))

        def work(sweep: Small = sweep, number: int = number) -> None:
            with dying_before_write(number):
                job_of(sweep.folder, run)()

        survived = ended(in_child(work)) == 0
        assert ended(in_child(job_of(sweep.folder, run))) == 0, f"killed before write {number}"
        same_results(sweep.folder.run(run.run_id).path, expected)
        assert statuses(sweep.folder, [run])[0].state == "done"
        if survived:
            return number
    raise AssertionError("so few numbers")


def test_a_kill_between_two_writes_loses_nothing(tmp_path: Path) -> None:
    """Before each of the first ones, and one in nine of the others."""
    assert killed_before_write(tmp_path, chain(range(1, 13), count(20, 9))) > 60, "so many writes there are in a run"


@pytest.mark.soak
def test_a_kill_between_any_two_writes_loses_nothing(tmp_path: Path) -> None:
    killed_before_write(tmp_path, count(1))


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
    process = start(sweep, tmp_path / "hold", "submit", *only)
    wait_until(lambda: all(num_records(sweep, run) > 5 for run in (first, second)), process)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "each run writes its checkpoint" in errors
    for run in (first, second):
        status = statuses(sweep.folder, [run])[0]
        assert status.state == "stopped"
        steps = sweep.folder.run(run.run_id).checkpoints().steps()
        assert steps[-1] == status.events[-1]["step"] >= 5
    mine = str(tmp_path)
    assert not [p for p in psutil.process_iter(["cmdline"]) if mine in " ".join(p.info["cmdline"] or ())]
    code, said = Forked(sweep, "submit", *only).end()
    assert code == 0, said
    assert "2 done" in said
    undisturbed.do(first)
    same_results(sweep.folder.run(first.run_id).path, undisturbed.folder.run(first.run_id).path)


def test_two_people_submit_and_the_submitter_dies(tmp_path: Path) -> None:
    """Two submitters share the work; one is killed -9, its run goes on by itself; every run is started once."""
    sweep, hold = small("slow", tmp_path), tmp_path / "hold"
    runs = sweep.runs[:3]
    only = ("--only", *(run.run_id for run in runs), "--parallelism", "1")
    with held(hold):
        one, two = Forked(sweep, "submit", *only), Forked(sweep, "submit", *only)
    wait_until(lambda: sum(num_records(sweep, run) > 5 for run in runs) == 2, one)
    os.kill(one.pid, signal.SIGKILL)
    one.end()
    hold.unlink()
    _, said = two.end()
    wait_until(lambda: all(s.state == "done" for s in statuses(sweep.folder, runs)), Forked(sweep, "submit", *only))
    for run in runs:
        kinds = [event["kind"] for event in events(sweep.folder.run(run.run_id).path)]
        assert kinds.count("started") == kinds.count("finished") == 1, (kinds, said)


def test_cancel_from_another_terminal(tmp_path: Path) -> None:
    sweep = small("slow", tmp_path)
    only = ("--only", *(run.run_id for run in sweep.runs[:2]), "--parallelism", "1")
    with held(tmp_path / "hold"):
        submitter = Forked(sweep, "submit", *only)
    wait_until(lambda: num_records(sweep, sweep.runs[0]) > 5, submitter)
    _, said = Forked(sweep, "cancel").end()
    assert "cancelled 1 runs" in said
    code, said = submitter.end()
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
        from dynamics.sweep.local import run_here
        from dynamics.sweep.resources import RESOURCES
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
    code, said = Forked(sweep, "retry", "--cluster", "debug").end()
    assert code == 0, said
    assert f"{run.run_id}: set aside log.jsonl" in said
    assert statuses(sweep.folder, [run])[0].state == "done"
