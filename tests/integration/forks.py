"""Forked processes, which spare the imports: of any work, and of the command `python -m experiments`."""

import os
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]


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


class Command:
    """The command of sweeps in a forked process, which leads a group as a shell's does and speaks to a file."""

    def __init__(self, said: Path, *words: str) -> None:
        from dynamics.cli.experiments import main

        self.said = said

        def work() -> None:
            os.setsid()
            os.environ["PYTHONPATH"] = str(TESTS)
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
