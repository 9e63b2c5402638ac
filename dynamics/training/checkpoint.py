"""Checkpoints: complete, checksummed, atomic; a damaged newest one never costs the run.

A checkpoint is a folder (see `step_folders`) with `model.safetensors`, `ema_<average>.safetensors`,
`optimizer.safetensors` (moments by the weight's name) and `state.json`, which also holds the curricula's state, the
sums by time and gap and where the log was. Tensors that curricula remember are in `curricula.safetensors`; how to
optimise is for the config to say.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamics.curricula import State
from dynamics.options import invalid
from dynamics.strict_json import dumps
from dynamics.training.checkpoint_content import CURRICULA, LEGACY, OPTIMIZER, files_of, weights_files
from dynamics.training.shards import Shards
from dynamics.training.state import TrainState, Weights
from dynamics.training.step_folders import DamagedCheckpointError, StepFolders


@dataclass(frozen=True)
class Checkpoints(StepFolders):
    """The checkpoints of one run."""

    WORD, STAY, WHOLE = "checkpoint", "its newest training.keep_checkpoints checkpoints", True

    def save(self, state: TrainState, log: str | None = None) -> Path:
        """Write a checkpoint atomically, then remove those beyond the newest `keep`; every rank must call this.

        Args:
            state: What to write.
            log: Where the run's log is, see `store.RunLog.mark`.
        """
        plain, tensors = _apart(state.curricula)
        about = {"emas": list(state.emas), "curricula": plain, "cells": state.cells.tolist(), "log": log}
        return self.put(state.step, _kinds(state), about, {CURRICULA: tensors} if tensors else {})

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


def _kinds(state: TrainState) -> dict[str, Weights]:
    """Return all tensors of a state by the kind of their file."""
    moments = {
        f"{name}.{moment}": tensor
        for name, parameter in state.model.named_parameters()
        for moment, tensor in state.optimizer.state.get(parameter, {}).items()
    }
    averages = {f"ema_{average}": ema for average, ema in state.emas.items()}
    return {"model": dict(state.model.named_parameters()), **averages, OPTIMIZER: moments}


def check_model(folder: Path, state: TrainState, there: dict[str, tuple[int, ...]]) -> None:
    """Refuse weights of other shapes than those of the state's model."""
    expected = {name: tuple(p.shape) for name, p in state.model.named_parameters()}
    if there != expected:
        differing = sorted(name for name in {*there, *expected} if there.get(name) != expected.get(name))
        name = differing[0]
        received = f"{len(differing)} tensors that differ, such as {name} {there.get(name, 'missing')}"
        allowed = f"weights of this config's model ({name} {expected.get(name, 'absent')})"
        raise invalid(f"checkpoint {folder}", received, allowed, "use the checkpoints of a run of this config")
