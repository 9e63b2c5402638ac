"""Where a sweep lies on the disk, and its submissions."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from dynamics.atomic import locked, replacing
from dynamics.runner import RunFolder


@dataclass(frozen=True)
class Submission:
    """Runs that went to a cluster together, written down BEFORE they go.

    The token is in the name of the jobs, so that the queue itself says which runs are in it: no job number that could
    be lost between submitting and noting it down.
    """

    token: str
    """Name of the jobs: experiment, scale and eight random letters."""
    cluster: str
    run_ids: tuple[str, ...]
    """In the order of the array."""
    created: float
    """Seconds since 1970."""


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
        """Submissions, and the cluster's logs."""
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
        """Hold the right to submit: two people who submit at once do it one after the other."""
        self.jobs.mkdir(parents=True, exist_ok=True)
        with locked(self.jobs / "submit"):
            yield

    def announce(self, cluster: str, run_ids: Sequence[str]) -> Submission:
        """Write down a submission that is about to be made."""
        token = f"{self.experiment}-{self.scale}-{uuid4().hex[:8]}"
        submission = Submission(token, cluster, tuple(run_ids), time.time())
        with replacing(self.jobs / f"{token}.json") as temporary:
            temporary.write_text(json.dumps(asdict(submission), indent=1))
        return submission
