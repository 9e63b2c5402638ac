"""Read the netCDF-4 files this room writes, straight from HDF5.

xarray's own reader takes 4 to 5 ms a variable, most of it in looking things up again and again: minutes for a sweep.
This one reads the subset of netCDF-4 that xarray writes for us, four times as fast; a test holds it to
`xarray.open_groups` as its twin. CF decoding (masks, booleans, coordinates) stays xarray's.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

_HIDDEN = frozenset(
    ("CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST", "_Netcdf4Dimid", "_Netcdf4Coordinates", "_NCProperties")
)
_BARE_DIMENSION = b"This is a netCDF dimension but not a netCDF variable"


def read(path: Path) -> dict[str, xr.Dataset]:
    """Return every group's dataset in memory, by its path ("/" is the root); times are not decoded.

    Raises:
        Exception: Of whatever kind the damage causes.
    """
    with h5py.File(path, "r", locking=False) as file:  # files are replaced, never changed: no lock that NFS may refuse
        datasets: dict[str, xr.Dataset] = {}
        pending: list[tuple[str, Any]] = [("/", file)]
        while pending:
            name, group = pending.pop(0)
            datasets[name], children = _read_group(group)
            pending += [(f"{name.rstrip('/')}/{child}", item) for child, item in children.items()]
    return datasets


def _read_group(group: Any) -> tuple[xr.Dataset, dict[str, Any]]:
    variables, children = {}, {}
    for name, item in group.items():
        if isinstance(item, h5py.Group):
            children[name] = item
        elif isinstance(item, h5py.Dataset) and not bytes(item.attrs.get("NAME", b"")).startswith(_BARE_DIMENSION):
            variables[name] = xr.Variable(_dims(name, item), _values(item), _attrs(item))
    dataset = xr.decode_cf(xr.Dataset(variables, attrs=_attrs(group)), decode_times=False)
    return dataset.load().drop_encoding(), children


def _dims(name: str, item: Any) -> tuple[str, ...]:
    """Return dimension names: of the scales a variable refers to, or the scale's own."""
    if "DIMENSION_LIST" in item.attrs:
        return tuple(item.file[scales[0]].name.rsplit("/", 1)[1] for scales in item.attrs["DIMENSION_LIST"])
    return (name,) if "CLASS" in item.attrs else ()


def _values(item: Any) -> np.ndarray[Any, Any]:
    if h5py.check_string_dtype(item.dtype) is not None and item.dtype.kind == "O":
        return np.asarray(item.asstr()[()]).astype(str)
    return np.asarray(item[()])


def _attrs(item: Any) -> dict[str, Any]:
    return {name: _attr(item.attrs[name]) for name in item.attrs if name not in _HIDDEN}


def _attr(value: Any) -> Any:
    """Return an attribute as xarray would: single values as such, strings decoded and in lists."""
    if isinstance(value, h5py.Empty):
        return "" if value.dtype.kind in "SO" else np.array([], dtype=value.dtype)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        return str(value[0]) if value.size == 1 else [str(entry) for entry in value]
    return value[0] if isinstance(value, np.ndarray) and value.size == 1 else value
