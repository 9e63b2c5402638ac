"""How a command ends: what it prints and which exit code it returns for each kind of error."""

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from dynamics.options import invalid

BAD_INPUT = 2
NOT_FINITE = 3
INTERRUPTED = 130
UNREAD = 141
"""What shells say of a program that ends because nobody reads on."""


@contextmanager
def explained() -> Iterator[None]:
    """Turn errors into one line and an exit code.

    Bad input is exit code 2, a stop that the same command continues 75, a non-finite loss 3, Ctrl-C 130, a known
    trouble outside 1. Where whoever reads the output has gone, as `head` does, the command ends in silence.
    """
    try:
        try:
            with _errors_in_words():
                yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _unread(sys.stdout.fileno()):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to say goes nowhere
        raise SystemExit(UNREAD) from None


def _unread(output: int) -> bool:
    """Whether a file descriptor is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(output, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


@contextmanager
def _errors_in_words() -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        for problem in error.errors():
            where = ".".join(str(part) for part in problem["loc"])
            own = problem.get("ctx", {}).get("error")  # a message of ours is complete already
            text = own or invalid(where, problem["input"], problem["msg"], "see dynamics train PRESET --help")
            print(f"error: {text}", file=sys.stderr)
        raise SystemExit(BAD_INPUT) from None
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(BAD_INPUT) from None
    except RuntimeError as error:
        raise SystemExit(_known(error)) from None
    except KeyboardInterrupt:
        print("stopped; nothing that was finished is lost, the same command continues", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def _known(error: RuntimeError) -> int:
    """Print what a known error means and return its exit code; raise an unknown one again."""
    from dynamics.sweep.slurm import SlurmError
    from dynamics.training import STOPPED, DamagedCheckpointError, DiskFullError, Interrupted, NonFiniteLossError

    if isinstance(error, Interrupted):
        print(f"{error}; the same command continues", file=sys.stderr)
        return STOPPED
    if isinstance(error, DiskFullError):
        print(f"error: {error}; make room, and the same command continues from the last checkpoint", file=sys.stderr)
        return STOPPED
    if isinstance(error, NonFiniteLossError):
        print(f"error: {error}; rows with t, r, loss and du/dt norm are in nonfinite.json", file=sys.stderr)
        return NOT_FINITE
    if isinstance(error, DamagedCheckpointError | SlurmError):
        print(f"error: {error}", file=sys.stderr)
        return 1
    raise error
