"""Runs of a sweep that are killed at any moment, by many writers and by full disks: nothing is lost."""

import errno
import os
import resource
import signal
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import chain, count
from pathlib import Path

import pytest
from forks import ended, forked
from soak.warm import die_before
from sweeps._sweep import same_results, small

from dynamics.store import open_results
from dynamics.sweep.collect import collect_sweep, set_aside
from dynamics.sweep.events import events
from dynamics.sweep.grid import plan
from dynamics.sweep.status import statuses
from dynamics.sweep.submit import job_of


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the third tiny run, undisturbed.

    It is done in this process, so that forked ones find everything imported and in memory.
    """
    sweep = small("tiny", tmp_path_factory.mktemp("whole"))
    sweep.do(sweep.runs[2])
    return sweep.folder.run(sweep.runs[2].run_id).path


@pytest.fixture(autouse=True)
def _a_job(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the environment of a job of no cluster."""
    for name, value in (("EXECUTOR", "local"), ("LOCAL_JOB_ID", "1"), ("LOCAL_GLOBALID", "0")):
        monkeypatch.setenv(f"SUBMITIT_{name}", value)


def dying(work: Callable[[], None], number: int) -> None:
    """Work in a process that is killed right before its `number`-th call that changes the disk."""
    die_before(number, count(1))
    work()


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
            assert ended(forked(job)) == 0

    writers = [forked(lambda number=number: writer(number)) for number in range(4)]
    assert [ended(pid) for pid in writers] == [0, 0, 0, 0]
    found = collect_sweep(sweep.folder, which, runs, progress=False)
    assert (found.num_runs, found.missing) == (4 * each, {})
    training = open_results(sweep.folder.merged)["training"].to_dataset()
    assert training.sizes == {"run": 4 * each, "step": 6, "gap_bin": 10}
    assert training.raw_v.notnull().all()
    return [[event["kind"] for event in events(sweep.folder.run(run.run_id).path)] for run in runs]


def test_four_writers_of_two_runs_each_killed_once(tmp_path: Path) -> None:
    """kill -9 between writes of each of eight runs, four at a time; all of them are collected."""

    def kill(job: Callable[[], None], index: int) -> None:
        assert ended(forked(partial(dying, job, 8 + 5 * index))) == -signal.SIGKILL

    kinds = four_writers(tmp_path, 2, kill)
    assert kinds == [["started", "started", "finished"]] * 8


def killed_before_write(tmp_path: Path, expected: Path, numbers: Iterable[int]) -> int:
    """Kill a run before its n-th call that changes the disk, and do it again; return the n that it never reached."""
    for number in numbers:
        sweep = small("tiny", tmp_path / str(number))
        run = sweep.runs[2]

        job = job_of(sweep.folder, run)
        survived = ended(forked(partial(dying, job, number))) == 0
        assert ended(forked(job)) == 0, f"killed before write {number}"
        same_results(sweep.folder.run(run.run_id).path, expected)
        assert statuses(sweep.folder, [run])[0].state == "done"
        if survived:
            return number
    raise AssertionError("so few numbers")


def test_a_kill_between_two_writes_loses_nothing(tmp_path: Path, whole: Path) -> None:
    """Before each of the first ones, and one in thirteen of the others."""
    assert killed_before_write(tmp_path, whole, chain(range(1, 13), count(20, 13))) > 60, (
        "so many writes there are in a run"
    )


def test_a_full_disk_fails_the_run_and_loses_nothing(tmp_path: Path, whole: Path) -> None:
    """A limit on the size of files stands for a quota: the same error at the same calls."""
    sweep = small("tiny", tmp_path)
    run = sweep.runs[2]
    folder = sweep.folder.run(run.run_id).path
    for limit in (200, 2_000, 8_000, 30_000):

        def work(limit: int = limit) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            job_of(sweep.folder, run)()

        assert ended(forked(work)) == 1
        assert statuses(sweep.folder, [run])[0].state in ("failed", "new", "died")
    told = [event["error"] for event in events(folder) if event["kind"] == "failed"]
    assert any(os.strerror(errno.EFBIG) in error for error in told)
    assert set_aside(sweep.folder, run) == [], "nothing is damaged"
    sweep.do(run)
    same_results(folder, whole)
