"""A polite stop, with a checkpoint: on SIGTERM, SIGUSR2 (what Slurm sends before a time-out) and Ctrl-C, or in time."""

import os
import signal
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from dynamics.options import invalid

STOPPED = 75
"""Exit code of a run that stopped with a checkpoint and can be continued (EX_TEMPFAIL)."""

TIME_IS_UP = 128
"""Stands among signals for the end of the time allowed, and above them all."""
SPARE = 15.0
"""Seconds left at the end of the time allowed, beyond what a step and a checkpoint have been seen to take."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


class StopRequest:
    """Within the context, the first signal is remembered and a second one of the same kind acts as usual.

    Args:
        going_on: Signals that ask for a checkpoint only, and do not end the run.
    """

    def __init__(self, going_on: Collection[signal.Signals] = ()) -> None:
        self.received: signal.Signals | None = None
        self.asked = False
        """Whether a checkpoint is asked for, until somebody who has written one says that it is not."""
        self._going_on = going_on

    def __enter__(self) -> "StopRequest":
        # only the main thread may handle signals; a run in another thread is stopped by whoever started it
        main = threading.current_thread() is threading.main_thread()
        self._before = {s: signal.signal(s, self._remember) for s in SIGNALS} if main else {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for s, handler in self._before.items():
            signal.signal(s, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number in self._going_on:
            self.asked = True
            return
        self.received = signal.Signals(number)
        signal.signal(number, self._before[self.received])


class TimeLimit:
    """The end of the time allowed, and whether there is still time for another step and a checkpoint.

    Args:
        end: Unix time in seconds; None for no limit.
    """

    def __init__(self, end: float | None = None) -> None:
        self._end = end
        self._save = self._step = 0.0
        self._since: float | None = None  # the first step may compile, and is not counted

    def near(self) -> bool:
        """Return whether to stop now. To be asked after every step; what was measured in between counts as part of it.

        A step is taken to last as long as the longest so far, a checkpoint twice as long: disks are shared.
        """
        now = time.time()
        self._step = max(self._step, now - (self._since or now))
        self._since = now
        return self._end is not None and now + self._step + 2 * self._save + SPARE >= self._end

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Take the time of a checkpoint."""
        began = time.time()
        yield
        self._since = now = time.time()
        self._save = max(self._save, now - began)


def time_limit(wall_minutes: float | None) -> TimeLimit:
    """Return the limit of a process that may run for some minutes from now on, and not longer than its Slurm job.

    Raises:
        ValueError: The time is not positive.
    """
    if wall_minutes is not None and not wall_minutes > 0:
        raise invalid("wall_minutes", wall_minutes, "a positive number of minutes", "leave it out for no limit")
    ends = [] if wall_minutes is None else [time.time() + 60 * wall_minutes]
    of_job = os.environ.get("SLURM_JOB_END_TIME", "")  # set by Slurm 22.05 and later
    if of_job.isdigit() and int(of_job) > 0:
        ends.append(float(of_job))
    return TimeLimit(min(ends, default=None))
