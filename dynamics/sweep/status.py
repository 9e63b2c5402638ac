"""What state each run of a sweep is in, from its folder, its diary and the queue."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dynamics.runner import RunFolder
from dynamics.sweep import slurm
from dynamics.sweep.events import Event, alive, read_diary
from dynamics.sweep.grid import Planned
from dynamics.sweep.machine_files import EVALUATIONS
from dynamics.sweep.sweep_folder import SweepFolder

State = Literal[
    "new", "queued", "held", "running", "done", "failed", "died", "stopped", "cancelled", "damaged", "unknown"
]
ACTIVE = ("queued", "held", "running", "unknown")
"""States in which a run must be left to itself."""
TAIL = 16 * 1024
"""Bytes read from the end of a log at first; more if no training record is among them."""


@dataclass(frozen=True)
class Status:
    """One run's state, and what a user wants to know about it."""

    run: Planned
    state: State
    events: Sequence[Event]
    job_id: str = ""
    """Of the newest attempt."""
    cluster: str = ""
    """Where the newest attempt was submitted to."""
    log: str = ""
    """The newest attempt's error stream."""
    out: str = ""
    """Its output."""
    detail: str = ""
    """Why it waits, or its last error."""
    preempted: int = 0
    """How often an attempt was interrupted and queued again."""


def statuses(sweep: SweepFolder, runs: Sequence[Planned]) -> list[Status]:
    """Return the state of each run; asks the queue once.

    A run that went to a Slurm which does not answer is "unknown", and nothing touches it. One whose diary is damaged
    is "damaged", unless what can be read of it says that it is at work.
    """
    diaries, damage = {}, {}
    for run in runs:
        diaries[run.run_id], damage[run.run_id] = read_diary(sweep.run(run.run_id).path)
    wanted = {run.run_id: evaluations_json(run) for run in runs}

    def done(run: Planned) -> bool:
        return _done(sweep.run(run.run_id), diaries[run.run_id], wanted[run.run_id])

    open_ones = [run for run in runs if not done(run)]
    submissions = [_submission(diaries[run.run_id]) for run in open_ones]
    tokens = sorted({event["token"] for event in submissions if event and event["cluster"] == "slurm"})
    try:
        queued: Mapping[tuple[str, int], slurm.Job] | None = slurm.queue(tokens) if tokens else {}
        silence = ""
    except slurm.SlurmError as error:
        queued, silence = None, str(error)
    for run in open_ones:  # once more: a run that ended before the queue was asked has said so by now
        diaries[run.run_id], damage[run.run_id] = read_diary(sweep.run(run.run_id).path)
    found = [
        Status(run, "done", diaries[run.run_id], **_attempts(diaries[run.run_id]))
        if done(run)
        else _status(run, diaries[run.run_id], queued, silence)
        for run in runs
    ]
    return [
        replace(status, state="damaged", detail=damage[status.run.run_id])
        if damage[status.run.run_id] and status.state not in ACTIVE
        else status
        for status in found
    ]


def evaluations_json(run: Planned) -> str:
    """Return the evaluations of a run as JSON, as a job carries them."""
    return EVALUATIONS.dump_json(run.evaluations).decode()


def stale(sweep: SweepFolder, runs: Sequence[Planned]) -> list[str]:
    """Return the ids of runs on the disk that the experiment, as it is now, does not ask for."""
    planned = {run.run_id for run in runs}
    return [run_id for run_id in sweep.run_ids() if run_id not in planned]


def _done(folder: RunFolder, diary: Sequence[Event], wanted: str) -> bool:
    marks = [event for event in diary if event["kind"] in ("finished", "damaged")]
    finished = bool(marks) and marks[-1]["kind"] == "finished" and marks[-1]["evaluations"] == wanted
    return finished and folder.result.is_file()


def _status(
    run: Planned, diary: Sequence[Event], queued: Mapping[tuple[str, int], slurm.Job] | None, silence: str
) -> Status:
    about = _attempts(diary)
    submitted = _submission(diary)
    if submitted is None:
        return Status(run, _unattended(diary), diary, **about)
    if submitted["cluster"] == "slurm":
        if queued is None:
            return Status(run, "unknown", diary, **{**about, "detail": silence})
        job = queued.get((submitted["token"], submitted["index"]))
        if job is not None:
            reason = job.reason if job.waits and job.reason != "None" else ""
            state: State = "held" if job.held else "queued" if job.waits else "running"
            remedy = f"; retry, or scontrol release {job.job_id}, lets it go" if job.held else ""
            return Status(run, state, diary, **{**about, "job_id": job.job_id, "detail": reason + remedy})
        return Status(run, _unattended(diary), diary, **about)
    newest = diary[-1]
    if newest["kind"] in ("submitted", "started") and alive(newest):
        return Status(run, "queued" if newest["kind"] == "submitted" else "running", diary, **about)
    return Status(run, _unattended(diary), diary, **about)


def _submission(diary: Sequence[Event]) -> Event | None:
    return next((event for event in reversed(diary) if event["kind"] == "submitted"), None)


def _unattended(diary: Sequence[Event]) -> State:
    """Return the state of a run that no process works on, from what was said last."""
    if not diary:
        return "new"
    states: dict[str, State] = {
        "submitted": "new",  # the submission or the queue lost it before it began
        "started": "died",
        "stopped": "stopped",
        "failed": "failed",
        "finished": "new",  # another evaluation is wanted now, or the file has gone
        "cancelled": "cancelled",
        "damaged": "damaged",
        "set_aside": "stopped",
    }
    return states[diary[-1]["kind"]]


def _attempts(diary: Sequence[Event]) -> dict[str, Any]:
    starts = [event for event in diary if event["kind"] == "started"]
    submission = _submission(diary)
    errors = [event for event in diary if event["kind"] in ("failed", "damaged")]
    again = len(starts) - len({event["job_id"] for event in starts})  # a job that is queued again keeps its number
    about: dict[str, Any] = {"preempted": again, "cluster": submission["cluster"] if submission else ""}
    if starts:
        about |= {name: str(starts[-1][name]) for name in ("job_id", "log", "out")}
    if errors and diary[-1]["kind"] in ("failed", "damaged"):
        about["detail"] = "".join(errors[-1]["error"].strip().splitlines()[-1:])
    return about


@dataclass(frozen=True)
class Advance:
    """How far a run has come."""

    step: int
    num_steps: int
    raw_v: float | None
    raw_u: float | None
    eta_seconds: float | None
    """At the speed of the present attempt, measuring included; None before it has done a step."""


def advance(folder: RunFolder, status: Status) -> Advance:
    """Read how far a run has come from the end of its log."""
    num_steps = status.run.config.training.num_steps
    newest = _last_training_record(folder.log)
    if newest is None:
        return Advance(0, num_steps, None, None, None)
    step = int(newest["step"])
    eta = None
    start = next((event for event in reversed(status.events) if event["kind"] == "started"), None)
    if start is not None and step > start["step"]:
        pace = (os.path.getmtime(folder.log) - start["time"]) / (step - start["step"])
        if pace > 0:  # else a clock is wrong
            eta = max(pace * (num_steps - step) - (time.time() - os.path.getmtime(folder.log)), 0.0)
    raw_v, raw_u = (x if isinstance(x := newest.get(name), float) else None for name in ("raw_v", "raw_u"))
    return Advance(step, num_steps, raw_v, raw_u, eta)


def _last_training_record(log: Path) -> dict[str, Any] | None:
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            length = TAIL
            while True:
                file.seek(max(size - length, 0))
                for line in reversed(file.read(length).splitlines()):
                    if line.startswith(b'{"group": "training"'):
                        try:
                            out: dict[str, Any] = json.loads(line)
                        except ValueError:  # still being written, or damaged
                            continue
                        if isinstance(out.get("step"), int):
                            return out
                if length >= size:
                    return None
                length *= 8
    except OSError:
        return None
