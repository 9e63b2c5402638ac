"""Results of one run or many, in one shape: every group has the dimension `run`, named by labels a reader knows."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from dynamics.options import invalid

REMEDIES = {
    "training": "dynamics train PRESET --out DIR",
    "gaps": "train with the observer gaps, as every preset does: dynamics train PRESET --out DIR",
    "cells": "train with the observer cells, as every preset does: dynamics train PRESET --out DIR",
    "evaluation": "dynamics evaluate DIR",
    "fid": "dynamics evaluate DIR --fid --inception FILE --reference FILE",
    "gram": "dynamics probe DIR",
    "gram_rows": "dynamics probe DIR",
    "decomposition": "dynamics probe DIR",
    "lookahead": "dynamics probe DIR",
}
"""The command that adds a group."""


def group(tree: xr.DataTree, name: str) -> xr.Dataset:
    """Return one group with the dimension `run`, whether the tree holds one run or many.

    Args:
        tree: From `dynamics.store.open_results`, `read_run` or `collect`.
        name: A name in REMEDIES.

    Returns:
        The group; the attributes of a single run's file become coordinates on `run`, as `collect` does for many.

    Raises:
        ValueError: The group is missing; the text names the command that adds it.

    Example:
        >>> group(xr.DataTree(), "evaluation")
        Traceback (most recent call last):
        ...
        ValueError: groups: received []; allowed: results with the group evaluation; remedy: dynamics evaluate DIR
    """
    if name not in tree.children:
        raise invalid("groups", sorted(tree.children), f"results with the group {name}", _remedy(name))
    ds = tree.children[name].to_dataset(inherit=False)
    if "run" in ds.dims:
        return ds
    attrs = {str(k): v for k, v in tree.attrs.items() if k != "schema_version" and isinstance(v, str | int | float)}
    ds = ds.drop_vars("run", errors="ignore").expand_dims(run=[attrs.get("run_id", "run")])
    return ds.assign_coords({k: ("run", [v]) for k, v in attrs.items() if k not in ds.variables})


def group_or_dataset(results: xr.DataTree | xr.Dataset, name: str, needed: Sequence[str]) -> xr.Dataset:
    """Return variables of a group, of a tree or of the group itself.

    Raises:
        ValueError: The group is missing or lacks a variable.
    """
    ds = group(results, name) if isinstance(results, xr.DataTree) else results
    for variable in needed:
        if variable not in ds:
            received = sorted(map(str, ds.data_vars))
            raise invalid(f"variables of {name}", received, f"a group with {variable}", _remedy(name))
    return ds[[*needed]]


def run_labels(tree: xr.DataTree) -> list[str]:
    """Return the labels of all runs, in the order of the tree; a group may hold fewer."""
    names = [name for name in REMEDIES if name in tree.children]
    return list(dict.fromkeys(str(run) for name in names for run in group(tree, name).run.values))


def label_runs(tree: xr.DataTree, labels: Mapping[str, str]) -> xr.DataTree:
    """Show runs under names a reader knows instead of their ids, which stay as the coordinate `run_id`.

    Args:
        tree: One run or many.
        labels: Label by run_id; a run that is not named keeps the name it has.

    Returns:
        A new tree, each group with the dimension `run`.

    Raises:
        ValueError: An id is not in the tree, or two runs would have one label.

    Example:
        >>> loss = xr.Dataset({"raw_v": ("step", [3.0])})
        >>> tree = xr.DataTree.from_dict({"/": xr.Dataset(attrs={"run_id": "a1"}), "/training": loss})
        >>> run_labels(label_runs(tree, {"a1": "baseline"}))
        ['baseline']
    """
    groups = {name: group(tree, name) for name in tree.children}
    known = {str(i): str(run) for ds in groups.values() for i, run in zip(_ids(ds), ds.run.values, strict=True)}
    unknown = sorted(set(labels) - set(known))
    if unknown:
        raise invalid("labels", unknown, f"ids among {', '.join(known)}", "see the coordinate run_id")
    shown = {**known, **labels}
    twice = sorted({label for label in shown.values() if list(shown.values()).count(label) > 1})
    if twice:
        raise invalid("labels", twice, "one label a run", "name the runs differently")
    labelled = {f"/{name}": ds.assign_coords(run=[shown[str(i)] for i in _ids(ds)]) for name, ds in groups.items()}
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=tree.attrs), **labelled})


def attribute(ds: xr.Dataset, group_name: str, name: str) -> list[object]:
    """Return a group's attribute as one value a run, also where the runs differ; None where it is missing."""
    differing = f"{group_name}.{name}"
    if differing in ds.coords:
        values = [value.item() for value in ds[differing].values]
        return [None if value == "" or value != value else value for value in values]
    value = ds.attrs.get(name)
    return [value.item() if isinstance(value, np.generic) else value] * ds.sizes["run"]


def bin_edges(ds: xr.Dataset, dim: str) -> list[tuple[float, float]]:
    """Return (low, high) of each bin of t_bin or gap_bin, also where runs have different bins."""
    edges = []
    for suffix in ("_low", "_high"):
        values = ds[dim + suffix]
        edges.append((values.max("run") if "run" in values.dims else values).values.tolist())
    return list(zip(*edges, strict=True))


def sampled_settings(ds: xr.Dataset, pictures: bool = False) -> xr.DataArray:
    """Return which settings of the group evaluation or fid were sampled, bool [run, field, nfe].

    Settings that only some runs have are there for all after merging: black pictures, and numbers that are missing.
    """
    settings = ("run", "field", "nfe")
    none = np.zeros([ds.sizes[name] for name in settings], dtype=bool)
    found = xr.DataArray(none, {name: ds[name] for name in settings}, settings)
    for name, values in ds.data_vars.items():
        if set(settings) <= set(values.dims):
            there = values.fillna(0) > 0 if name == "samples" else values.notnull()
            found = found | there.any([dim for dim in values.dims if dim not in settings])
    return found.transpose(*settings)


def _remedy(name: str) -> str:
    return REMEDIES.get(name, f"choose one of {', '.join(REMEDIES)}")


def _ids(ds: xr.Dataset) -> list[str]:
    return [str(i) for i in ds["run_id" if "run_id" in ds.coords else "run"].values]
