"""Checkpoints: complete, checksummed, atomic; a damaged newest one never costs the run.

A checkpoint is a folder `step_00001000` with `model.safetensors`, `ema_<decay>.safetensors`, `optimizer.pt` (loaded
with weights_only=True) and `state.json`, which holds the step, the curricula's state, the sums by time and gap, and the
sha256 of each file. The folder is written under a temporary name and renamed, so it is there as a whole or not at all.
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
from safetensors.torch import load_file, save_file

from dynamics.atomic import sync
from dynamics.options import invalid
from dynamics.training.state import TrainState, Weights, load_weights

NAME = re.compile(r"step_(\d{8})")


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
        """Write a checkpoint atomically, then remove those beyond the newest `keep`."""
        final = self.path(state.step)
        temporary = self.folder / f".{final.name}.{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(
            {n: p.detach().contiguous() for n, p in state.model.named_parameters()}, temporary / "model.safetensors"
        )
        for decay, ema in state.emas.items():
            save_file(ema, temporary / f"ema_{decay}.safetensors")
        torch.save(state.optimizer.state_dict(), temporary / "optimizer.pt")
        hashes = {p.name: _sha256(p) for p in sorted(temporary.iterdir())}
        content = {
            "step": state.step,
            "emas": list(state.emas),
            "curricula": state.curricula,
            "cells": state.cells.tolist(),
            "sha256": hashes,
        }
        (temporary / "state.json").write_text(json.dumps(content, indent=1))
        for path in (*temporary.iterdir(), temporary):
            sync(path)
        if final.exists():  # the same step again, after a damaged copy was refused
            shutil.rmtree(final)
        os.replace(temporary, final)
        sync(self.folder)
        self._prune()
        return final

    def restore(self, state: TrainState, step: int | None = None) -> bool:
        """Load a checkpoint into `state`: that of `step`, or the newest intact one; return False if there is none.

        A damaged newest one is named in a warning and the one before is used.

        Raises:
            DamagedCheckpointError: there are checkpoints, but none is intact, or not that of `step`.
            ValueError: there is none of that step, or it belongs to another model.
        """
        steps = self.steps()
        if step is not None:
            self._load(state, self.verify(step))
            return True
        for step in reversed(steps):
            try:
                content = self.verify(step)
            except DamagedCheckpointError as error:
                warnings.warn(f"{error}; trying the checkpoint before it", stacklevel=2)
                continue
            self._load(state, content)
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
            name = weights_file(content["emas"], which)
            return int(content["step"]), load_file(self.path(candidate) / name)
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

    def _load(self, state: TrainState, content: dict[str, Any]) -> None:
        folder = self.path(content["step"])
        weights = load_file(folder / "model.safetensors")
        check_model(folder, state, weights)
        load_weights(state.model, weights)
        device = next(state.model.parameters()).device
        for decay, ema in state.emas.items():
            for name, weight in load_file(folder / f"ema_{decay}.safetensors").items():
                ema[name].copy_(weight.to(device))
        state.optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True, map_location=device))
        state.step, state.curricula = content["step"], content["curricula"]
        state.cells = torch.tensor(content["cells"], dtype=torch.float64)  # JSON keeps every digit

    def _prune(self) -> None:
        for step in self.steps()[: -self.keep]:
            shutil.rmtree(self.path(step))
        for leftover in self.folder.glob(".step_*"):  # of a process that was killed while it wrote
            shutil.rmtree(leftover, ignore_errors=True)


def weights_file(emas: list[str], which: str) -> str:
    """Return the name of the file of weights: "model", "ema" (the first average) or a decay such as "0.999"."""
    decay = emas[0] if which == "ema" else which
    if which != "model" and decay not in emas:
        raise invalid("weights", which, f"model, ema or one of {emas}", "choose a recorded average")
    return "model.safetensors" if which == "model" else f"ema_{decay}.safetensors"


def check_model(folder: Path, state: TrainState, weights: Weights) -> None:
    """Refuse weights of another model than the state's."""
    expected = {name: tuple(p.shape) for name, p in state.model.named_parameters()}
    there = {name: tuple(weight.shape) for name, weight in weights.items()}
    if there != expected:
        differing = sorted(name for name in {*there, *expected} if there.get(name) != expected.get(name))
        name = differing[0]
        received = f"{len(differing)} tensors that differ, such as {name} {there.get(name, 'missing')}"
        allowed = f"weights of this config's model ({name} {expected.get(name, 'absent')})"
        raise invalid(f"checkpoint {folder}", received, allowed, "use the checkpoints of a run of this config")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
