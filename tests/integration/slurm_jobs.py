"""What the tests of the cluster run on it. submitit pickles a function by its name: so it must be in a module."""

import os
import signal
from pathlib import Path
from typing import NamedTuple

from submitit.helpers import Checkpointable, DelayedSubmission


def add(a: int, b: int) -> int:
    return a + b


class Restarts(NamedTuple):
    """How often a job was queued again, as submitit and Slurm count."""

    submitit: int
    slurm: int


class Patient(Checkpointable):
    """Waits to be queued again, then says how often it was."""

    def __init__(self, started: Path) -> None:
        self.started = started
        self.checkpoints = 0

    def __call__(self) -> Restarts:
        restarts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
        if not restarts:
            self.started.touch()
            while True:  # Slurm's limit ends it, if nothing else does
                signal.pause()
        return Restarts(self.checkpoints, restarts)

    def checkpoint(self) -> DelayedSubmission:
        self.checkpoints += 1
        return DelayedSubmission(self)
