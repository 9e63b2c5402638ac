"""What the tests of the cluster run on it. submitit pickles a function by its name: so it must be in a module."""

import os
import time
from pathlib import Path

from submitit.helpers import Checkpointable, DelayedSubmission


def add(a: int, b: int) -> int:
    return a + b


def rest(seconds: float) -> None:
    time.sleep(seconds)


class Patient(Checkpointable):  # type: ignore[misc]
    """Waits for a signal and, queued again, says how often it was restarted."""

    restarts = 0

    def __init__(self, started: Path) -> None:
        self.started = started

    def __call__(self) -> dict[str, str | int | None]:
        if not self.restarts:
            self.started.touch()
            time.sleep(60)
        return {"restarts": self.restarts, "by Slurm": os.environ.get("SLURM_RESTART_COUNT")}

    def checkpoint(self) -> DelayedSubmission:
        self.restarts += 1
        return DelayedSubmission(self)
