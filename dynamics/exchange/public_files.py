"""Files of public repositories, read without executing anything in them."""

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dynamics.options import invalid

PICKLED, SAFE = (".pt", ".pth"), ".safetensors"
_REFUSED = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
)
"""What torch raises on files that are truncated, damaged or not its own."""


def read_tensors(
    path: Path, which: Literal["ema", "model"] | None = None, trained_with: Mapping[str, str] | None = None
) -> tuple[dict[str, Tensor], str]:
    """Return the state dict in a file, and what the file calls it, "" for nothing; no code in it is executed.

    Args:
        path: A .safetensors file, or a .pt or .pth file with a state dict or a training checkpoint of several.
        which: Which one of a training checkpoint; None takes "ema" where there is one, and else "model".
        trained_with: What its arguments must say, where it has some.

    Raises:
        ValueError: The file is missing, of another kind, damaged, or holds anything but tensors, containers, plain
            values and an `argparse.Namespace`; or no such state dict; or it was trained otherwise.
    """
    if not path.is_file() or path.suffix not in (*PICKLED, SAFE):
        received = str(path) if path.is_file() else f"{path}, which is no file"
        raise invalid("checkpoint", received, f"a file that ends in {', '.join((*PICKLED, SAFE))}", "check the path")
    content = _load_safe(path) if path.suffix == SAFE else _load_pickled(path)
    said = content.get("args")
    for option, value in (trained_with or {}).items():
        if isinstance(said, argparse.Namespace) and getattr(said, option, value) != value:
            remedy = "nothing but a velocity of the straight path can be imported"
            raise invalid(
                "checkpoint", f"{path}, trained with {option} {getattr(said, option)}", f"{option} {value}", remedy
            )
    found = [kind for kind in ("ema", "model") if isinstance(content.get(kind), Mapping)]
    if which is not None and which not in found:
        received = f"{which} of {path}, which has {' and '.join(found) or 'one set of weights without a name'}"
        raise invalid("weights", received, ", ".join(found) or "nothing to choose", "leave --weights out")
    name = which or (found[0] if found else "")
    state = content[name] if name else content
    if other := [str(key) for key, value in state.items() if not (isinstance(key, str) and _is_plain(value))]:
        received = f"{path} with other things than tensors: {', '.join(other)}"
        raise invalid("checkpoint", received, "a state dict, or a dictionary with ema or model", "check the file")
    return dict(state), name


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized


def _load_safe(path: Path) -> dict[str, Any]:
    try:
        return load_file(path)
    except (SafetensorError, *_REFUSED) as error:
        remedy = "download it again, or restore it from a copy"
        raise invalid("checkpoint", f"{path} ({error})", "an undamaged safetensors file", remedy) from error


def _load_pickled(path: Path) -> Mapping[str, Any]:
    """Read what torch.save wrote, with the one class that the training checkpoints of these repositories contain."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore", UserWarning)  # torch's on a file that it then refuses: the error says it
            # only files of the newer format can be mapped; an optimiser's moments then never come into memory
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except _REFUSED as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        received = f"{path}, which asks for {asked[1]}" if asked else f"{path} ({type(error).__name__})"
        allowed = "an undamaged file of tensors that torch.save wrote; nothing in a file is executed"
        remedy = (
            "save its state dict alone in the environment that it comes from, if you trust it, or download it again"
        )
        raise invalid("checkpoint", received, allowed, remedy) from error
    if not isinstance(content, Mapping):
        received = f"{path} with a {type(content).__name__}"
        raise invalid("checkpoint", received, "a state dict, or a dictionary with ema or model", "check the file")
    return content
