"""Many runs in one tree: dimension `run`, with provenance and swept knobs as coordinates on it."""

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import xarray as xr

from dynamics.options import invalid
from dynamics.store.join import column, join
from dynamics.store.protocols import align_protocols
from dynamics.store.run_config import leaves
from dynamics.store.run_file import read_groups
from dynamics.store.schema import PROVENANCE, SCHEMA_VERSION


def collect(run_files: Sequence[str | PathLike[str]], knobs: Mapping[str, Sequence[Any]] | None = None) -> xr.DataTree:
    """Merge runs into one tree whose groups each have the dimension `run`.

    Args:
        run_files: Files that `write_run` wrote; their order is the order on `run`.
        knobs: More coordinates on `run`, one value a file. Every leaf of the configuration whose value differs
            between the runs is one already, by its dotted name such as "training.learning_rate".

    Returns:
        A tree. Each group holds the runs that have it, and has the coordinates `run` (the run_id), every attribute of
        the runs' files (config_json, seed, git_sha, host, ...) and the knobs. Coordinates that differ, such as the
        number of steps, are joined: NaN ("" for strings) where a run has no value, integers and booleans becoming
        floats there. A group attribute that differs becomes the coordinate `<group>.<attribute>`. Evaluations by
        different protocols stay apart: `evaluation` holds the one that most runs had first.

    Raises:
        ValueError: If there is no file, a file is not a run's, two files hold the same run, units differ between
            runs, or a dimension without coordinate has different lengths.
    """
    if not run_files:
        raise invalid("run_files", run_files, "at least one file", "check the folder or the pattern they come from")
    return merge([(path, read_groups(path)) for path in run_files], knobs)


def merge(
    runs: Sequence[tuple[str | PathLike[str], dict[str, xr.Dataset]]],
    knobs: Mapping[str, Sequence[Any]] | None = None,
    wanted: Sequence[str] = (),
) -> xr.DataTree:
    """Merge runs that have been read already; see `collect`.

    Args:
        runs: Each file's path (for errors) and its groups as `read_groups` gives them, which are emptied on the way so
            that no group is in memory twice.
        knobs: As for `collect`.
        wanted: See `align_protocols`.
    """
    align_protocols([content for _, content in runs], wanted)
    paths = [path for path, _ in runs]
    roots: list[dict[str, Any]] = []
    groups: dict[str, dict[int, xr.Dataset]] = {}
    for index, (_, content) in enumerate(runs):
        roots.append({str(key): value for key, value in content.pop("/").attrs.items()})
        for name in list(content):
            groups.setdefault(name[1:], {})[index] = content.pop(name)
    _check_ids(paths, roots)
    columns = _columns(paths, roots, knobs or {})
    tree = {"/": xr.Dataset(attrs={"schema_version": SCHEMA_VERSION})}
    for name in list(groups):
        tree[f"/{name}"] = _merge(name, groups.pop(name), columns)
    return xr.DataTree.from_dict(tree)


def _check_ids(paths: Sequence[str | PathLike[str]], roots: Sequence[Mapping[str, Any]]) -> None:
    seen: dict[str, str | PathLike[str]] = {}
    for path, root in zip(paths, roots, strict=True):
        run_id = root.get("run_id")
        if not isinstance(run_id, str) or not run_id:
            remedy = "collect the runs' own run.nc files, not merged ones"
            raise invalid(f"run_id of {path}", run_id, "a non-empty string", remedy)
        if run_id in seen:
            remedy = "pass each run once, or remove the copy"
            raise invalid("run_id", run_id, f"one file a run, not both {seen[run_id]} and {path}", remedy)
        seen[run_id] = path


def _columns(
    paths: Sequence[str | PathLike[str]], roots: Sequence[Mapping[str, Any]], knobs: Mapping[str, Sequence[Any]]
) -> dict[str, list[Any]]:
    """Return the coordinates on `run` as lists, one value a file: provenance, other attributes, knobs."""
    names = dict.fromkeys([*PROVENANCE, *(name for root in roots for name in root)])
    columns = {name: [root.get(name) for root in roots] for name in names if name != "schema_version"}
    settings = [
        leaves(f"config_json of {path}", root.get("config_json", "")) for path, root in zip(paths, roots, strict=True)
    ]
    for name in dict.fromkeys(name for setting in settings for name in setting):
        values = [setting.get(name) for setting in settings]
        if name not in columns and len({_key(value) for value in values}) > 1:
            columns[name] = values
    for name, given in knobs.items():
        if len(given) != len(paths):
            raise invalid(f"knobs[{name!r}]", len(given), f"{len(paths)} values", "pass one value a file")
        columns[name] = list(given)
    return columns


def _key(value: Any) -> str:
    """Name a value so that 1 equals 1.0 but not true, and lists can be compared."""
    return json.dumps(float(value) if isinstance(value, int) and not isinstance(value, bool) else value)


def _merge(group: str, members: Mapping[int, xr.Dataset], columns: Mapping[str, list[Any]]) -> xr.Dataset:
    indices = list(members)
    coords = {name: column([values[index] for index in indices]) for name, values in columns.items()}
    coords.update(_differing_attrs(group, list(members.values())))

    def attrs(parts: Sequence[Mapping[Any, Any]], context: object = None) -> dict[Any, Any]:
        return _merge_attrs(group, parts)

    along = xr.DataArray(coords["run_id"], dims="run", name="run")
    try:
        merged = join(list(members.values()), along, attrs)
    except ValueError as error:
        remedy = f"give dimensions whose length changes a coordinate, and keep units ({error})"
        raise invalid(f"group {group!r}", f"{len(indices)} runs", "groups that fit together", remedy) from error
    names = {name: f"config.{name}" if name in merged.variables or name in merged.dims else name for name in coords}
    return merged.assign_coords({names[name]: ("run", values) for name, values in coords.items()})


def _differing_attrs(group: str, datasets: Sequence[xr.Dataset]) -> dict[str, np.ndarray[Any, Any]]:
    names = dict.fromkeys(str(name) for dataset in datasets for name in dataset.attrs)
    columns = {name: [dataset.attrs.get(name) for dataset in datasets] for name in names}
    return {f"{group}.{name}": column(values) for name, values in columns.items() if len(set(map(str, values))) > 1}


def _merge_attrs(group: str, parts: Sequence[Mapping[Any, Any]]) -> dict[Any, Any]:
    """Keep what all that have an attribute agree on, and the first `long_name`; two units are an error."""
    first: dict[Any, Any] = {}
    for part in parts:
        first = {**part, **first}
    same = {
        name: value
        for name, value in first.items()
        if name == "long_name" or all(np.array_equal(part.get(name, value), value) for part in parts)
    }
    if "units" in first and "units" not in same:
        units = sorted({str(part["units"]) for part in parts if "units" in part})
        raise invalid(f"units of {first.get('long_name')!r} in {group!r}", units, "one unit", "convert the runs")
    return same
