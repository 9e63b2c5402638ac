"""Forked processes, which spare the imports: of any work, and of the command `python -m experiments`."""

import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

from dynamics.cli.experiments import main
from dynamics.config import RunConfig
from dynamics.runner import run
from dynamics.store import RunLog
from dynamics.sweep import warm
from dynamics.training import Interrupted

TESTS = Path(__file__).parents[1]
for _name in ("torch._dynamo", "torch.distributed.fsdp", "torch._decomp.decompositions_for_jvp", "h5netcdf.legacyapi"):
    import_module(_name)  # who trains and writes imports them, seconds of work: here, and not in every fork


def forked(work: Callable[[], Any]) -> int:
    """Do something in a forked process, in silence, and return its pid. It exits with 1 on any error but SystemExit."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with open(os.devnull, "w") as silence, redirect_stderr(silence), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            work()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    """Wait for a process; return its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def forked_run(config: RunConfig, out: Path) -> int:
    """Train in a forked process and return its pid; it exits with 75 where it was stopped."""

    def work() -> None:
        try:
            run(config, out, progress=False)
        except Interrupted:
            raise SystemExit(75) from None

    return forked(work)


def killed_run(config: RunConfig, out: Path, after: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Train, and send this process a signal right after it has logged so many records; it exits with 75 if stopped."""
    append, counter = RunLog.append, count(1)

    def dying(self: RunLog, record: Mapping[str, object]) -> None:
        append(self, record)
        if next(counter) == after:
            os.kill(os.getpid(), number)

    RunLog.append = dying  # type: ignore[method-assign]
    try:
        run(config, out, progress=False)
    except Interrupted:
        raise SystemExit(75) from None


class ForkedWarm:
    """The process that forks a sweep's runs, itself a fork: in place of the Popen of WarmProcess."""

    def __init__(self, logs: Path, log: Path) -> None:
        questions, self._ask = os.pipe()
        self._hear, answers = os.pipe()

        def work() -> None:
            os.setsid()
            os.close(self._ask)  # or it would not hear that who started it has ended
            os.close(self._hear)
            for opened, stream in ((questions, 0), (answers, 1), (os.open(log, os.O_WRONLY | os.O_APPEND), 2)):
                os.dup2(opened, stream)
                os.close(opened)
            sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115
            warm.serve(logs)

        self.pid = forked(work)
        os.close(questions)
        os.close(answers)
        self.stdin, self.stdout = os.fdopen(self._ask, "wb"), os.fdopen(self._hear, "rb")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def communicate(self) -> None:
        self.stdin.close()
        self.stdout.close()
        os.waitpid(self.pid, 0)

    @classmethod
    def begin(cls, process: warm.WarmProcess) -> "ForkedWarm":
        process._logs.mkdir(parents=True, exist_ok=True)
        process._log.touch()
        return cls(process._logs, process._log)


class Command:
    """The command of sweeps in a forked process, which leads a group as a shell's does and speaks to a file."""

    def __init__(self, said: Path, *words: str) -> None:
        self.said = said

        def work() -> None:
            os.setsid()
            os.environ["PYTHONPATH"] = str(TESTS)
            warm.WarmProcess._begin = lambda process: ForkedWarm.begin(process)  # type: ignore[method-assign, assignment]
            with said.open("w", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
                main("sweeps", words)

        self.pid = forked(work)

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def communicate(self) -> tuple[str, int]:
        """Wait for the end; return what was said and the exit code."""
        code = ended(self.pid)
        return self.said.read_text(), code
