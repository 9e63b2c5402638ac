"""The folder for what is slow to build or read, and files that appear there whole or not at all."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path


def cache_folder() -> Path:
    """Return $DYNAMICS_CACHE, or ~/.cache/dynamics where that is not set. The folder may not exist yet."""
    folder = os.environ.get("DYNAMICS_CACHE")
    return Path(folder).expanduser() if folder else Path.home() / ".cache" / "dynamics"


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: a reader never sees half a file.

    Args:
        path: The file to write or replace; missing parent folders are made.
        write: Called with the temporary path. When it raises, nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
