"""Files of named tensors (safetensors), of which each holds a tensor as a whole or a range of its rows.

A row is an index of the first dimension. Tensors are written one after another, and the hash is taken on the way: no
more than one is copied at a time. A range is read alone, from whichever files hold it.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dynamics.options import invalid
from dynamics.training.distributed import first_row, is_split, local

ROWS = "rows"
"""Key of the metadata of a file with ranges: JSON, by name the first row and the number of rows of the whole."""
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What the format calls each kind of number."""


def write(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write this rank's part of each tensor to a file, put it on the disk and return the file's sha256."""
    tensors = dict(sorted(tensors.items()))  # equal tensors are equal files
    header: dict[str, object] = {}
    end = 0
    for name, tensor in tensors.items():
        part = local(tensor)
        offsets = [end, end := end + part.nbytes]
        header[name] = {"dtype": DTYPES[part.dtype], "shape": list(part.shape), "data_offsets": offsets}
    if rows := {name: [first_row(tensor), len(tensor)] for name, tensor in tensors.items() if is_split(tensor)}:
        header["__metadata__"] = {ROWS: json.dumps(rows)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        start: list[bytes | memoryview] = [len(text).to_bytes(8, "little"), text]
        for content in chain(start, map(_bytes, tensors.values())):
            digest.update(content)
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(local(tensor.detach()).cpu().contiguous().flatten().view(torch.uint8).numpy())


@dataclass
class Shards:
    """Tensors by name, put together from files or from memory as far as somebody asks for them."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Of the whole tensors."""
    _parts: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    """By name and first row: tensors, or what safetensors gives in their place, which reads what is sliced from it."""

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return those of whole tensors."""
        return cls({n: tuple(t.shape) for n, t in tensors.items()}, {n: {0: t} for n, t in tensors.items()})

    @classmethod
    def open(cls, paths: Iterable[Path]) -> Self:
        """Return those of files that hold each row once.

        Raises:
            ValueError: A file is no such one.
        """
        out = cls()
        for path in paths:
            try:
                file: Any = safe_open(path, framework="pt")
                rows = json.loads((file.metadata() or {}).get(ROWS, "{}"))
                if not isinstance(rows, dict):
                    raise ValueError(f"{ROWS} is {rows!r}")
            except (SafetensorError, ValueError) as error:
                raise invalid(str(path), str(error), "safetensors as a checkpoint has them", "restore it") from error
            for name in file.keys():  # noqa: SIM118  (it is no dictionary)
                shape = tuple(file.get_slice(name).get_shape())
                first, total = rows.get(name, (0, shape[0] if shape else 0))
                out.shapes[name] = (total, *shape[1:]) if shape else ()
                out._parts.setdefault(name, {})[first] = file.get_slice(name) if shape else file.get_tensor(name)
        return out

    def whole(self, name: str) -> Tensor:
        """Return a tensor as a whole."""
        shape = self.shapes[name]
        return self.rows(name, 0, shape[0]) if shape else self._parts[name][0]

    def rows(self, name: str, begin: int, end: int) -> Tensor:
        """Return rows begin <= i < end of a tensor."""
        parts = sorted(self._parts[name].items())
        ends = [*(first for first, _ in parts[1:]), self.shapes[name][0]]
        found = [
            part[max(begin - first, 0) : min(end, last) - first]
            for (first, part), last in zip(parts, ends, strict=True)
            if max(begin, first) < min(end, last)
        ]
        if not found:
            return parts[0][1][:0]
        return torch.cat(found) if len(found) > 1 else found[0]

    def fill(self, name: str, target: Tensor) -> None:
        """Copy into a tensor, or into this rank's part of a split one."""
        own = local(target.detach())
        if own.dim() == 0:
            own.copy_(self.whole(name))
        elif len(own):
            begin = first_row(target)
            own.copy_(self.rows(name, begin, begin + len(own)))
