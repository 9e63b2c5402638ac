"""What happened to a run, one JSON line an event, and whether the process that said so still lives."""

import json
import os
import socket
import time
from pathlib import Path
from typing import Any, Literal

import psutil

Kind = Literal["submitted", "started", "stopped", "failed", "finished", "cancelled", "damaged", "set_aside"]
Event = dict[str, Any]
"""`kind`, `time` (seconds since 1970), `host`, `pid`, `born` (the process), and what belongs to the kind."""

FILE = "events.jsonl"


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
    """Return a run's whole events, oldest first; half a line of a killed writer is passed over."""
    try:
        lines = (run_dir / FILE).read_bytes().splitlines()
    except OSError:  # no such run yet
        return []
    out = []
    for line in lines:
        try:
            event = json.loads(line) if line else None
        except ValueError:
            continue
        if isinstance(event, dict) and "kind" in event:
            out.append(event)
    return out


def alive(event: Event, patience: float = 600.0) -> bool:
    """Whether the process that wrote an event still runs.

    On another host that cannot be seen: then it counts as alive for `patience` seconds.
    """
    if event["host"] != socket.gethostname():
        return time.time() - float(event["time"]) < patience
    try:
        process = psutil.Process(event["pid"])
        # a process number is given again one day, its time of birth is not; a zombie has ended
        same: bool = abs(process.create_time() - event["born"]) < 1
        return same and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _myself() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "born": psutil.Process().create_time()}
