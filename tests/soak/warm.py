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
    os.environ["OMP_NUM_THREADS"] = "1"  # what a forked child may ask for: OpenMP's threads do not survive a fork
    tqdm.set_lock(threading.RLock())
    tqdm.monitor_interval = 0
    import_module("torch._dynamo")  # a second or more, which every optimiser costs that is the first of its process
    os.environ.setdefault("PYTHONPATH", os.pathsep.join(sys.path[:2]))


def command(*words: str) -> Work:
    """Return the work of `dynamics WORDS`, or of `python -m WORDS` where the first one is in PACKAGES."""
    if words[:1] and words[0] in PACKAGES:
        return lambda: experiments_main(words[0], words[1:])
    return lambda: dynamics_main(words)


class _Child:
    """A forked child that leads a session of its own, and what it says, through a pipe."""

    def __init__(self, work: Work, place: Path, blow: Blow) -> None:
        self._began = time.monotonic()
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        self.pid = start(work, place, writer, blow)
        os.close(writer)
        self._said: list[bytes] = []

    def poll(self, hung: bool = False) -> Ended | None:
        """Hear what it says; return how it ended, None while it works."""
        self._listen()
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if not pid:
            return None
        self._listen()
        os.close(self._reader)
        with suppress(ProcessLookupError):  # what it may have left behind
            os.killpg(self.pid, signal.SIGKILL)
        said = b"".join(self._said).decode(errors="replace")
        seconds = time.monotonic() - self._began
        return Ended(os.waitstatus_to_exitcode(status), said, seconds, usage.ru_maxrss / 1024, hung)

    def kill(self) -> None:
        with suppress(ProcessLookupError):  # it has not got as far as a session
            os.killpg(self.pid, signal.SIGKILL)
        os.kill(self.pid, signal.SIGKILL)

    def _listen(self) -> None:
        with suppress(BlockingIOError):
            while part := os.read(self._reader, 2**16):
                self._said.append(part)


def ended(work: Work, place: Path, blow: Blow = Blow(), seconds: float = SECONDS) -> Ended:
    """Do something in a folder, in a forked child, and return how it ended."""
    began = time.monotonic()
    child, pause, hung = _Child(work, place, blow), 0.0005, False
    due = None if blow.after is None else began + blow.after
    while (found := child.poll(hung)) is None:
        now = time.monotonic()
        if due is not None and now >= due:
            child.kill()
            due = None
        elif now > began + seconds and not hung:
            child.kill()
            hung = True
        time.sleep(pause if due is None else max(min(pause, due - now), 0))
        pause = min(pause * 1.5, 0.02)
    return found


def together(works: Sequence[Work], place: Path, seconds: float = SECONDS) -> list[Ended]:
    """Do several things at once."""
    children = [_Child(work, place, Blow()) for work in works]
    began, out = time.monotonic(), dict[int, Ended]()
    while len(out) < len(children):
        late = time.monotonic() > began + seconds
        for child in children:
            if child.pid in out:
                continue
            if late:
                child.kill()
            if found := child.poll(late):
                out[child.pid] = found
        time.sleep(0.005)
    return [out[child.pid] for child in children]


def start(work: Work, place: Path, out: int, blow: Blow) -> int:
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
            die_before(blow.before_write, calls)
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


def die_before(number: int, calls: Iterator[int]) -> None:
    """Have this process killed right before its `number`-th call that changes the disk, as `calls` count them."""

    def counting(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return call

    for name in ("write", "fsync", "replace", "unlink", "mkdir", "rmdir"):
        setattr(os, name, counting(getattr(os, name)))
