"""Where a sweep lies on the disk, and what it remembers."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dynamics.atomic import locked, replacing
from dynamics.options import Options, invalid
from dynamics.runner import RunFolder
from dynamics.strict_json import dumps, seal, unseal

Remembered = TypeVar("Remembered", bound=Options)


@dataclass(frozen=True)
class SweepFolder:
    """One experiment at one scale: RESULTS/experiment/scale/."""

    results: Path
    experiment: str
    scale: str

    @property
    def path(self) -> Path:
        return self.results / self.experiment / self.scale

    @property
    def merged(self) -> Path:
        """The file that `collect` writes."""
        return self.results / self.experiment / f"{self.scale}.nc"

    @property
    def jobs(self) -> Path:
        """What goes to the cluster and runs there as it stands, and its logs: nobody but the owner may write here."""
        return self.path / "jobs"

    def run(self, run_id: str) -> RunFolder:
        """Return a run's folder."""
        return RunFolder(self.path / run_id)

    def run_ids(self) -> list[str]:
        """Return the ids of all runs that have a folder, planned or not."""
        if not self.path.is_dir():
            return []
        return sorted(entry.name for entry in self.path.iterdir() if (entry / "config.json").is_file())

    @contextmanager
    def submitting(self) -> Iterator[None]:
        """Hold the right to submit: two who submit at once do it one after the other.

        Raises:
            ValueError: Others may write where the jobs are, or we may not.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self.jobs.mkdir(mode=0o700, exist_ok=True)
        mode = self.jobs.stat().st_mode
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            allowed = "a folder that only its owner may write: what lies there runs as the owner's job"
            raise invalid(str(self.jobs), f"mode {stat.S_IMODE(mode):o}", allowed, f"chmod 700 {self.jobs}")
        if not os.access(self.jobs, os.W_OK | os.X_OK):
            raise invalid(str(self.jobs), "a folder that you may not write", "one of your own", "another --results")
        with locked(self.jobs / "submit"):
            for folder in (self.path, self.jobs):  # of killed writers of what is remembered
                for leftover in folder.glob(".*.tmp"):
                    leftover.unlink(missing_ok=True)
            yield


def recall(path: Path, kind: type[Remembered], remedy: str) -> Remembered | None:
    """Return options that were remembered in a file, None if there is none.

    Raises:
        ValueError: The file is damaged.
    """
    if not path.is_file():
        return None
    try:
        return kind.model_validate_json(dumps(unseal(path.read_bytes())))
    except ValueError as error:
        raise invalid(str(path), "damaged text", f"JSON of {kind.__name__}", remedy) from error


def remember(path: Path, options: Options) -> None:
    """Write options down for `recall`; only for who is submitting."""
    with replacing(path) as temporary:
        temporary.write_text(seal(options.model_dump(mode="json")))
