"""How far a long piece of work is: a moving bar on a terminal, a steady line a minute in a pipe or a log file."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")
SECONDS = 60.0
"""Between two lines where there is no terminal."""


class ProgressBar:
    """Tells how much is done, how fast, and when it will be over; in one place for every loop.

    Args:
        name: What is done.
        total: How many units there are; None if nobody knows.
        unit: What is counted.
        done: How many were done before.
        show: Say anything at all.
        leave: Leave the last word on the screen.
        clock: Seconds.
    """

    def __init__(
        self,
        name: str,
        total: int | None,
        unit: str,
        done: int = 0,
        show: bool = True,
        leave: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        terminal = sys.stderr.isatty()
        self._bar: tqdm[Any] = tqdm(
            desc=name, total=total, unit=unit, initial=done, disable=not (show and terminal), leave=leave, miniters=1
        )
        self._speaks, self._leave, self._clock = show and not terminal, leave, clock
        self._name, self._total, self._unit = name, total, unit
        self._first = self._told = self._done = done
        self._began = self._since = clock()
        self._facts = ""

    def update(self, count: int = 1, facts: Mapping[str, str] | None = None) -> None:
        """Count what was done, with facts to show beside it."""
        self._done += count
        if facts:
            self._facts = ", ".join(f"{name} {value}" for name, value in facts.items())
            self._bar.set_postfix_str(self._facts, refresh=False)
        self._bar.update(count)
        if self._speaks and self._clock() - self._since >= SECONDS:
            self._say(self._told, self._since)
            self._told, self._since = self._done, self._clock()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time within out of the speed."""
        before, moving = self._clock(), time.time()
        try:
            yield
        finally:
            for name in ("_began", "_since"):
                setattr(self, name, getattr(self, name) + self._clock() - before)
            if not self._bar.disable:
                self._bar.start_t += time.time() - moving
                self._bar.last_print_t += time.time() - moving

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Keep the bar out of the way of what is written to stderr within."""
        with tqdm.external_write_mode(file=sys.stderr):
            yield

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        if self._speaks and self._leave and self._done > self._first:
            self._say(self._first, self._began)

    def _say(self, since: int, began: float) -> None:
        """Write a line with the speed since some moment."""
        rate = (self._done - since) / max(self._clock() - began, 1e-9)
        words = [f"{self._name}: {self._done}{'' if self._total is None else f'/{self._total}'} {self._unit}s"]
        words.append(f"{rate:.3g} {self._unit}s/s")
        if self._total is not None and rate > 0 and self._done < self._total:
            words.append(f"{tqdm.format_interval((self._total - self._done) / rate)} left")
        print(", ".join([*words, *filter(None, [self._facts])]), file=sys.stderr, flush=True)


def counted(items: Sequence[T], name: str, unit: str, show: bool = True) -> Iterator[T]:
    """Yield items while a bar tells how many are done."""
    with ProgressBar(name, len(items), unit, show=show) as bar:
        for item in items:
            yield item
            bar.update()
