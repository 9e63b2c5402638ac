"""What the next step needs, drawn while the device works on this one."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Calls a pure function of the step one step ahead, in a thread of its own.

    Args:
        draw: The function; torch's part of it runs beside that of the step.
        num_steps: It is not called for later steps.
        on: Whether to; otherwise each step waits for its own draw.
    """

    def __init__(self, draw: Callable[[int], T], num_steps: int, on: bool) -> None:
        self.draw, self.num_steps = draw, num_steps
        self.pool = ThreadPoolExecutor(1, "ahead") if on else None
        self.next: tuple[int, Future[T]] | None = None

    def take(self, step: int) -> T:
        """Return what a step needs; an error in drawing it is raised here."""
        if self.pool is None:
            return self.draw(step)
        found = self.next[1].result() if self.next and self.next[0] == step else self.draw(step)
        self.next = (step + 1, self.pool.submit(self.draw, step + 1)) if step + 1 < self.num_steps else None
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
