"""A polite stop: SIGTERM, SIGUSR2 (what Slurm sends before a time-out) and Ctrl-C ask for a checkpoint first."""

import signal
import threading
from types import FrameType, TracebackType

STOPPED = 75
"""Exit code of a run that stopped with a checkpoint and can be continued (EX_TEMPFAIL)."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


class StopRequest:
    """Within the context, the first signal is remembered and a second one of the same kind acts as usual."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

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
        self.received = signal.Signals(number)
        signal.signal(number, self._before[self.received])
