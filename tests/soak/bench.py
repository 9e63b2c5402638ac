"""The bench on which harm is done: copies of stages, what undisturbed twins look like, and what is said of an end.

handled    the command refused in words that name the file, or the end is that of the undisturbed twin
unnamed    it refused, without saying in one line which file or option is at fault
untidy     handled, but temporary files stay, or a refused command had written already
stuck      what was named damaged could not be done again
lost       something that was finished is gone
silent     it ended well with other results than the twin
traceback, crash, hang, leaked (a foreign file's content, or code in a file that ran)
missed     the harm came too late, or did nothing
"""

import json
import random
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from soak import results
from soak.stages import Stages
from soak.warm import Ended, ended

Chance = random.Random
SHOWN = 1500
PLACE = "place"
"""Name of the folder of a copy."""


@dataclass(frozen=True)
class Verdict:
    """How one harm ended."""

    verdict: str
    what: str
    """What was done, to whom."""
    said: str = ""
    """What was said or differs, where it was not handled."""


@dataclass
class Bench:
    """Copies of stages in a folder of their own, and what their twins have made.

    Args:
        stages: What harm is done to.
        work: Folder for the copies.
    """

    stages: Stages
    work: Path
    _twins: dict[tuple[str, str], results.Digests] = field(default_factory=dict)

    def stage(self, name: str) -> Path:
        """Return the folder of a stage, which is made when it is first asked for."""
        return Path(getattr(self.stages, name))

    @contextmanager
    def place(self, stage: str) -> Iterator[Path]:
        """Yield a copy of a stage, which is removed afterwards."""
        place = self.work / PLACE
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.stage(stage), place, symlinks=True)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def digests(self, stage: str, made: Sequence[str]) -> results.Digests:
        """Return digests of what a stage holds; see `results.of`."""
        key = stage, " ".join(made)
        if key not in self._twins:
            self._twins[key] = results.of(self.stage(stage), *made)
            assert "unreadable" not in self._twins[key], self._twins[key]
        return self._twins[key]

    def seen(self, stage: str) -> results.Digests:
        """Return what a user sees of the run in a stage."""
        key = stage, "seen"
        if key not in self._twins:
            with self.place(stage) as place:
                self._twins[key] = seen(ended(results.user_sees("run"), place))
        return self._twins[key]


def seen(end: Ended) -> results.Digests:
    """Return what `results.user_sees` has printed."""
    lines = [line for line in end.said.splitlines() if line.startswith("{")]
    out: results.Digests = json.loads(lines[-1])
    return out


def ugly(end: Ended, what: str) -> Verdict | None:
    """Return the verdict of an end that no command should have, None for others."""
    bad = "traceback" if "Traceback (most recent call last)" in end.said else ""
    if end.code < 0 or end.code > 128 + signal.SIGABRT:
        bad = "crash"
    if end.hung:
        bad = "hang"
    return Verdict(bad, what, end.said[-SHOWN:]) if bad else None


def equal(expected: results.Digests, found: results.Digests, what: str, otherwise: str = "silent") -> Verdict:
    """Return whether results are those of the twin."""
    wrong = results.differences(expected, found)
    told = f"{len(wrong)} differ: {wrong[:5]} {found.get('unreadable', '')}"
    return Verdict(otherwise, what, told) if wrong else Verdict("handled", what)


def names(said: str, inside: Path) -> bool:
    """Whether a text says which file is at fault: its name, its fellow's, or the checkpoint or run that it is in."""
    said = " ".join(said.split())
    alike = [inside.name, str(inside.with_suffix(".f16")), *(part for part in inside.parts if part.startswith("step_"))]
    if inside.name == "config.json":
        alike.append(f"the config of the run in {inside.parent}")
    return any(name in said for name in alike)


def litter(place: Path) -> list[str]:
    """Return temporary files that somebody left."""
    left = (p for p in place.rglob(".*") if p.name.endswith(".tmp") or p.name.startswith(".step_"))
    return sorted(str(path.relative_to(place)) for path in left)
