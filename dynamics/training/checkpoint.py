"""Checkpoints: complete, checksummed, atomic; a damaged newest one never costs the run.

A checkpoint is a folder `step_00001000` with `model.safetensors`, `ema_<decay>.safetensors`, `optimizer.safetensors`
(moments by the weight's name) and `state.json`, which holds the step, the curricula's state, the sums by time and gap,
the sha256 of each file, where the log was, and a hash of itself. Tensors that curricula remember are in
`curricula.safetensors`; how to optimise is for the config to say. The folder is written under a temporary name and
renamed, so it is there as a whole or not at all.

Where weights are split over ranks each writes its own part, `model.00001-of-00002.safetensors` and so on, see `shards`.
Any number of ranks reads any number of parts, each rank what it needs.
"""

import errno
import os
import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from dynamics.atomic import file_sha256, sync
from dynamics.curricula import State
from dynamics.options import invalid
from dynamics.strict_json import dumps, seal
from dynamics.training.checkpoint_content import (
    CURRICULA,
    LEGACY,
    OPTIMIZER,
    STATE,
    files_of,
    read_content,
    weights_files,
)
from dynamics.training.distributed import from_all, is_split, on_first, world
from dynamics.training.shards import Shards, write
from dynamics.training.state import TrainState, Weights

NAME = re.compile(r"step_(\d{8})")


class DamagedCheckpointError(RuntimeError):
    """A checkpoint's files are missing or differ from their checksums."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run, in `folder`; the newest `keep` stay."""

    folder: Path
    keep: int = 2
    run_id: str | None = None
    """Of whose config they must be; None where that is not asked."""

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(m[1]) for p in self.folder.iterdir() if (m := NAME.fullmatch(p.name)))

    def path(self, step: int) -> Path:
        """Return the folder of the checkpoint at `step`."""
        return self.folder / f"step_{step:08d}"

    def save(self, state: TrainState, log: str | None = None) -> Path:
        """Write a checkpoint atomically, then remove those beyond the newest `keep`; every rank must call this.

        Of a split state each rank writes its part; otherwise the first one writes all.

        Args:
            state: What to write.
            log: Where the run's log is, see `store.RunLog.mark`.
        """
        final, here = self.path(state.step), world()
        parts = here.size if is_split(next(state.model.parameters())) else 1
        temporary = self.folder / f".{final.name}.{on_first(os.getpid)}"
        try:
            on_first(lambda: _make_anew(temporary))
            written = from_all(lambda: _write(temporary, state, here.rank, parts) if here.rank < parts else {})
            hashes = {name: digest for of_rank in written for name, digest in of_rank.items()}
            on_first(lambda: self._complete(state, temporary, parts, hashes, log))
        except BaseException:
            if here.first:  # a full disk must not stay full because of half a checkpoint
                shutil.rmtree(temporary, ignore_errors=True)
            raise
        return final

    def _complete(
        self, state: TrainState, temporary: Path, parts: int, hashes: dict[str, str], log: str | None
    ) -> None:
        plain, tensors = _apart(state.curricula)
        if tensors:
            hashes = {**hashes, CURRICULA: write(temporary / CURRICULA, tensors)}
        content = {
            "step": state.step,
            "parts": parts,
            "emas": list(state.emas),
            "curricula": plain,
            "cells": state.cells.tolist(),
            "log": log,
            "run_id": self.run_id,
            "sha256": hashes,
        }
        (temporary / STATE).write_text(seal(content))
        for path in (temporary / STATE, temporary):
            sync(path)
        final = self.path(state.step)
        if final.exists():  # the same step again, after a damaged copy was refused
            self._hide(final)
        os.replace(temporary, final)
        sync(self.folder)
        for step in [step for step in self.steps() if step <= state.step][: -self.keep]:  # later ones were refused
            self._hide(self.path(step))
        self.tidy()

    def restore(self, state: TrainState, step: int | None = None) -> bool:
        """Load a checkpoint into `state`: that of `step`, or the newest intact one; return False if there is none.

        A damaged newest one is named in a warning and the one before is used.

        Raises:
            DamagedCheckpointError: there are checkpoints, but none is intact, or not that of `step`.
            ValueError: there is none of that step, or it belongs to another model.
        """
        steps = self.steps()
        if step is not None:
            self.verify(step)
            self.load(state, step)
            return True
        for step in reversed(steps):
            try:
                self.verify(step)
            except DamagedCheckpointError as error:
                warnings.warn(f"{error}; trying the checkpoint before it", stacklevel=2)
                continue
            self.load(state, step)
            return True
        if steps:
            raise DamagedCheckpointError(
                f"no intact checkpoint in {self.folder} (steps {steps}); to begin anew, remove that folder"
            )
        return False

    def verify(self, step: int) -> dict[str, Any]:
        """Return the content of a checkpoint's state.json after comparing every checksum.

        Raises:
            ValueError: There is no checkpoint of that step.
            DamagedCheckpointError: A file is missing or differs from its checksum.
        """
        content = self.content(step)
        damaged = [name for name, digest in content["sha256"].items() if not self._is_intact(step, name, digest)]
        if damaged:
            raise self._damaged(step, f"{', '.join(damaged)} fails its checksum")
        return content

    def content(self, step: int) -> dict[str, Any]:
        """Return the content of a checkpoint's state.json after comparing its own checksum; other files are not read.

        Raises:
            ValueError: There is no checkpoint of that step, or it is another run's.
            DamagedCheckpointError: It is missing, fails its checksum, or lists other files than it must.
        """
        self._check_step(step)
        try:
            content = read_content(self.path(step), step)
        except (FileNotFoundError, ValueError, TypeError) as error:
            raise self._damaged(step, f"{STATE}: {error}") from error
        trained = content.get("run_id")
        if None not in (self.run_id, trained) and trained != self.run_id:
            received, allowed = f"one of run {trained}", f"one of run {self.run_id}, whose config.json is in the folder"
            remedy = "put back the config.json, or the checkpoint, that was changed or exchanged"
            raise invalid(f"checkpoint {self.path(step)}", received, allowed, remedy)
        return content

    def _is_intact(self, step: int, name: str, digest: str) -> bool:
        try:
            return file_sha256(self.path(step) / name) == digest
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EIO):  # what cannot be read for another reason is not damaged
                return False
            raise

    def _damaged(self, step: int, what: str) -> DamagedCheckpointError:
        return DamagedCheckpointError(f"checkpoint {self.path(step)} is damaged ({what})")

    def weights(self, step: int | None = None, which: str = "ema") -> tuple[int, Weights]:
        """Return (step, weights) of a checkpoint after checking it.

        Args:
            step: Which checkpoint; None takes the newest intact one.
            which: "model", "ema" (the first average) or a decay such as "0.999".
        """
        for candidate in [step] if step is not None else reversed(self.steps()):
            try:
                content = self.verify(candidate)
            except DamagedCheckpointError as error:
                if step is not None:
                    raise
                warnings.warn(f"{error}; trying the checkpoint before it", stacklevel=2)
                continue
            shards = Shards.open(self.path(candidate) / name for name in weights_files(content, which))
            return int(content["step"]), {name: shards.whole(name) for name in shards.shapes}
        raise self._none()

    def last(self) -> int:
        """Return the step of the newest checkpoint, intact or not.

        Raises:
            ValueError: There is none.
        """
        if not self.steps():
            raise self._none()
        return self.steps()[-1]

    def _none(self) -> ValueError:
        return invalid("run", str(self.folder), "a run with an intact checkpoint", "train it first")

    def _check_step(self, step: int) -> None:
        if step not in self.steps():
            remedy = f"see {self.folder}; a run keeps its newest training.keep_checkpoints checkpoints"
            raise invalid("checkpoint", step, f"one of {self.steps()}", remedy)

    def load(self, state: TrainState, step: int) -> None:
        """Load a checkpoint that is known to be intact; each rank reads its own part of a split state.

        Raises:
            ValueError: It belongs to another model.
        """
        folder, content = self.path(step), self.content(step)
        fill_weights(state, folder, content, "model")
        for decay, ema in state.emas.items():
            shards = Shards.open(folder / name for name in weights_files(content, decay))
            for name, weight in ema.items():
                shards.fill(name, weight)
        fill_moments(state, folder, content)
        tensors = Shards.open([folder / CURRICULA] if CURRICULA in content["sha256"] else [])
        state.step, state.curricula = step, _together(content["curricula"], tensors)
        state.cells = torch.tensor(content["cells"], dtype=torch.float64)  # JSON keeps every digit

    def _hide(self, path: Path) -> None:
        """Take a checkpoint away at once: one that a kill leaves half removed would look damaged."""
        os.replace(path, self.folder / f".{path.name}.{uuid4().hex}")

    def tidy(self) -> None:
        """Remove what is hidden, also by a process that was killed while it wrote; only for who trains the run."""
        for leftover in self.folder.glob(".step_*"):
            shutil.rmtree(leftover, ignore_errors=True)


def _apart(curricula: list[State]) -> tuple[list[State], Weights]:
    """Split what curricula remember into JSON values and tensors."""
    plain = [{k: v for k, v in memory.items() if not isinstance(v, Tensor)} for memory in curricula]
    for i, memory in enumerate(plain):
        for name, value in memory.items():
            try:
                dumps(value)
            except TypeError as error:
                allowed = "JSON values, and tensors as values of their own"
                remedy = f"no tensors inside of lists ({error})"
                raise invalid(f"state of curriculum {i + 1}: {name}", value, allowed, remedy) from error
    tensors = {f"{i}.{k}": v for i, memory in enumerate(curricula) for k, v in memory.items() if isinstance(v, Tensor)}
    return plain, tensors


def _together(plain: list[State], shards: Shards) -> list[State]:
    out = [dict(memory) for memory in plain]
    for name in shards.shapes:
        index, _, key = name.partition(".")
        out[int(index)][key] = shards.whole(name)
    return out


def fill_weights(state: TrainState, folder: Path, content: dict[str, Any], which: str) -> None:
    """Copy a checkpoint's weights into the state's model, after a look whether they are of that model."""
    shards = Shards.open(folder / name for name in weights_files(content, which))
    check_model(folder, state, shards.shapes)
    for name, parameter in state.model.named_parameters():
        shards.fill(name, parameter)


def fill_moments(state: TrainState, folder: Path, content: dict[str, Any]) -> None:
    """Put a checkpoint's moments into the state's optimiser, whose settings stay those of its config."""
    names, optimizer = dict(state.model.named_parameters()), state.optimizer
    if LEGACY in content["sha256"]:
        shards = _legacy_moments(folder / LEGACY, list(names))
    else:
        shards = Shards.open(folder / name for name in files_of(OPTIMIZER, content["parts"]))
    places = {name: index for index, name in enumerate(names)}
    moments: dict[int, dict[str, Tensor]] = {}
    for name, shape in shards.shapes.items():
        weight, _, moment = name.rpartition(".")
        like = names[weight].detach()
        target = torch.empty_like(like) if shape else torch.zeros(())
        shards.fill(name, target)
        moments.setdefault(places[weight], {})[moment] = target
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


def _legacy_moments(path: Path, names: list[str]) -> Shards:
    """Read moments as checkpoints held them before they could be in parts."""
    content = torch.load(path, weights_only=True, map_location="cpu")
    return Shards.of(
        {f"{names[i]}.{key}": t for i, of_weight in content["state"].items() for key, t in of_weight.items()}
    )


def _make_anew(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _write(folder: Path, state: TrainState, part: int, parts: int) -> dict[str, str]:
    """Write one part of all tensors of a state; return the sha256 of each file by name."""
    moments = {
        f"{name}.{moment}": tensor
        for name, parameter in state.model.named_parameters()
        for moment, tensor in state.optimizer.state.get(parameter, {}).items()
    }
    averages = {f"ema_{decay}": ema for decay, ema in state.emas.items()}
    kinds: dict[str, Weights] = {"model": dict(state.model.named_parameters()), **averages, OPTIMIZER: moments}
    hashes = {}
    for kind, tensors in kinds.items():
        name = files_of(kind, parts)[part]
        hashes[name] = write(folder / name, tensors)
    return hashes


def check_model(folder: Path, state: TrainState, there: dict[str, tuple[int, ...]]) -> None:
    """Refuse weights of other shapes than those of the state's model."""
    expected = {name: tuple(p.shape) for name, p in state.model.named_parameters()}
    if there != expected:
        differing = sorted(name for name in {*there, *expected} if there.get(name) != expected.get(name))
        name = differing[0]
        received = f"{len(differing)} tensors that differ, such as {name} {there.get(name, 'missing')}"
        allowed = f"weights of this config's model ({name} {expected.get(name, 'absent')})"
        raise invalid(f"checkpoint {folder}", received, allowed, "use the checkpoints of a run of this config")
