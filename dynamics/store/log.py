"""A run's diary: one JSON line a record while the run runs, labelled datasets when it ends."""

import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from dynamics import atomic
from dynamics.options import invalid
from dynamics.store.join import column, join
from dynamics.strict_json import dumps, loads

Record = dict[str, Any]
"""`group` (str), `step` (int), and numbers, strings, lists of numbers, or one `dataset`."""

CRC = "#crc"
"""Last key of each line: CRC-32, in hexadecimal, of the line without it and of all lines before it.

A digit that changed, or a line that is gone, shows at its line; lines that are gone from the end show where a
checkpoint says what the last value was. Lines of earlier versions have no such key, and none follows one that has it.
"""
_CHECKED = re.compile(rb'(\{.*), "%b": "([0-9a-f]{8})"\}' % CRC.encode(), re.DOTALL)


class RunLog:
    """JSON lines that survive the death of the process that writes them, and that show when they change.

    One writer a file.

    Args:
        path: The file, by custom `log.jsonl` in the run's folder; made at the first record.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, RunLog(f"{folder}/log.jsonl") as log:
        ...     log.append({"group": "training", "step": 1, "raw_v": 3.5})
        ...     log.append({"group": "training", "step": 2, "raw_v": 3.0})
        ...     log.rewind(1)
        ...     log.read()
        [{'group': 'training', 'step': 1, 'raw_v': 3.5}]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(path))
        self._descriptor: int | None = None
        self._crc = 0

    def append(self, record: Mapping[str, object]) -> None:
        """Add a record; it is with the operating system when this returns, so that kill -9 cannot take it.

        Args:
            record: With `group` (str) and `step` (int). Floats are written exactly, also those that are not finite;
                numpy and torch values become numbers and lists; an `xarray.Dataset` becomes its dict with dtypes.

        Raises:
            ValueError: If group or step is missing or a value has no JSON form; or the file was removed, or changed
                before this first record.
        """
        if not isinstance(record.get("group"), str):
            raise invalid("record['group']", record.get("group"), "a group's name", "add it, for example 'training'")
        if not isinstance(record.get("step"), int | np.integer) or isinstance(record["step"], bool):
            raise invalid("record['step']", record.get("step"), "an int", "add the optimizer step of the record")
        try:
            body = dumps(record, default=_plain).encode()
        except TypeError as error:
            allowed = "values with a JSON form"
            raise invalid(f"record of {record['group']!r}", error.args[0], allowed, "convert the value") from error
        if self._descriptor is None:
            self._descriptor = self._open()
        line, crc = _checked(body, self._crc)
        while line:  # one write as a rule; a full disk or a signal may shorten it
            line = line[os.write(self._descriptor, line) :]
        self._crc = crc

    def read(self) -> list[Record]:
        """Return all whole records in file order; a last line cut short by a kill is left out.

        Raises:
            ValueError: If any other line is damaged, naming file and line; or this writer's file was changed.
        """
        lines = self._lines()
        if self._descriptor is not None and self._crc != (lines[-1].crc if lines else 0):
            raise self._changed()
        return [line.record for line in lines]

    @property
    def mark(self) -> str:
        """Where this writer is, for `mark_at` to be compared with."""
        return f"{self._crc:08x}"

    def mark_at(self, step: int) -> str:
        """Return what the mark was after the last record of a step, or of those before it.

        Raises:
            ValueError: As `read`.
        """
        return f"{next((line.crc for line in reversed(self._lines()) if line.record['step'] <= step), 0):08x}"

    def rewind(self, step: int) -> None:
        """Drop every record after `step` and a torn last line, atomically: a kill leaves the old or the new file."""
        self.close()
        if not self.path.exists():
            return
        kept, crc = [], 0
        for old in self._lines():
            if old.record["step"] <= step:
                line, crc = _checked(old.body, crc)
                kept.append(line)
        with atomic.replacing(self.path) as temporary:
            temporary.write_bytes(b"".join(kept))

    def sync(self) -> None:
        """Have every record on the disk when this returns, so that a power cut cannot take it either.

        Raises:
            ValueError: The file is gone, or another has taken its place.
        """
        if self._descriptor is not None:
            os.fsync(self._descriptor)
            if not (self.path.exists() and os.path.samestat(os.fstat(self._descriptor), self.path.stat())):
                raise self._changed()

    def close(self) -> None:
        """Close the file; the next record opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> int:
        """Open for appending behind the last whole record: a torn line must not swallow the next one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = self._lines()
        self._crc = lines[-1].crc if lines else 0
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            if _parse(content[whole:]) is None:
                os.ftruncate(descriptor, whole)
            else:
                os.write(descriptor, b"\n")
        return descriptor

    def _lines(self) -> list["_Line"]:
        if not self.path.exists():
            return []
        texts = self.path.read_bytes().split(b"\n")
        lines: list[_Line] = []
        crc, checked = 0, False
        for number, text in enumerate(texts, start=1):
            record = _parse(text)
            if record is None and number == len(texts):
                break
            match = _CHECKED.fullmatch(text)
            body = match[1] + b"}" if match else text
            crc = zlib.crc32(body, crc)
            if record is None or (checked and not match) or (match and int(match[2], 16) != crc):
                before = lines[-1].record["step"] if lines else 0
                allowed = "a JSON record with group and step, unchanged, behind the line that it was written behind"
                remedy = (
                    "restore the file from a copy; or, to repeat what follows, remove this line, all after it, and the "
                    f"checkpoints after step {before}"
                )
                shown = text[:60].decode(errors="replace")
                raise invalid(f"{self.path}, line {number}", shown, allowed, remedy)
            record.pop(CRC, None)
            lines.append(_Line(record, body, crc))
            checked = checked or match is not None
        return lines

    def _changed(self) -> ValueError:
        allowed = "a log that nobody else touches while the run writes it"
        remedy = "restore the run's folder, and the same command continues; or begin anew in another one"
        return invalid(str(self.path), "a file that was removed or changed", allowed, remedy)


class _Line(NamedTuple):
    record: Record
    body: bytes
    """The line without its CRC."""
    crc: int


def _checked(body: bytes, before: int) -> tuple[bytes, int]:
    """Return a record's line, given the CRC of the line before it, and its own CRC."""
    crc = zlib.crc32(body, before)
    return body[:-1] + f', "{CRC}": "{crc:08x}"}}\n'.encode(), crc


def _parse(line: bytes) -> Record | None:
    """Return a line's record, None if it is damaged. No prefix of a record is itself a record: '}' ends it."""
    try:
        record = loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "group" in record and isinstance(record.get("step"), int) else None


def _plain(value: object) -> object:
    if isinstance(value, xr.Dataset):
        content = value.to_dict(data="list")
        for section in ("coords", "data_vars"):
            for name, entry in content[section].items():
                entry["dtype"] = str(value[name].dtype)
        return content
    tolist = getattr(value, "tolist", None)
    if callable(tolist):
        return tolist()
    raise TypeError(f"{type(value).__name__} {value!r}")


def training_dataset(
    records: Iterable[Record],
    units: Mapping[str, tuple[str, str]],
    dims: Mapping[str, tuple[str, Sequence[Any]]] | None = None,
) -> xr.Dataset:
    """Label the records of the group `training`.

    Args:
        records: Any records; those of other groups are passed over.
        units: Unit and long name of every recorded quantity.
        dims: For each list-valued quantity its second dimension and that dimension's coordinate values.

    Returns:
        Variables [step] or [step, dim], sorted by step. What a step did not record is NaN ("" for strings); what no
        step recorded is left out.

    Raises:
        ValueError: Naming the quantity, if it has no unit, or its values do not fit its dimensions; naming the step
            recorded twice.

    Example:
        >>> rows = [{"group": "training", "step": s, "raw_v": 1.0 / s, "gap": [s, 2.0]} for s in (1, 2)]
        >>> units = {"raw_v": ("1", "loss of v"), "gap": ("1", "loss per gap bin")}
        >>> dict(training_dataset(rows, units, {"gap": ("bin", [0.1, 0.3])}).sizes)
        {'step': 2, 'bin': 2}
    """
    dims = dims or {}
    rows = _by_step([record for record in records if record["group"] == "training"], "training")
    step = ("step", np.array(list(rows), dtype=np.int64), {"units": "step", "long_name": "optimizer step"})
    dataset = xr.Dataset(coords={"step": step})
    names = dict.fromkeys(name for row in rows.values() for name in row if name not in ("group", "step"))
    for name in names:
        if name not in units:
            raise invalid(f"training/{name}", None, "a unit and a long name", f"add {name!r} to units")
        attrs = dict(zip(("units", "long_name"), units[name], strict=True))
        values = {number: row.get(name) for number, row in rows.items()}
        if name not in dims:
            dataset[name] = ("step", _column(name, values), attrs)
            continue
        dim, labels = dims[name]
        if dim in dataset.coords and list(dataset.coords[dim].values) != list(labels):
            raise invalid(f"dims[{name!r}]", labels, "one set of values a dimension", f"rename the dimension {dim!r}")
        dataset = dataset.assign_coords({dim: list(labels)})
        dataset[name] = (("step", dim), _table(name, values, len(labels)), attrs)
    return dataset


def measurement_datasets(records: Iterable[Record]) -> dict[str, xr.Dataset]:
    """Concatenate the datasets among the records along `step`, one result a group.

    Args:
        records: Any records; those without `dataset` are passed over.

    Returns:
        Datasets by group, each variable [step, ...], sorted by step; coordinates and dtypes as measured, attributes
        as first measured (plain `to_dict(data="list")` entries carry no dtype: lists of floats become float64).

    Raises:
        ValueError: Naming the group and the step measured twice, or the group whose measurements do not fit together.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        if "dataset" in record:
            groups.setdefault(record["group"], []).append(record)
    results = {}
    for group, members in groups.items():
        rows = _by_step(members, group)
        step = xr.DataArray(
            list(rows), dims="step", name="step", attrs={"units": "step", "long_name": "optimizer step"}
        )
        try:
            results[group] = join([_dataset(row["dataset"]) for row in rows.values()], step, "override")
        except ValueError as error:
            remedy = f"give dimensions that change a coordinate ({error})"
            raise invalid(f"measurements of {group!r}", list(rows), "datasets that fit together", remedy) from error
    return results


def _by_step(records: Iterable[Record], group: str) -> dict[int, Record]:
    rows: dict[int, Record] = {}
    for record in sorted(records, key=lambda record: int(record["step"])):
        if record["step"] in rows:
            remedy = "call RunLog.rewind with the checkpoint's step before resuming"
            raise invalid(f"step of {group!r}", record["step"], "every step once", remedy)
        rows[record["step"]] = record
    return rows


def _column(name: str, values: Mapping[int, object]) -> np.ndarray[Any, Any]:
    texts = any(isinstance(value, str) for value in values.values())
    for step, value in values.items():
        if value is not None and not isinstance(value, str if texts else bool | int | float):
            kind = "a string, as at the other steps" if texts else "a number"
            raise invalid(f"training/{name} at step {step}", value, kind, "name a list's dimension in dims")
    return column(list(values.values()))


def _table(name: str, values: Mapping[int, object], width: int) -> np.ndarray[Any, Any]:
    for step, value in values.items():
        fits = isinstance(value, list) and len(value) == width and all(isinstance(v, bool | int | float) for v in value)
        if value is not None and not fits:
            raise invalid(f"training/{name} at step {step}", value, f"{width} numbers", "match the values of dims")
    return np.array([[np.nan] * width if value is None else value for value in values.values()])


def _dataset(content: Mapping[str, Any]) -> xr.Dataset:
    """Rebuild a dataset from its dict; `Dataset.from_dict` forgets dtypes and the shape of empty arrays."""

    def variable(entry: Mapping[str, Any]) -> xr.Variable:
        shape = [content["dims"][dim] for dim in entry["dims"]]
        values = np.asarray(entry["data"], dtype=entry.get("dtype")).reshape(shape)
        return xr.Variable(entry["dims"], values, entry["attrs"])

    coords = {name: variable(entry) for name, entry in content["coords"].items() if name != "step"}
    variables = {name: variable(entry) for name, entry in content["data_vars"].items()}
    return xr.Dataset(variables, coords, content["attrs"])
