"""The folder for what is slow to build or to fetch."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return $DYNAMICS_CACHE, or ~/.cache/dynamics where that is not set. The folder may not exist yet."""
    folder = os.environ.get("DYNAMICS_CACHE")
    return Path(folder).expanduser() if folder else Path.home() / ".cache" / "dynamics"
