"""Files that are either the old one or the new one, never half of each."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written there replaces `path` when the block ends well.

    The content reaches the disk before the name does. After an error `path` is untouched and the temporary file is
    gone. After a kill -9 it stays behind, without the lock that its writer held on it: the next writer of `path`
    removes it.

    Raises:
        OSError: A full disk, no permission and the like, with the name of `path`.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    with named(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        with _flocked(temporary):
            try:
                yield temporary
                sync(temporary)
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        sync(path.parent)


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the exclusive lock of `path` (`fcntl.flock` on `.<name>.lock` beside it), waiting for it if need be.

    The system releases it when its holder dies. The lock file stays: removing it would let two holders in.

    Raises:
        BlockingIOError: Another process holds it and `wait` is False.
    """
    with _flocked(path.with_name(f".{path.name}.lock"), wait):
        yield


@contextmanager
def named(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Give a system's error that names no file, or only the temporary one, the name of the file that it is about."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, temporary and str(temporary)):
            error.filename = str(path)
        raise


@contextmanager
def _flocked(path: Path, wait: bool = True) -> Iterator[None]:
    with named(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with named(path):
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def remove_leftovers(path: Path) -> None:
    """Remove temporary files of killed writers of `path`: those that nobody holds a lock on."""
    for entry in path.parent.iterdir():
        if entry.name.startswith(f".{path.name}.") and entry.name.endswith(".tmp"):
            with suppress(OSError), _flocked(entry, wait=False):
                entry.unlink(missing_ok=True)


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """Return the hash of a file, as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
