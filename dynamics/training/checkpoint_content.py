"""What the state.json of a checkpoint, or of a snapshot of its averages, says, and which files it must list."""

from pathlib import Path
from typing import Any

from dynamics.options import invalid
from dynamics.strict_json import unseal

STATE = "state.json"
KEYS = {"step", "emas", "sha256"}
"""What any state.json must hold."""
WHOLE_KEYS = KEYS | {"curricula", "cells"}
"""What that of a checkpoint must hold."""
LATER_KEYS = {"parts", "log", "run_id", "optimizer", "precision"}
"""What it may hold: "optimizer" are settings that earlier versions wrote, and nobody reads."""
OPTIMIZER = "optimizer"
"""Kind of the files of moments."""
CURRICULA = "curricula.safetensors"
"""File of the tensors that curricula remember, by the curriculum's place in the chain and the tensor's name."""
LEGACY = "optimizer.pt"
"""File of moments in checkpoints before there were parts; read where it is listed, no longer written."""


def read_content(folder: Path, step: int, whole: bool = True) -> dict[str, Any]:
    """Read the state.json of a step.

    Args:
        folder: It is in.
        step: It must be of.
        whole: Whether it is a checkpoint's, or that of averages alone.

    Raises:
        FileNotFoundError: There is none.
        ValueError, TypeError: It is not as it was written, or of another checkpoint.
    """
    content = unseal((folder / STATE).read_bytes())
    if problem := _problem(content, step, whole):
        raise ValueError(problem)
    return content


def _problem(content: dict[str, Any], step: int, whole: bool) -> str:
    """Say what is wrong with the content of a state.json; "" if nothing is. Earlier versions gave it no checksum."""
    keys = WHOLE_KEYS if whole else KEYS
    if wrong := keys - content.keys() or content.keys() - keys - LATER_KEYS:
        return f"it is without, or with an unknown, {', '.join(sorted(wrong))}"
    if content["step"] != step:
        return f"it is of step {content['step']}"
    listed, parts = content["sha256"], content.get("parts", 1)
    if not (isinstance(listed, dict) and isinstance(parts, int) and 1 <= parts <= len(listed)):
        return f"it lists no files of {parts} parts"
    kinds = [f"ema_{average}" for average in content["emas"]]
    if whole:
        kinds += ["model", *([OPTIMIZER] if "parts" in content else [])]
    expected = {name for kind in kinds for name in files_of(kind, parts)}
    expected |= {LEGACY} if whole and "parts" not in content else set()
    different = expected ^ (listed.keys() - {CURRICULA})
    return f"it lists other files than it must: {', '.join(sorted(different))}" if different else ""


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
    return files_of("model" if which == "model" else f"ema_{decay}", content.get("parts", 1))


def files_of(kind: str, parts: int) -> list[str]:
    """Return the names of the files of one kind of tensors, by rank."""
    if parts == 1:
        return [f"{kind}.safetensors"]
    return [f"{kind}.{part + 1:05d}-of-{parts:05d}.safetensors" for part in range(parts)]
