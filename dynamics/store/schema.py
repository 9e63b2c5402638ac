"""What a stored dataset looks like: every variable says its unit and what it is, every file says its version."""

import json
from collections.abc import Mapping
from os import PathLike, fspath

import numpy as np
import xarray as xr

from dynamics.options import invalid

SCHEMA_VERSION = 1
"""Written into every file. Raise it when a reader of the old files would misread the new ones."""

PROVENANCE = (
    "run_id",
    "config_json",
    "seed",
    "git_sha",
    "dirty",
    "diff_hash",
    "host",
    "versions",
    "started",
    "seconds",
)
"""Names every merged group carries as coordinates on `run`; a variable of a single run cannot take them."""


def check(dataset: xr.Dataset, group: str, *, merged: bool = False) -> None:
    """Refuse a dataset that could not be stored, or not be understood when it is read again.

    Args:
        dataset: Any dataset. Its data variables need the attributes `units` and `long_name`, non-empty strings.
        group: The group it belongs to, for the error's text.
        merged: Whether this is the merger of several runs, where the provenance names are coordinates.

    Raises:
        ValueError: Naming the group and the variable.

    Example:
        >>> check(xr.Dataset({"loss": ("step", [1.0])}), "training")
        Traceback (most recent call last):
        ...
        ValueError: training/loss.units: received None; allowed: a non-empty string; remedy: set attrs['units']
    """
    if not group or "/" in group or group == ".":
        raise invalid("group", group, "a name without '/'", "use one flat group such as 'training' or 'gaps'")
    _check_attrs(dataset.attrs, group)
    for key in {*dataset.variables, *dataset.dims}:
        _check_name(key, group, merged)
    for key, variable in dataset.variables.items():
        name = f"{group}/{key}"
        _check_attrs(variable.attrs, name)
        texts = variable.dtype.kind == "O" and all(isinstance(value, str) for value in variable.values.flat)
        if variable.dtype.kind not in "biufcUT" and not texts:
            raise invalid(name, variable.dtype, "numbers, booleans or strings", "convert it, dates to ISO 8601 strings")
    for key, array in dataset.data_vars.items():
        for attr in ("units", "long_name"):
            value = array.attrs.get(attr)
            if not isinstance(value, str) or not value:
                raise invalid(f"{group}/{key}.{attr}", value, "a non-empty string", f"set attrs[{attr!r}]")


def encode_attr(name: str, value: object) -> object:
    """Turn one attribute into something netCDF takes; what it takes already stays as it is.

    Args:
        name: The attribute's name, for the error's text.
        value: None becomes "", a bool 0 or 1, a path its string, a dict or mixed list its JSON.

    Raises:
        ValueError: If the value is of no such kind.

    Example:
        >>> encode_attr("amp", True), encode_attr("parent", None), encode_attr("law", {"p": 0.75})
        (1, '', '{"p": 0.75}')
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None:
        return ""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, PathLike):
        return str(fspath(value))
    if isinstance(value, str) or _number(value):
        return value
    if isinstance(value, int):  # HDF5 has no such long ones
        return str(value)
    if isinstance(value, list | tuple) and (all(isinstance(v, str) for v in value) or all(map(_number, value))):
        return list(value)
    if isinstance(value, Mapping | list | tuple):
        try:
            return json.dumps(value)
        except TypeError as error:
            raise _bad_attr(name, value) from error
    raise _bad_attr(name, value)


def encoded(dataset: xr.Dataset) -> xr.Dataset:
    """Copy a dataset (sharing its data) with every attribute encoded and no trace of the file it came from."""
    copy = dataset.drop_encoding()
    copy.attrs = {str(key): encode_attr(str(key), value) for key, value in dataset.attrs.items()}
    for name, variable in copy.variables.items():
        variable.attrs = {str(key): encode_attr(f"{name}.{key}", value) for key, value in variable.attrs.items()}
    return copy


def _number(value: object) -> bool:
    return isinstance(value, float) or (type(value) is int and -(2**63) <= value < 2**63)


def _bad_attr(name: str, value: object) -> ValueError:
    allowed = "str, int, float, bool, None, path, or lists and dicts of them"
    return invalid(f"attribute {name!r}", value, allowed, "convert it to a string or a number")


def _check_name(key: object, group: str, merged: bool) -> None:
    if not isinstance(key, str) or not key or "/" in key or any(letter.isspace() for letter in key):
        raise invalid(f"name in {group!r}", key, "a string without '/' and spaces", "rename the variable or dimension")
    if not merged and (key == "run" or key in PROVENANCE):
        allowed = f"any name but run, {', '.join(PROVENANCE)}"
        raise invalid(f"name in {group!r}", key, allowed, "rename it: merged runs have a coordinate of that name")


def _check_attrs(attrs: Mapping[object, object], owner: str) -> None:
    for key, value in attrs.items():
        if value is None or isinstance(value, bool | np.bool_ | Mapping):
            remedy = "convert it with dynamics.store.encode_attr"
            raise invalid(f"{owner}.{key}", value, "an attribute netCDF can hold, not dict, None or bool", remedy)
