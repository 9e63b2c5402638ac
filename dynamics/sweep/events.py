"""What happened to a run, one JSON line an event, and whether the process that said so still lives."""

import json
import os
import socket
import time
from pathlib import Path
from typing import Any, Literal

import psutil

from dynamics.options import invalid

Kind = Literal["submitted", "started", "stopped", "failed", "finished", "cancelled", "damaged", "set_aside"]
Event = dict[str, Any]
"""`kind`, `time` (seconds since 1970), `host`, `pid`, `born` (the process), and what belongs to the kind."""

FILE = "events.jsonl"
WRITER = {"time": float, "host": str, "pid": int, "born": float}
CONTENT: dict[str, dict[str, type]] = {
    "submitted": {"cluster": str},
    "started": {"job_id": str, "log": str, "out": str, "step": int},
    "stopped": {"step": int},
    "failed": {"error": str},
    "finished": {"evaluations": str},
    "cancelled": {},
    "damaged": {"error": str},
    "set_aside": {},
}
"""What an event of each kind must tell besides who wrote it."""
ON_SLURM = {"token": str, "index": int}
"""What a submission to Slurm must tell besides."""
LAST_SECOND = 1e11
"""Later than any event, and a time that can still be printed."""


def record(run_dir: Path, kind: Kind, **content: object) -> None:
    """Add an event to a run's diary, on the disk when this returns. Many processes may write to one file."""
    run_dir.mkdir(parents=True, exist_ok=True)
    event = {"kind": kind, "time": time.time(), **_myself(), **content}
    # the line break in front keeps an event whole when a killed writer left half a line before it
    line = f"\n{json.dumps(event, default=str)}\n".encode()
    descriptor = os.open(run_dir / FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        while line:
            line = line[os.write(descriptor, line) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def events(run_dir: Path) -> list[Event]:
    """Return a run's events that can be read, oldest first."""
    return read_diary(run_dir)[0]


def read_diary(run_dir: Path) -> tuple[list[Event], str]:
    """Return a run's events that can be read, oldest first, and what is damaged in their file ("" if nothing is).

    Half a line of a killed writer is no damage: the next event follows it at once, while an empty line follows a whole
    one.
    """
    path = run_dir / FILE
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:  # no such run yet
        return [], ""
    except OSError as error:
        return [], f"{path}: {error.strerror}"
    found, damage = [], ""
    for number, line in enumerate(lines, start=1):
        event = _parse(line)
        if event is not None:
            found.append(event)
        elif line and not damage and lines[number : number + 1] == [b""]:
            shown = line[:60].decode(errors="replace")
            damage = str(invalid(f"{path}, line {number}", shown, "an event", "retry sets the file aside"))
    return found, damage


def alive(event: Event, patience: float = 600.0) -> bool:
    """Whether the process that wrote an event still runs.

    On another host that cannot be seen: then it counts as alive for `patience` seconds. A time in the future, of a
    wrong clock, does not count for longer.
    """
    if event["host"] != socket.gethostname():
        return abs(time.time() - float(event["time"])) < patience
    return lives(event["pid"], event["born"])


def lives(pid: int, born: float) -> bool:
    """Whether a process of this machine still runs: its number is given again one day, its time of birth is not."""
    try:
        process = psutil.Process(pid)
        same: bool = abs(process.create_time() - born) < 1
        return same and bool(process.status() != psutil.STATUS_ZOMBIE)  # a zombie has ended
    except (psutil.Error, ValueError, OverflowError):
        return False


def _parse(line: bytes) -> Event | None:
    """Return a line's event; None if it is none, or lacks what its kind must tell."""
    try:
        event = json.loads(line)
        needed = WRITER | CONTENT[event["kind"]]
        if event["kind"] == "submitted" and event["cluster"] == "slurm":
            needed |= ON_SLURM
        whole = all(isinstance(event[name], (kind, int) if kind is float else kind) for name, kind in needed.items())
        return event if whole and 0 <= event["time"] < LAST_SECOND else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _myself() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "born": psutil.Process().create_time()}
