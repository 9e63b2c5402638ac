"""What limits a long run: time and disk."""

import errno
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from dynamics.config import RunConfig
from dynamics.models import build
from dynamics.training import Checkpoints, DiskFullError, TimeLimit, TrainState, check_room, room_for, start, time_limit
from dynamics.training import stop as clock
from dynamics.training.disk import checkpoint_bytes

Usage = namedtuple("Usage", "total used free")


class Time:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1e9

    def time(self) -> float:
        return self.now


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Time:
    out = Time()
    monkeypatch.setattr(clock, "time", out)
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    return out


def steps_until_near(limit: TimeLimit, now: Time, seconds: float, save: float = 0.0) -> float:
    """Do steps, with a checkpoint after every tenth, and return when the limit was near."""
    began = now.now
    for step in range(1, 10_000):
        now.now += seconds
        if limit.near():
            return now.now - began
        if step % 10 == 0:
            with limit.saving():
                now.now += save
    raise AssertionError("never near")


def test_time_is_left_for_a_step_and_a_checkpoint_of_twice_the_longest(now: Time) -> None:
    spare = clock.SPARE
    assert steps_until_near(time_limit(60), now, seconds=1) == 3600 - 1 - spare
    assert 3600 - spare >= steps_until_near(time_limit(60), now, seconds=7) > 3600 - 14 - spare
    # however it falls, there is room for the checkpoint
    assert 3600 - 100 - spare >= steps_until_near(time_limit(60), now, seconds=1, save=100) >= 3600 - 202 - spare


def test_the_first_step_may_compile_and_one_slow_step_is_remembered(now: Time) -> None:
    limit = time_limit(10)
    for seconds in (300, 1, 60, 1):
        now.now += seconds
        assert not limit.near()
    now.now += 600 - 362 - clock.SPARE - 60
    assert limit.near()


def test_no_limit_is_never_near(now: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("", "0", "Unknown"):
        monkeypatch.setenv("SLURM_JOB_END_TIME", text)
        limit = time_limit(None)
        now.now += 1e8
        assert not limit.near()


def test_the_earlier_of_two_ends_counts(now: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(now.now) + 600))
    assert steps_until_near(time_limit(None), now, seconds=1) == 599 - clock.SPARE
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(now.now) + 600))
    assert steps_until_near(time_limit(5), now, seconds=1) == 299 - clock.SPARE


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_a_time_that_is_none_is_refused(minutes: float) -> None:
    with pytest.raises(ValueError, match=r"wall_minutes: received .*; allowed: a positive number"):
        time_limit(minutes)


class ForeignError(Exception):
    """An error of a library that knows nothing of errno."""


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "whatever"),
        OSError(errno.EDQUOT, "whatever"),
        ForeignError("Error while serializing: I/O error: No space left on device (os error 28)"),
        ForeignError("Disk quota exceeded (os error 122)"),
    ],
)
def test_a_full_disk_is_explained(tmp_path: Path, error: Exception) -> None:
    (tmp_path / "step_00000400").write_bytes(bytes(3_000_000))
    with (
        pytest.raises(DiskFullError, match=r"no room for the checkpoint of step 500 in .*about 1.2 GB .* take 3 MB"),
        room_for("the checkpoint of step 500", tmp_path, 1_200_000_000),
    ):
        raise error
    assert (tmp_path / "step_00000400").exists()


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), room_for("log.jsonl", tmp_path, 1):
        raise PermissionError(errno.EACCES, "not yours")


def test_an_error_without_a_reason_counts_where_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch's writer says of a full disk is "unexpected pos 576 vs 534"."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10, 9, 1))
    with pytest.raises(DiskFullError, match="unexpected pos"), room_for("x", tmp_path / "not there yet", 2):
        raise RuntimeError("unexpected pos 576 vs 534")


@pytest.fixture
def state(tiny: RunConfig) -> TrainState:
    return start(build(tiny.model, *tiny.data.dimensions(), 0), tiny.training, tiny.curricula)


def test_the_size_of_a_checkpoint_is_known(state: TrainState, tmp_path: Path) -> None:
    for parameter in state.model.parameters():
        parameter.grad = parameter.detach().clone()
    state.optimizer.step()
    Checkpoints(tmp_path).save(state)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert checkpoint_bytes(state) < size < checkpoint_bytes(state) + 60_000  # headers and the like


def test_a_small_disk_is_said_before_training(
    state: TrainState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    one = checkpoint_bytes(state)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 3 * one))
    check_room(tmp_path / "checkpoints", 2, state)
    assert not recwarn.list
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 3 * one - 1))
    with pytest.warns(UserWarning, match=r"3 checkpoints of .* MB need .* keep fewer \(training.keep_checkpoints\)"):
        check_room(tmp_path / "checkpoints", 2, state)
    recwarn.clear()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "there").write_bytes(b"0")
    check_room(tmp_path / "checkpoints", 2, state)
    assert not recwarn.list, "what is there already takes no more room"
