"""Checkpoints: complete, checksummed, atomic; a damaged newest one never costs the run.

A checkpoint is a folder `step_00001000` with `model.safetensors`, `ema_<decay>.safetensors`, `optimizer.safetensors`
(moments by the weight's name) and `state.json`, which holds the step, the curricula's state, the sums by time and gap,
the optimiser's settings and the sha256 of each file. Tensors that curricula remember are in `curricula.safetensors`.
The folder is written under a temporary name and renamed, so it is there as a whole or not at all.

Where weights are split over ranks each writes its own part, `model.00001-of-00002.safetensors` and so on, see `shards`.
Any number of ranks reads any number of parts, each rank what it needs.
"""

import hashlib
import json
import os
import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamics.atomic import sync
from dynamics.curricula import State
from dynamics.options import invalid
from dynamics.training.distributed import from_all, is_split, on_first, world
from dynamics.training.shards import Shards, write
from dynamics.training.state import TrainState, Weights

NAME = re.compile(r"step_(\d{8})")
OPTIMIZER = "optimizer"
"""Kind of the files of moments."""
CURRICULA = "curricula.safetensors"
"""File of the tensors that curricula remember, by the curriculum's place in the chain and the tensor's name."""
LEGACY = "optimizer.pt"
"""Moments and settings of the optimiser in checkpoints of earlier versions; read, no longer written."""


class DamagedCheckpointError(RuntimeError):
    """A checkpoint's files are missing or differ from their checksums."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run, in `folder`; the newest `keep` stay."""

    folder: Path
    keep: int = 2

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(m[1]) for p in self.folder.iterdir() if (m := NAME.fullmatch(p.name)))

    def path(self, step: int) -> Path:
        """Return the folder of the checkpoint at `step`."""
        return self.folder / f"step_{step:08d}"

    def save(self, state: TrainState) -> Path:
        """Write a checkpoint atomically, then remove those beyond the newest `keep`; every rank must call this.

        Of a split state each rank writes its part; otherwise the first one writes all.
        """
        final, here = self.path(state.step), world()
        parts = here.size if is_split(next(state.model.parameters())) else 1
        temporary = self.folder / f".{final.name}.{on_first(os.getpid)}"
        try:
            on_first(lambda: _make_anew(temporary))
            written = from_all(lambda: _write(temporary, state, here.rank, parts) if here.rank < parts else {})
            hashes = {name: digest for of_rank in written for name, digest in of_rank.items()}
            on_first(lambda: self._complete(state, temporary, parts, hashes))
        except BaseException:
            if here.first:  # a full disk must not stay full because of half a checkpoint
                shutil.rmtree(temporary, ignore_errors=True)
            raise
        return final

    def _complete(self, state: TrainState, temporary: Path, parts: int, hashes: dict[str, str]) -> None:
        plain, tensors = _apart(state.curricula)
        if tensors:
            hashes = {**hashes, CURRICULA: write(temporary / CURRICULA, tensors)}
        content = {
            "step": state.step,
            "parts": parts,
            "emas": list(state.emas),
            "curricula": plain,
            "cells": state.cells.tolist(),
            "optimizer": [{k: v for k, v in g.items() if k != "params"} for g in state.optimizer.param_groups],
            "sha256": hashes,
        }
        (temporary / "state.json").write_text(json.dumps(content, indent=1))
        for path in (temporary / "state.json", temporary):
            sync(path)
        final = self.path(state.step)
        if final.exists():  # the same step again, after a damaged copy was refused
            shutil.rmtree(final)
        os.replace(temporary, final)
        sync(self.folder)
        self._prune()

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
        self._check_step(step)
        folder = self.path(step)
        try:
            content: dict[str, Any] = json.loads((folder / "state.json").read_text())
            damaged = [name for name, digest in content["sha256"].items() if _sha256(folder / name) != digest]
        except (OSError, ValueError, KeyError) as error:
            raise DamagedCheckpointError(f"checkpoint {folder} is damaged ({error})") from error
        if damaged:
            raise DamagedCheckpointError(f"checkpoint {folder} is damaged ({', '.join(damaged)} fails its checksum)")
        return content

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
        folder = self.path(step)
        content = json.loads((folder / "state.json").read_text())
        fill_weights(state, folder, content, "model")
        for decay, ema in state.emas.items():
            shards = Shards.open(folder / name for name in weights_files(content, decay))
            for name, weight in ema.items():
                shards.fill(name, weight)
        settings = [group | {"betas": tuple(group["betas"])} for group in content.get("optimizer", [])]
        fill_moments(state, folder, content, settings)
        state.step, state.curricula = content["step"], _together(content["curricula"], folder / CURRICULA)
        state.cells = torch.tensor(content["cells"], dtype=torch.float64)  # JSON keeps every digit

    def _prune(self) -> None:
        for step in self.steps()[: -self.keep]:
            shutil.rmtree(self.path(step))
        for leftover in self.folder.glob(".step_*"):  # of a process that was killed while it wrote
            shutil.rmtree(leftover, ignore_errors=True)


def _apart(curricula: list[State]) -> tuple[list[State], Weights]:
    """Split what curricula remember into JSON values and tensors."""
    plain = [{k: v for k, v in memory.items() if not isinstance(v, Tensor)} for memory in curricula]
    for i, memory in enumerate(plain):
        for name, value in memory.items():
            try:
                json.dumps(value)
            except TypeError as error:
                allowed = "JSON values, and tensors as values of their own"
                remedy = f"no tensors inside of lists ({error})"
                raise invalid(f"state of curriculum {i + 1}: {name}", value, allowed, remedy) from error
    tensors = {f"{i}.{k}": v for i, memory in enumerate(curricula) for k, v in memory.items() if isinstance(v, Tensor)}
    return plain, tensors


def _together(plain: list[State], path: Path) -> list[State]:
    shards = Shards.open([path] if path.exists() else [])
    out = [dict(memory) for memory in plain]
    for name in shards.shapes:
        index, _, key = name.partition(".")
        out[int(index)][key] = shards.whole(name)
    return out


def weights_files(content: dict[str, Any], which: str) -> list[str]:
    """Return the names of a checkpoint's files of weights.

    Args:
        content: Its state.json.
        which: "model", "ema" (the first average) or a decay such as "0.999".
    """
    emas = content["emas"]
    decay = emas[0] if which == "ema" else which
    if which != "model" and decay not in emas:
        raise invalid("weights", which, f"model, ema or one of {emas}", "choose a recorded average")
    return _files("model" if which == "model" else f"ema_{decay}", content.get("parts", 1))


def fill_weights(state: TrainState, folder: Path, content: dict[str, Any], which: str) -> None:
    """Copy a checkpoint's weights into the state's model, after a look whether they are of that model."""
    shards = Shards.open(folder / name for name in weights_files(content, which))
    check_model(folder, state, shards.shapes)
    for name, parameter in state.model.named_parameters():
        shards.fill(name, parameter)


def fill_moments(
    state: TrainState, folder: Path, content: dict[str, Any], settings: list[dict[str, Any]] | None = None
) -> None:
    """Put a checkpoint's moments into the state's optimiser, and other settings if there are some."""
    names, optimizer = dict(state.model.named_parameters()), state.optimizer
    if (folder / LEGACY).exists():
        shards, own = _legacy_moments(folder / LEGACY, list(names))
        settings = settings if settings is None else own
    else:
        shards = Shards.open(folder / name for name in _files(OPTIMIZER, content["parts"]))
    places = {name: index for index, name in enumerate(names)}
    moments: dict[int, dict[str, Tensor]] = {}
    for name, shape in shards.shapes.items():
        weight, _, moment = name.rpartition(".")
        like = names[weight].detach()
        target = torch.empty_like(like) if shape else torch.zeros(())
        shards.fill(name, target)
        moments.setdefault(places[weight], {})[moment] = target
    old = optimizer.state_dict()["param_groups"]
    groups = [{**group, **new} for group, new in zip(old, settings or [{} for _ in old], strict=True)]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _legacy_moments(path: Path, names: list[str]) -> tuple[Shards, list[dict[str, Any]]]:
    """Read moments and settings as checkpoints held them before they could be in parts."""
    content = torch.load(path, weights_only=True, map_location="cpu")
    moments = {f"{names[i]}.{key}": t for i, of_weight in content["state"].items() for key, t in of_weight.items()}
    settings = [{k: v for k, v in group.items() if k != "params"} for group in content["param_groups"]]
    return Shards.of(moments), settings


def _files(kind: str, parts: int) -> list[str]:
    """Return the names of the files of one kind of tensors, by rank."""
    if parts == 1:
        return [f"{kind}.safetensors"]
    return [f"{kind}.{part + 1:05d}-of-{parts:05d}.safetensors" for part in range(parts)]


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
        name = _files(kind, parts)[part]
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
