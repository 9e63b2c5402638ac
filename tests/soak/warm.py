"""Commands in forked children of a process that has everything imported: a fraction of a second each, not five."""

import os
import resource
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm import tqdm

from dynamics.cli import main as dynamics_main
from dynamics.cli.experiments import main as experiments_main

PACKAGES = ("sweeps", "experiments")
"""Packages of experiments; as the first word of a command they stand for `python -m PACKAGE`."""
SAID = ".said"
"""File with what a command printed, in the folder where it worked."""
CALLS = ".calls"
"""File with how often a command changed the disk, where somebody counted."""
SECONDS = 60.0
"""What a command of the soak may take before it counts as hanging."""
MEMORY_BYTES = 4 * 2**30
"""What a command may ask for beyond what this process has: a bomb must not take the machine along."""
Work = Callable[[], object]


@dataclass(frozen=True)
class Blow:
    """What befalls a command while it works; by default nothing."""

    after: float | None = None
    """Seconds after which it is killed."""
    before_write: int | None = None
    """It is killed right before its n-th call that changes the disk."""
    file_bytes: int | None = None
    """No file may grow beyond so many bytes."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """Exit code, or minus the number of the signal that ended it."""
    said: str
    """What it printed, both streams."""
    seconds: float
    peak_mb: float
    hung: bool = False

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL and not self.hung


def settle() -> None:
    """Make this process fit to be forked: one thread, no lock of tqdm that a killed child could take along."""
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())
    tqdm.monitor_interval = 0
    import_module("torch._dynamo")  # a second or more, which every optimiser costs that is the first of its process
    os.environ.setdefault("PYTHONPATH", os.pathsep.join(sys.path[:2]))


def command(*words: str) -> Work:
    """Return the work of `dynamics WORDS`, or of `python -m WORDS` where the first one is in PACKAGES."""
    if words[:1] and words[0] in PACKAGES:
        return lambda: experiments_main(words[0], words[1:])
    return lambda: dynamics_main(words)


def ended(work: Work, place: Path, blow: Blow = Blow(), seconds: float = SECONDS) -> Ended:
    """Do something in a folder, in a forked child that leads a session of its own, and wait for its end."""
    said = place / SAID
    began = time.monotonic()
    pid = start(work, place, said, blow)
    due = None if blow.after is None else began + blow.after
    hung, pause = False, 0.0005
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        now = time.monotonic()
        if due is not None and now >= due:
            _kill(pid)
            due = None
        elif now > began + seconds:
            hung = True
            _kill(pid)
        time.sleep(min(pause, max(due - now, 0) if due is not None else pause))
        pause = min(pause * 1.5, 0.02)
    text = said.read_text(errors="replace") if said.exists() else ""
    code = os.waitstatus_to_exitcode(status)
    out = Ended(code, text, time.monotonic() - began, usage.ru_maxrss / 1024, hung)
    _kill_session(pid)  # what it may have left behind
    return out


def together(works: Sequence[Work], place: Path, seconds: float = SECONDS) -> list[Ended]:
    """Do several things at once."""
    pids = [start(work, place, place / f"{SAID}_{i}", Blow()) for i, work in enumerate(works)]
    began, out = time.monotonic(), list[Ended]()
    for i, pid in enumerate(pids):
        hung = False
        while not (found := os.wait4(pid, os.WNOHANG))[0]:
            if time.monotonic() > began + seconds:
                hung = True
                _kill(pid)
            time.sleep(0.005)
        text = (place / f"{SAID}_{i}").read_text(errors="replace")
        code = os.waitstatus_to_exitcode(found[1])
        out.append(Ended(code, text, time.monotonic() - began, found[2].ru_maxrss / 1024, hung))
    return out


def start(work: Work, place: Path, said: Path, blow: Blow) -> int:
    """Fork a child that does something, and return its pid; it ends as Python does."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        os.chdir(place)
        out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        warnings.resetwarnings()  # of pytest, which may have made them errors
        warnings.simplefilter("default", UserWarning)
        for category in (DeprecationWarning, FutureWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        room = psutil.Process().memory_info().vms + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
        if blow.file_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (blow.file_bytes, blow.file_bytes))
        calls = count(1)
        if blow.before_write is not None:
            _die_before(blow.before_write, calls)
        work()
        code = 0
        if blow.before_write is not None:
            Path(CALLS).write_text(str(next(calls)))
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _die_before(number: int, calls: Iterator[int]) -> None:
    def counting(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return call

    for name in ("write", "fsync", "replace", "unlink", "mkdir", "rmdir"):
        setattr(os, name, counting(getattr(os, name)))


def _kill(pid: int) -> None:
    """Kill a child that nobody has waited for yet, and its session."""
    _kill_session(pid)
    os.kill(pid, signal.SIGKILL)


def _kill_session(pid: int) -> None:
    with suppress(ProcessLookupError):  # it has not got as far, or nothing of it is left
        os.killpg(pid, signal.SIGKILL)
