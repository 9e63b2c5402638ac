"""Jobs that last as long as a file is there: to be interrupted a run must last, it need not work."""

import os
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from dynamics.sweep import submit
from dynamics.sweep.job import Job
from dynamics.training import loop

PAUSE = 0.4
"""Seconds that a held run waits before each step."""


@dataclass(frozen=True)
class HeldJob(Job):
    """A job whose run takes its steps slowly while a file is there, on every attempt."""

    hold: str = ""

    def __call__(self) -> None:
        one_step = loop.train_step

        def slow_step(*arguments: Any) -> Any:
            if os.path.exists(self.hold):
                time.sleep(PAUSE)
            return one_step(*arguments)

        with mock.patch.object(loop, "train_step", slow_step):
            super().__call__()


def held(hold: Path) -> AbstractContextManager[object]:
    """Let what is submitted meanwhile last until `hold` is removed; makes that file."""
    hold.parent.mkdir(parents=True, exist_ok=True)
    hold.touch()
    return mock.patch.object(submit, "Job", partial(HeldJob, hold=str(hold)))
