"""Results: one atomic netCDF file a run, a log while it runs, and many runs merged into one labelled tree."""

import os
from pathlib import Path

import xarray as xr

from dynamics.options import invalid
from dynamics.store.log import RunLog, measurement_datasets, training_dataset
from dynamics.store.merge_runs import collect, merge
from dynamics.store.origin import provenance
from dynamics.store.protocols import group_of_protocol, last_step_of, protocol_groups, protocol_name
from dynamics.store.results_tree import Results
from dynamics.store.run_file import add_step, read_groups, read_run, update_run, write_run, write_tree
from dynamics.store.schema import SCHEMA_VERSION, check, encode_attr
from dynamics.store.slimming import slim

__all__ = [
    "SCHEMA_VERSION",
    "Results",
    "RunLog",
    "add_step",
    "check",
    "collect",
    "encode_attr",
    "group_of_protocol",
    "last_step_of",
    "measurement_datasets",
    "merge",
    "open_results",
    "protocol_groups",
    "protocol_name",
    "provenance",
    "read_groups",
    "read_run",
    "slim",
    "training_dataset",
    "update_run",
    "write_run",
    "write_tree",
]


def open_results(path: str | os.PathLike[str]) -> Results:
    """Open results wherever they are.

    Args:
        path: A netCDF file (one run or merged), a run's folder (`run.nc` in it), a folder with one merged file at its
            top (`merged.nc`, or the only `.nc`), or a folder of run folders, which are merged now (see `collect`).

    Returns:
        A tree of groups, fully loaded, that prints what it holds; merged groups have the dimension `run`.

    Raises:
        ValueError: If there is nothing there, or a file is damaged, foreign or of a newer schema.

    Example:
        >>> open_results("results/no_such_study")
        Traceback (most recent call last):
        ...
        ValueError: path: received 'results/no_such_study'; allowed: an existing file or folder; remedy: check the path
    """
    return Results.of(_opened(path))


def _opened(path: str | os.PathLike[str]) -> xr.DataTree:
    place = Path(path)
    if place.is_file():
        return read_run(place)
    if not place.is_dir():
        raise invalid("path", str(path), "an existing file or folder", "check the path")
    for name in ("run.nc", "merged.nc"):
        if (place / name).is_file():
            return read_run(place / name)
    files = sorted(entry for entry in place.glob("*.nc") if not entry.name.startswith("."))
    if len(files) == 1:
        return read_run(files[0])
    if files:
        names = ", ".join(file.name for file in files)
        raise invalid(
            "path", str(path), f"a folder with one .nc file, not {names}", "open one of the files by its path"
        )
    runs = sorted(place.glob("*/run.nc"))
    if not runs:
        allowed = "a folder with run.nc, merged.nc or */run.nc"
        raise invalid("path", str(path), allowed, "wait for a run to finish, or check the path")
    return collect(runs)
