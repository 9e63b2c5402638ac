"""The process that forks runs: what they get, and that none depends on it or on another."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from warm_jobs import Diary

from dynamics.sweep.warm import Forked, WarmProcess


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmProcess]:
    lacking = tmp_path_factory.mktemp("lacking")
    (lacking / "tensorboard.py").write_text("raise ImportError('an extra that is not installed')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join((str(Path(__file__).parent), str(lacking))))
        process = WarmProcess(tmp_path_factory.mktemp("logs"))
        yield process
        process.close()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def told(folder: Path, ranks: int) -> list[str]:
    """Wait for every rank's line."""
    until(lambda: all((folder / str(rank)).exists() and (folder / str(rank)).stat().st_size for rank in range(ranks)))
    return [(folder / str(rank)).read_text() for rank in range(ranks)]


def test_a_run_knows_its_number_and_speaks_to_its_logs(warm: WarmProcess, tmp_path: Path) -> None:
    run = warm.start(Diary(tmp_path), gpus=(2, 3))  # type: ignore[arg-type]
    assert told(tmp_path, 1) == [f"{run.pid} 1 2,3"]
    until(run.done)
    assert (tmp_path / "end 0").exists()
    assert run.log.parent.name == str(run.pid)
    assert run.log.with_suffix(".out").read_text() == "said\n"


def test_ranks_fail_together_and_the_log_says_why(warm: WarmProcess, tmp_path: Path) -> None:
    run = warm.start(Diary(tmp_path, fail=True), ranks=2)  # type: ignore[arg-type]
    assert told(tmp_path, 2) == [f"{run.pid} 2 "] * 2
    until(run.done)
    assert "rank 1 failed" in run.log.with_name(run.log.name.replace("_0_", "_1_")).read_text()


def test_a_signal_reaches_every_rank(warm: WarmProcess, tmp_path: Path) -> None:
    run = warm.start(Diary(tmp_path, wait=True), ranks=2)  # type: ignore[arg-type]
    told(tmp_path, 2)
    ranks = psutil.Process(run.pid).children()
    assert len(ranks) == 2
    os.kill(run.pid, signal.SIGTERM)
    until(run.done)
    until(lambda: not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks))


def test_runs_outlive_it_and_it_is_started_anew(warm: WarmProcess, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    run = warm.start(Diary(first, wait=True))  # type: ignore[arg-type]
    told(first, 1)
    warm._process.kill()
    other = warm.start(Diary(second))  # type: ignore[arg-type]
    told(second, 1)
    until(other.done)
    assert not run.done()
    os.kill(run.pid, signal.SIGTERM)
    until(run.done)


def test_a_number_that_was_given_again_is_another_process(tmp_path: Path) -> None:
    mine = psutil.Process()
    assert not Forked(mine.pid, mine.create_time(), tmp_path).done()
    assert Forked(mine.pid, mine.create_time() - 10, tmp_path).done()
