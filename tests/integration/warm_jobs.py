"""What the tests of the warm process start: pickled by name, so it must be in a module."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import submitit


@dataclass(frozen=True)
class Diary:
    """Every rank writes a line about itself; then rank 1 fails, or all wait for a signal, where they are asked to."""

    folder: Path
    wait: bool = False
    fail: bool = False

    def __call__(self) -> None:
        here = submitit.JobEnvironment()
        told = f"{here.job_id} {here.num_tasks} {os.environ['CUDA_VISIBLE_DEVICES']}"
        print("said")
        if self.wait:
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(75))
        (self.folder / str(here.global_rank)).write_text(told)
        if self.fail and here.global_rank == 1:
            raise RuntimeError("rank 1 failed")
        while self.wait or self.fail:
            signal.pause()
        (self.folder / f"end {here.global_rank}").touch()
