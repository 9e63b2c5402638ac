"""Folders of tensors, one a step of a run: complete, checksummed, atomic.

A folder `step_00001000` holds files of named tensors (safetensors) and `state.json`, which lists the sha256 of each and
has a hash of itself. It is written under a temporary name and renamed, so it is there as a whole or not at all.

Where tensors are split over ranks each writes its own part, `model.00001-of-00002.safetensors` and so on, see `shards`.
Any number of ranks reads any number of parts, each rank what it needs.
"""

import errno
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

from dynamics.atomic import file_sha256, sync
from dynamics.options import invalid
from dynamics.strict_json import seal
from dynamics.training.checkpoint_content import STATE, files_of, read_content
from dynamics.training.distributed import from_all, is_split, on_first, world
from dynamics.training.shards import write
from dynamics.training.state import Weights

NAME = re.compile(r"step_(\d{8})")


class DamagedCheckpointError(RuntimeError):
    """The files of a checkpoint or snapshot are missing or differ from their checksums."""


@dataclass(frozen=True)
class StepFolders:
    """What a run keeps of some of its steps, in `folder`; the newest `keep` stay."""

    WORD: ClassVar[str]
    """What one of them is called."""
    STAY: ClassVar[str]
    """Which of them a run keeps."""
    WHOLE: ClassVar[bool]
    """Whether it holds all that training goes on from, or averages alone."""

    folder: Path
    keep: int | None = 2
    """None keeps all."""
    run_id: str | None = None
    """Of whose config they must be; None where that is not asked."""

    def steps(self) -> list[int]:
        """Return all steps of which there is one, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(m[1]) for p in self.folder.iterdir() if (m := NAME.fullmatch(p.name)))

    def path(self, step: int) -> Path:
        """Return the folder of `step`."""
        return self.folder / f"step_{step:08d}"

    def put(
        self,
        step: int,
        kinds: Mapping[str, Weights],
        about: Mapping[str, Any],
        alone: Mapping[str, Weights] | None = None,
    ) -> Path:
        """Write a folder atomically, then remove those beyond the newest `keep`; every rank must call this.

        Args:
            step: Of the run.
            kinds: Tensors by name, by the kind of their file. Of split ones each rank writes its part; otherwise the
                first rank writes all.
            about: What state.json says beside `step`, `parts`, `run_id` and `sha256`.
            alone: Tensors that all ranks have, by the name of their file.
        """
        final, here = self.path(step), world()
        parts = here.size if any(is_split(t) for tensors in kinds.values() for t in tensors.values()) else 1
        temporary = self.folder / f".{final.name}.{on_first(os.getpid)}"

        def own() -> dict[str, str]:
            names = {files_of(kind, parts)[here.rank]: tensors for kind, tensors in kinds.items()}
            more = alone or {} if here.first else {}
            return {name: write(temporary / name, tensors) for name, tensors in {**names, **more}.items()}

        try:
            on_first(lambda: _make_anew(temporary))
            written = from_all(lambda: own() if here.rank < parts else {})
            hashes = {name: digest for of_rank in written for name, digest in of_rank.items()}
            content = {"step": step, "parts": parts, **about, "run_id": self.run_id, "sha256": hashes}
            on_first(lambda: self._complete(step, temporary, content))
        except BaseException:
            if here.first:  # a full disk must not stay full because of half a folder
                shutil.rmtree(temporary, ignore_errors=True)
            raise
        return final

    def _complete(self, step: int, temporary: Path, content: Mapping[str, Any]) -> None:
        (temporary / STATE).write_text(seal(content))
        for path in (temporary / STATE, temporary):
            sync(path)
        final = self.path(step)
        if final.exists():  # the same step again, after a damaged copy was refused
            self._hide(final)
        os.replace(temporary, final)
        sync(self.folder)
        if self.keep is not None:
            for old in [old for old in self.steps() if old <= step][: -self.keep]:  # later ones were refused
                self._hide(self.path(old))
        self.tidy()

    def verify(self, step: int) -> dict[str, Any]:
        """Return the content of a step's state.json after comparing every checksum.

        Raises:
            ValueError: There is none of that step.
            DamagedCheckpointError: A file is missing or differs from its checksum.
        """
        content = self.content(step)
        damaged = [name for name, digest in content["sha256"].items() if not self._is_intact(step, name, digest)]
        if damaged:
            raise self._damaged(step, f"{', '.join(damaged)} fails its checksum")
        return content

    def content(self, step: int) -> dict[str, Any]:
        """Return the content of a step's state.json after comparing its own checksum; other files are not read.

        Raises:
            ValueError: There is none of that step, or it is another run's.
            DamagedCheckpointError: It is missing, fails its checksum, or lists other files than it must.
        """
        self._check_step(step)
        try:
            content = read_content(self.path(step), step, self.WHOLE)
        except (FileNotFoundError, ValueError, TypeError) as error:
            raise self._damaged(step, f"{STATE}: {error}") from error
        trained = content.get("run_id")
        if None not in (self.run_id, trained) and trained != self.run_id:
            received, allowed = f"one of run {trained}", f"one of run {self.run_id}, whose config.json is in the folder"
            remedy = f"put back the config.json, or the {self.WORD}, that was changed or exchanged"
            raise invalid(f"{self.WORD} {self.path(step)}", received, allowed, remedy)
        return content

    def _is_intact(self, step: int, name: str, digest: str) -> bool:
        try:
            return file_sha256(self.path(step) / name) == digest
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EIO):  # what cannot be read for another reason is not damaged
                return False
            raise

    def _damaged(self, step: int, what: str) -> DamagedCheckpointError:
        return DamagedCheckpointError(f"{self.WORD} {self.path(step)} is damaged ({what})")

    def last(self) -> int:
        """Return the newest step, intact or not.

        Raises:
            ValueError: There is none.
        """
        if not self.steps():
            raise self._none()
        return self.steps()[-1]

    def _none(self) -> ValueError:
        return invalid("run", str(self.folder), f"a run with an intact {self.WORD}", "train it first")

    def _check_step(self, step: int) -> None:
        if step not in self.steps():
            remedy = f"see {self.folder}; a run keeps {self.STAY}"
            raise invalid(self.WORD, step, f"one of {self.steps()}", remedy)

    def _hide(self, path: Path) -> None:
        """Take a folder away at once: one that a kill leaves half removed would look damaged."""
        os.replace(path, self.folder / f".{path.name}.{uuid4().hex}")

    def tidy(self) -> None:
        """Remove what is hidden, also by a process that was killed while it wrote; only for who trains the run."""
        for leftover in self.folder.glob(".step_*"):
            shutil.rmtree(leftover, ignore_errors=True)


def _make_anew(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
