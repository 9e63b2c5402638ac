"""Where a result comes from: configuration, code, machine, versions, time."""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_DISTRIBUTIONS = {"torch": "torch", "numpy": "numpy", "xarray": "xarray", "dynamics": "meanflow-dynamics"}


def provenance(config_json: str, run_id: str, seed: int) -> dict[str, str | int | float]:
    """Describe a run that starts now.

    Args:
        config_json: The run's whole configuration as JSON.
        run_id: The run's name, unique among the runs that are ever compared.
        seed: The run's seed.

    Returns:
        The three arguments and `git_sha`, `dirty` (0 or 1) and `diff_hash` of the source tree this package is
        imported from (never of the current folder; "unknown", 0 and "" where git does not track the package), `host`,
        `versions` (JSON) and `started` (ISO 8601, UTC). The caller adds `seconds` at the end.

    Example:
        >>> provenance('{"steps": 10}', "a1", 0)["run_id"]
        'a1'
    """
    return {
        "config_json": config_json,
        "run_id": run_id,
        "seed": seed,
        **_source_state(_PACKAGE),
        "host": platform.node(),
        "versions": json.dumps(_versions()),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _source_state(package: Path) -> dict[str, str | int]:
    """Return git's view of a package folder.

    A virtual environment inside somebody's repository is not that repository's source: the package counts only where
    git tracks it.
    """
    if not _git(package, "ls-files", "--", "."):
        return {"git_sha": "unknown", "dirty": 0, "diff_hash": ""}
    sha = _git(package, "rev-parse", "HEAD")
    diff = _git(package, "diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD")
    untracked = _git(package, "ls-files", "--others", "--exclude-standard", "--", ".")
    if not sha or diff is None or untracked is None:
        return {"git_sha": "unknown", "dirty": 0, "diff_hash": ""}
    dirty = bool(diff or untracked)
    digest = hashlib.sha256(diff + untracked).hexdigest() if dirty else ""
    return {"git_sha": sha.decode().strip(), "dirty": int(dirty), "diff_hash": digest}


def _git(folder: Path, *arguments: str) -> bytes | None:
    """Return a git command's output, None where it fails, is missing or hangs."""
    # GIT_DIR and its kin, set inside hooks, would point git at another repository
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env={**environment, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _versions() -> Mapping[str, str]:
    versions = {"python": platform.python_version()}
    for name, distribution in _DISTRIBUTIONS.items():
        try:
            versions[name] = version(distribution)
        except PackageNotFoundError:
            versions[name] = "unknown"
    return versions
