"""Read the netCDF-4 files this room writes, straight from HDF5.

xarray's own reader takes 4 to 5 ms a variable, most of it in looking things up again and again: minutes for a sweep.
This one reads the subset of netCDF-4 that xarray writes for us; a test holds it to `xarray.open_groups` as its twin.
Our files also say in one attribute what they consist of, because most of the remaining time went into looking up the
dimensions and attributes of each variable. Files without it are read the long way, with xarray's CF decoding.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np
import xarray as xr

from dynamics.store.inspection import LONGEST, texts_at_once

_HIDDEN = frozenset(
    (
        "consolidated",
        "CLASS",
        "NAME",
        "REFERENCE_LIST",
        "DIMENSION_LIST",
        "_Encoding",
        "_Netcdf4Dimid",
        "_Netcdf4Coordinates",
        "_NCProperties",
    )
)
_BARE_DIMENSION = b"This is a netCDF dimension but not a netCDF variable"


def read(file: Any, arrays: Mapping[str, Mapping[str, Any]]) -> dict[str, xr.Dataset]:
    """Return every group's dataset in memory, by its path ("/" is the root); times are not decoded.

    Args:
        file: An open `h5py.File`.
        arrays: What may be read of it, see `inspected`.

    Raises:
        Exception: Of whatever kind the damage causes.
    """
    texts = _Texts(texts_at_once(file.id.get_filesize()))
    known = file.attrs.get(CONSOLIDATED)
    if known is not None:
        groups = {name: _described(arrays[name], one, texts) for name, one in json.loads(known).items()}
        return {"/": xr.Dataset(attrs=_attrs(file)), **groups}
    return {name: _read_group(file[name], of_group, texts) for name, of_group in arrays.items()}


CONSOLIDATED = "consolidated"
"""Root attribute with what all groups consist of, so that a reader looks up arrays and nothing else (zarr's word)."""
DECODED = 2**16
"""Packed strings that are decoded at once."""
LARGEST = 60_000
"""Bytes that HDF5 takes in an attribute beside an object; larger files go without and are read the long way."""


def consolidated(groups: Mapping[str, xr.Dataset]) -> dict[str, str]:
    """Return an attribute that says what groups consist of: each variable's dimensions, dtype and attributes.

    Returns:
        Nothing where that would be too long, or an attribute is an array.
    """
    content = {name: _description(dataset) for name, dataset in groups.items() if name != "/"}
    try:
        text = json.dumps(content, separators=(",", ":"))
    except TypeError:
        return {}
    return {CONSOLIDATED: text} if len(text.encode()) < LARGEST else {}


def _description(dataset: xr.Dataset) -> list[Any]:
    variables = {
        str(name): [variable.dims, "str" if variable.dtype.kind in "OUT" else variable.dtype.str, variable.attrs]
        for name, variable in dataset.variables.items()
    }
    return [variables, [str(name) for name in dataset.coords], dataset.attrs]


def _described(arrays: Mapping[str, Any], description: list[Any], texts: "_Texts") -> xr.Dataset:
    """Read a group of which everything but the numbers is known."""
    described, coords, attrs = description
    variables = {}
    for name, (dims, dtype, own) in described.items():
        item = arrays[name]
        if dtype == "str":
            values = texts.read(item)
        else:
            if np.dtype(dtype).kind not in "biufc" or np.dtype(dtype).itemsize != item.dtype.itemsize:
                raise ValueError(f"{item.name} of {item.dtype}, described as {dtype}")
            values = np.asarray(item[()]).astype(dtype, copy=False)
        variables[name] = xr.Variable(dims, values, own)
    return xr.Dataset(variables, attrs=attrs).set_coords(coords)


def _read_group(group: Any, arrays: Mapping[str, Any], texts: "_Texts") -> xr.Dataset:
    variables = {}
    for name, item in arrays.items():
        if not bytes(item.attrs.get("NAME", b"")).startswith(_BARE_DIMENSION):
            variables[name] = xr.Variable(_dims(name, item), _values(item, texts), _attrs(item))
    dataset = xr.decode_cf(xr.Dataset(variables, attrs=_attrs(group)), decode_times=False)
    return dataset.load().drop_encoding()


def _dims(name: str, item: Any) -> tuple[str, ...]:
    """Return dimension names: of the scales a variable refers to, or the scale's own."""
    if "DIMENSION_LIST" in item.attrs:
        names = tuple(item.file[scales[0]].name.rsplit("/", 1)[1] for scales in item.attrs["DIMENSION_LIST"])
        return names[:-1] if item.dtype == "S1" else names
    return (name,) if "CLASS" in item.attrs else ()


def _values(item: Any, texts: "_Texts") -> np.ndarray[Any, Any]:
    if h5py.check_string_dtype(item.dtype) is not None:
        return texts.read(item)
    return np.asarray(item[()])


class _Texts:
    """Reads arrays of strings, as long as all of a file's together stay within LONGEST."""

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.letters = 0

    def read(self, item: Any) -> np.ndarray[Any, Any]:
        """Read an array in slices: a few bytes can refer to one long string again and again."""
        if item.dtype == "S1":  # one letter a value, as `run_file` packs them
            self.letters += item.size
            if self.letters > LONGEST:
                raise ValueError(f"{item.name}: {item.size} letters")
            packed = np.ascontiguousarray(item[()]).view(f"S{item.shape[-1]}")
            flat = packed.ravel()
            starts = range(0, max(1, len(flat)), DECODED)  # numpy makes a Python string of each
            parts = [np.char.decode(flat[start : start + DECODED], "utf-8") for start in starts]
            return np.concatenate(parts).reshape(packed.shape[:-1])
        values, longest = np.empty(item.shape, object), 0
        for part in _parts(item.shape, self.at_once):
            values[part] = item.asstr()[part]
            texts = np.ravel(values[part])
            lengths = [len(text) for text in texts]
            self.letters += sum(lengths)
            longest = max(longest, *lengths, 0)
            if max(self.letters, longest * values.size) > LONGEST:  # numpy gives every string the room of the longest
                raise ValueError(f"{item.name}: {values.size} strings of up to {longest} letters")
        return values.astype(str)


def _parts(shape: tuple[int, ...], most: int, within: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Cut an array into slices of at most so many values."""
    if not shape:
        yield within
    elif (row := math.prod(shape[1:])) > most:
        for index in range(shape[0]):
            yield from _parts(shape[1:], most, (*within, index))
    else:
        rows = most // max(1, row)
        for start in range(0, shape[0], rows):
            yield (*within, slice(start, start + rows))


def _attrs(item: Any) -> dict[str, Any]:
    return {name: plain_attribute(item.attrs[name]) for name in item.attrs if name not in _HIDDEN}


def plain_attribute(value: Any) -> Any:
    """Return an attribute as xarray would: single values as such, strings decoded and in lists."""
    if isinstance(value, h5py.Empty):
        return "" if value.dtype.kind in "SO" else np.array([], dtype=value.dtype)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        return str(value[0]) if value.size == 1 else [str(entry) for entry in value]
    return value[0] if isinstance(value, np.ndarray) and value.size == 1 else value
