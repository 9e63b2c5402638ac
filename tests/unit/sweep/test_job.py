"""What a job says in its run's diary, whatever happens to it."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from sweeps._sweep import Small

from dynamics.atomic import locked
from dynamics.runner import RunFolder
from dynamics.store import RunLog
from dynamics.sweep.events import events, record
from dynamics.sweep.job import Job
from dynamics.sweep.status import statuses
from dynamics.sweep.submit import job_of
from dynamics.training import Checkpoints


@pytest.fixture
def job(tiny_sweep: Small, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "11")
    monkeypatch.setenv("SUBMITIT_FOLDER", "/logs")
    monkeypatch.setenv("SUBMITIT_LOCAL_GLOBALID", "0")
    return job_of(tiny_sweep.folder, tiny_sweep.runs[2])


def kinds(job: Job) -> list[str]:
    return [event["kind"] for event in events(Path(job.folder))]


def test_a_run_is_trained_evaluated_and_told(job: Job, tiny_sweep: Small) -> None:
    job()
    start, end = events(Path(job.folder))
    assert (start["kind"], start["job_id"], start["log"], start["step"]) == ("started", "11", "/logs/11_0_log.err", 0)
    assert (end["kind"], end["evaluations"]) == ("finished", job.evaluations)
    assert statuses(tiny_sweep.folder, [tiny_sweep.runs[2]])[0].state == "done"


def test_an_error_is_told_and_raised(job: Job) -> None:
    folder = RunFolder(Path(job.folder))
    folder.path.mkdir(parents=True)
    folder.log.write_text("damage\n")
    with pytest.raises(ValueError, match=r"with log.jsonl and no config.json"):
        job()
    assert kinds(job) == ["started", "failed"]
    failed = events(folder.path)[-1]
    assert failed["error"].startswith("ValueError: out: received")
    assert "Traceback" in failed["traceback"]


def test_a_run_that_another_process_trains_is_left_to_it(job: Job) -> None:
    folder = RunFolder(Path(job.folder))
    folder.path.mkdir(parents=True)
    with locked(folder.log, wait=False):
        job()
    assert kinds(job) == ["started"], "no failure that the other one did not have"


def send_after(number: int, what: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    append, counter = RunLog.append, iter(range(1, 10_000))

    def sending(self: RunLog, entry: dict[str, object]) -> None:
        append(self, entry)
        if next(counter) == number:
            os.kill(os.getpid(), what)

    monkeypatch.setattr(RunLog, "append", sending)


def test_a_stop_on_a_machine_of_ones_own_is_told_and_ends_the_process(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_after(4, signal.SIGTERM, monkeypatch)
    with pytest.raises(SystemExit) as stop:
        job()
    assert stop.value.code == 75
    assert kinds(job) == ["started", "stopped"]
    assert (events(Path(job.folder))[-1]["signal"], events(Path(job.folder))[-1]["step"]) == ("SIGTERM", 3)


def test_slurms_announcement_of_an_end_writes_a_checkpoint_and_goes_on(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"EXECUTOR": "slurm", "FOLDER": "/logs"}.items():
        monkeypatch.setenv(f"SUBMITIT_{name}", value)
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    send_after(4, signal.SIGTERM, monkeypatch)
    saved = []
    save = Checkpoints.save
    monkeypatch.setattr(
        Checkpoints, "save", lambda self, state, log: [saved.append(state.step), save(self, state, log)]
    )
    job()
    assert saved == [3, 5, 10, 12]
    assert kinds(job) == ["started", "finished"]


def test_slurms_signal_is_handed_to_submitit_once_the_checkpoint_is_there(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Requeued(BaseException):
        """Stands for submitit's end of the process."""

    def handler(*args: object) -> None:
        job.checkpoint()
        os.kill(os.getpid(), signal.SIGUSR2)  # Slurm's own, where another rank had stopped this one before it came
        raise Requeued

    before = signal.signal(signal.SIGUSR2, handler)
    try:
        send_after(4, signal.SIGUSR2, monkeypatch)
        with pytest.raises(Requeued):
            job()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert kinds(job) == ["started", "stopped"]
    assert RunFolder(Path(job.folder)).checkpoints().steps() == [3]
    job()
    assert kinds(job) == ["started", "stopped", "started", "finished"]


@pytest.mark.parametrize(
    ("code", "told"), [(-signal.SIGTERM, ["started", "stopped"]), (1, ["started", "stopped", "failed"])]
)
def test_a_requeue_that_ends_its_own_scontrol_is_no_failure(
    job: Job, monkeypatch: pytest.MonkeyPatch, code: int, told: list[str]
) -> None:
    class Ended(BaseException):
        """Stands for the end that Slurm brings to every process of the job."""

    def end(seconds: float) -> None:
        raise Ended

    def handler(*args: object) -> None:
        job.checkpoint()
        monkeypatch.setattr("time.sleep", end)
        raise subprocess.CalledProcessError(code, ["scontrol", "requeue", "11"])

    before = signal.signal(signal.SIGUSR2, handler)
    try:
        send_after(4, signal.SIGUSR2, monkeypatch)
        with pytest.raises((Ended, subprocess.CalledProcessError)):
            job()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert kinds(job) == told


def test_a_job_that_gets_no_further_is_not_queued_for_ever(job: Job) -> None:
    Path(job.folder).mkdir(parents=True)
    job.checkpoint()
    record(Path(job.folder), "started", job_id="11", log="", out="", step=0)
    with pytest.raises(RuntimeError, match="two attempts in a row ended at step 0"):
        job.checkpoint()
    assert kinds(job) == ["stopped", "started", "failed"]
