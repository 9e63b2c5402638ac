"""One run is one netCDF file with groups, replaced as a whole: a reader sees the old file or the new one."""

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

from dynamics import atomic
from dynamics.options import invalid
from dynamics.store import netcdf
from dynamics.store.checksum import SIGNATURE, checked, checksummed
from dynamics.store.inspection import ForeignContentError, inspect_attributes, inspected
from dynamics.store.join import join
from dynamics.store.run_config import check_config_beside
from dynamics.store.schema import SCHEMA_VERSION, check, encode_attr, encoded

COMPRESS_FROM = 64 * 1024
"""Arrays of at least so many bytes are compressed."""
SMALL_FROM = 4 * 1024
"""The same in a merged file made small (`slim`)."""


def write_run(path: str | os.PathLike[str], groups: Mapping[str, xr.Dataset], attrs: Mapping[str, object]) -> None:
    """Write a run's file, or replace it as a whole.

    The file is built in memory and written in one go. A checksum over all of it lies behind its end, where other
    programs pass over it, so that damage is an error when it is read.

    Args:
        path: The file, by custom `run.nc` in the run's folder; the folder is made if need be.
        groups: Datasets by group name. See `schema.check` for what they need; their attributes are encoded.
        attrs: The file's attributes: provenance and what else describes the run. `schema_version` is added.

    Raises:
        ValueError: If a dataset does not keep to the schema; nothing is written then.

    Example:
        >>> import tempfile
        >>> loss = xr.Variable("step", [0.9, 0.5], {"units": "1", "long_name": "loss"})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_run(f"{folder}/run.nc", {"training": xr.Dataset({"loss": loss})}, {"run_id": "a", "seed": 0})
        ...     tree = read_run(f"{folder}/run.nc")
        >>> tree["training/loss"].values, tree.attrs["run_id"]
        (array([0.9, 0.5]), 'a')
    """
    target = _target(path)
    tree = _run_tree(groups, attrs)
    with atomic.locked(target):
        _write(target, tree)


def update_run(
    path: str | os.PathLike[str], group: str, dataset: xr.Dataset, attrs: Mapping[str, object] | None = None
) -> None:
    """Replace or add one group of a run's file and keep all the others, also while others update theirs.

    Args:
        path: An existing run file.
        group: The group to replace.
        dataset: Its new content; see `schema.check`.
        attrs: File attributes to set; the others stay.

    Raises:
        ValueError: If the file is missing, damaged or foreign, or the dataset does not keep to the schema.
    """
    with _changing(path, attrs) as groups:
        groups[group] = dataset


def add_step(
    path: str | os.PathLike[str], group: str, dataset: xr.Dataset, step: int, *, replace_group: bool = False
) -> None:
    """Add one step's measurement to the series of a group, in place of an earlier one of that step.

    Args:
        path: An existing run file.
        group: A group with the dimension `step`, or a new one.
        dataset: The measurement, without `step`; see `schema.check`. Labels that not all steps have are joined: NaN.
        step: Optimizer step of the measurement.
        replace_group: Drop every earlier step of the group.

    Raises:
        ValueError: As `update_run`, or the measurement does not fit the earlier ones.
    """
    with _changing(path) as groups:
        parts: dict[int, xr.Dataset] = {}
        if group in groups and not replace_group:
            there = groups[group]
            parts = {int(s): there.sel(step=s).drop_vars("step") for s in there.step.values}
        parts[step] = dataset
        attrs = {"units": "step", "long_name": "optimizer step"}
        steps = xr.DataArray(sorted(parts), dims="step", name="step", attrs=attrs)
        groups[group] = join([parts[s] for s in sorted(parts)], steps, "override").assign_attrs(dataset.attrs)


@contextmanager
def _changing(
    path: str | os.PathLike[str], attrs: Mapping[str, object] | None = None
) -> Iterator[dict[str, xr.Dataset]]:
    """Hand out a file's groups by name and write what they have become, alone among all who change the file."""
    target = _present(path)
    with atomic.locked(target):
        groups = read_groups(target)
        kept: dict[str, object] = {str(key): value for key, value in groups.pop("/").attrs.items()}
        kept.update(attrs or {})
        named = {name[1:]: old for name, old in groups.items()}
        yield named
        _write(target, _run_tree(named, kept))


def read_run(path: str | os.PathLike[str]) -> xr.DataTree:
    """Read a run's file, or a merged one, into memory and close it.

    Args:
        path: A file that `write_run` or `write_tree` wrote.

    Returns:
        The tree of its groups, fully loaded, without encodings; numbers and strings among the file's attributes are
        plain Python values.

    Raises:
        ValueError: If the file is missing, damaged, not one of ours, or written by a newer schema.
    """
    return xr.DataTree.from_dict(dict(read_groups(path)))


def write_tree(path: str | os.PathLike[str], tree: xr.DataTree) -> None:
    """Write a tree, by custom the one `collect` returns, as one file: atomically, as `write_run` does.

    Raises:
        ValueError: If a group does not keep to the schema; nothing is written then.
    """
    target = _target(path)
    groups = {}
    for name, dataset in tree.copy().to_dict().items():  # a copy of a branch is a root
        groups[name] = encoded(dataset)
        if name != "/":
            check(groups[name], name[1:], merged=True)
    groups["/"].attrs["schema_version"] = SCHEMA_VERSION
    _write(target, xr.DataTree.from_dict(groups))


def read_groups(path: str | os.PathLike[str], beside: bool = True) -> dict[str, xr.Dataset]:
    """Read a file's groups as `read_run` does, without building the tree: {"/": root, "/training": ...}.

    Args:
        path: As of `read_run`.
        beside: Refuse a run.nc that does not agree with the config.json beside it.
    """
    target = _present(path)
    content, vouched = checked(target)
    if not content.startswith(SIGNATURE):
        received = f"{path}, which {f'begins with {content[:8]!r}' if content else 'is empty'}"
        remedy = "restore it from a copy, or remove it and run again; other programs' files are for xarray"
        raise invalid("path", received, "a netCDF-4 file", remedy)
    try:
        with h5py.File(h5py.h5f.open_file_image(content)) as file:
            inspect_attributes(file, str(path), len(content))
            _check_version(path, netcdf.plain_attribute(file.attrs.get("schema_version")))
            groups = netcdf.read(file, inspected(file, str(path), len(content)))
    except (MemoryError, ForeignContentError):
        raise
    except Exception as error:  # which error a flipped byte causes depends on where it hits
        allowed = "arrays as this toolkit writes them" if vouched else "an undamaged netCDF file"
        remedy = "upgrade h5py" if vouched else "restore it from a copy or run it again"
        raise invalid("path", str(path), allowed, f"{remedy} ({type(error).__name__}: {error})") from error
    root = groups["/"]
    root.attrs = {key: value.item() if isinstance(value, np.generic) else value for key, value in root.attrs.items()}
    if beside:
        check_config_beside(target, root.attrs)
    return groups


def _check_version(path: str | os.PathLike[str], version: object) -> None:
    if not isinstance(version, int | np.integer):
        allowed = "a netCDF file with the attribute schema_version"
        remedy = "open files of other programs with xarray.open_dataset"
        raise ForeignContentError(str(invalid("path", str(path), allowed, remedy)))
    if version > SCHEMA_VERSION:
        remedy = "install the newer toolkit that wrote it"
        raise ForeignContentError(
            str(invalid(f"schema_version of {path}", int(version), f"up to {SCHEMA_VERSION}", remedy))
        )


def _present(path: str | os.PathLike[str]) -> Path:
    target = Path(os.path.abspath(path))
    if not target.is_file():
        raise invalid("path", str(path), "an existing netCDF file", "check the path, or write the run first")
    return target


def _target(path: str | os.PathLike[str]) -> Path:
    target = Path(os.path.abspath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _run_tree(groups: Mapping[str, xr.Dataset], attrs: Mapping[str, object]) -> xr.DataTree:
    datasets = {name: encoded(dataset) for name, dataset in groups.items()}
    for name, dataset in datasets.items():
        check(dataset, name)
    root = xr.Dataset(attrs={name: encode_attr(name, value) for name, value in attrs.items()})
    root.attrs["schema_version"] = SCHEMA_VERSION
    return xr.DataTree.from_dict({"/": root, **{f"/{name}": dataset for name, dataset in datasets.items()}})


def _write(path: Path, tree: xr.DataTree) -> None:
    small = bool(tree.attrs.get("slim"))
    groups = tree.to_dict()
    encoding = {
        name: {str(key): _filters(variable, small) for key, variable in dataset.variables.items()}
        for name, dataset in groups.items()
    }
    tree.attrs |= netcdf.consolidated(groups)
    content = io.BytesIO()  # a full disk would crash HDF5
    tree.to_netcdf(content, engine="h5netcdf", encoding=encoding)
    with atomic.replacing(path) as temporary:
        temporary.write_bytes(checksummed(content.getvalue()))


def _filters(variable: xr.Variable, small: bool) -> dict[str, Any]:
    """Compress large arrays of numbers, and of strings where every byte counts; chunks take 2 kB a variable."""
    if small and variable.dtype.kind in "OUT" and variable.nbytes >= SMALL_FROM:
        return {"dtype": "S1", "zlib": True, "complevel": 6}
    if variable.nbytes < (SMALL_FROM if small else COMPRESS_FROM) or variable.dtype.kind not in "biufc":
        return {}
    return {"zlib": True, "complevel": 6 if small else 1, "shuffle": True}
