"""A polite stop: SIGTERM, SIGUSR2 (what Slurm sends before a time-out) and Ctrl-C ask for a checkpoint first."""

import signal
import threading
from collections.abc import Collection
from types import FrameType, TracebackType

STOPPED = 75
"""Exit code of a run that stopped with a checkpoint and can be continued (EX_TEMPFAIL)."""

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
