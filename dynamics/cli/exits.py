"""How a command ends: what it prints and which exit code it returns for each kind of error."""

import errno
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from dynamics.options import explained_problem, invalid

BAD_INPUT = 2
NOT_FINITE = 3
INTERRUPTED = 130
UNREAD = 141
"""What shells say of a program that ends because nobody reads on."""
_TROUBLE = (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE)
"""What is wrong with the machine, and not with what was asked for."""
_SYSTEM: dict[int, tuple[str, str]] = {
    errno.ENOENT: ("a path that is there or can be made", "check its spelling, or make the folder above it"),
    errno.ENOTDIR: ("a path whose parts are folders", "a part of it is a file: choose another path"),
    errno.EISDIR: ("a file", "it is a folder: name a file in it, or another path"),
    errno.EEXIST: ("a folder, or a new path", "a file is there already: choose another path"),
    errno.ENOTEMPTY: ("an empty folder, or a new path", "choose another path"),
    errno.EACCES: ("a path that you may use", "change its permissions, or choose another path"),
    errno.EPERM: ("a path that you may use", "change its permissions, or choose another path"),
    errno.EROFS: ("a path that can be written", "choose a path on another disk"),
    errno.ENAMETOOLONG: ("a shorter name", "choose another path"),
    errno.ELOOP: ("a path without circles of links", "choose another path"),
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT), ("room on the disk, and in the quota", "make room; the same command continues")
    ),
    **dict.fromkeys(_TROUBLE, ("a disk that answers", "try again; if it stays, ask who keeps the disk")),
}
"""What is allowed, and the remedy, by the system's number of an error."""
_NO_MEMORY = ("can't allocate memory", "out of memory", "Storage size calculation overflowed", "Invalid buffer size")
"""How torch says that there is too little memory, in errors of no kind of their own."""


@contextmanager
def explained(program: str = "dynamics") -> Iterator[None]:
    """Turn errors into one line and an exit code.

    Bad input is exit code 2, a stop that the same command continues 75, a non-finite loss 3, Ctrl-C 130, a known
    trouble outside 1. Where whoever reads the output has gone, as `head` does, the command ends in silence.

    Args:
        program: What was typed, without options: whose help a remedy names.
    """
    try:
        try:
            with _errors_in_words(f"see {program} --help"):
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
def _errors_in_words(remedy: str) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise _refused(explained_problem(error, remedy), remedy) from None
    except ValueError as error:
        raise _refused(error, remedy) from None
    except ConnectionError:  # a reader that has gone among them
        raise
    except OSError as error:
        raise SystemExit(_of_system(error, remedy)) from None
    except RuntimeError as error:
        raise SystemExit(_known(error)) from None
    except MemoryError as error:
        raise _refused(_too_large(error), remedy) from None
    except KeyboardInterrupt:
        print("stopped; nothing that was finished is lost, the same command continues", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def _refused(error: ValueError, remedy: str) -> SystemExit:
    """Print bad input and return the end of the command; a message that is not ours is put into our words."""
    text = str(error)
    _say(text if "; allowed: " in text else str(invalid("input", text, "what the command takes", remedy)))
    return SystemExit(BAD_INPUT)


def _say(text: str) -> None:
    print("error:", " ".join(text.split()), file=sys.stderr)


def _of_system(error: OSError, remedy: str) -> int:
    """Print what the system refused, with the path, and return the exit code."""
    from dynamics.training import STOPPED
    from dynamics.training.disk import FULL

    path = error.filename2 or error.filename
    allowed, remedy = _SYSTEM.get(error.errno or 0, ("what the system grants", f"check the paths; {remedy}"))
    _say(str(invalid(str(path or "file"), error.strerror or str(error), allowed, remedy)))
    if error.errno in FULL:
        return STOPPED
    return 1 if error.errno in _TROUBLE else BAD_INPUT


def _too_large(error: BaseException) -> ValueError:
    remedy = "ask for less at a time: a smaller batch, model, image or number of samples"
    return invalid("memory", str(error) or "too much", "what this machine has free", remedy)


def _known(error: RuntimeError) -> int:
    """Print what a known error means and return its exit code; raise an unknown one again."""
    from dynamics.sweep.slurm import SlurmError
    from dynamics.training import STOPPED, DamagedCheckpointError, DiskFullError, Interrupted, NonFiniteLossError

    if isinstance(error, Interrupted):
        print(f"{error}; the same command continues", file=sys.stderr)
        return STOPPED
    if isinstance(error, DiskFullError):
        _say(f"{error}; make room, and the same command continues from the last checkpoint")
        return STOPPED
    if isinstance(error, NonFiniteLossError):
        _say(f"{error}; rows with t, r, loss and du/dt norm are in nonfinite.json")
        return NOT_FINITE
    if isinstance(error, DamagedCheckpointError | SlurmError):
        _say(str(error))
        return 1
    if any(text in str(error) for text in _NO_MEMORY):
        raise _refused(_too_large(error), "") from None
    raise error
