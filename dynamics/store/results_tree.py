"""Results as a person reads them: what was run, what was swept, and what was measured."""

from html import escape
from typing import Any

import numpy as np
import xarray as xr

from dynamics.store.schema import PROVENANCE

SHOWN = 6
"""How many values or names a line shows before it says how many more there are."""


class Results(xr.DataTree):  # type: ignore[no-untyped-call]
    """The labelled tree of `open_results`: an xarray DataTree that prints what it holds in a few lines."""

    __slots__ = ()

    @classmethod
    def of(cls, tree: xr.DataTree) -> "Results":
        """Return a tree with the same groups, which share their data."""
        groups = {name: child.to_dataset() for name, child in tree.children.items()}
        return cls(dataset=tree.to_dataset(), children={name: xr.DataTree(group) for name, group in groups.items()})

    def __repr__(self) -> str:  # type: ignore[override]
        return "\n".join(_lines(self))

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"


def _lines(tree: xr.DataTree) -> list[str]:
    groups = {name: child.to_dataset(inherit=False) for name, child in tree.children.items()}
    merged = next((group for group in groups.values() if "run" in group.dims), None)
    lines = [_title(tree, merged)]
    if question := tree.attrs.get("question"):
        lines.append(f"  question  {question}")
    if merged is not None:
        lines += [f"  swept     {name}: {_some(_values(merged[name]))}" for name in _swept(tree, merged)]
    width = max(map(len, groups), default=0)
    for name, group in groups.items():
        sizes = ", ".join(f"{dim} {size}" for dim, size in group.sizes.items() if dim != "run")
        lines.append(f"  {name:{width}}  {_some(sorted(map(str, group.data_vars)))}   [{sizes}]")
    lines.append('a group is an xarray Dataset: results["training"].dataset; figures: dynamics.plots')
    return lines


def _title(tree: xr.DataTree, merged: xr.Dataset | None) -> str:
    if merged is not None:
        study = f" of {tree.attrs['experiment']} at scale {tree.attrs['scale']}" if "experiment" in tree.attrs else ""
        return f"Results{study}: {merged.sizes['run']} runs"
    about = tree.attrs
    seconds = (
        f", {float(about['seconds']):.0f} s of training on {about.get('device', '?')}" if "seconds" in about else ""
    )
    return f"Results of run {about.get('run_id', '?')}: seed {about.get('seed', '?')}{seconds}"


def _swept(tree: xr.DataTree, merged: xr.Dataset) -> list[str]:
    """Return the coordinates that tell the runs apart: those of the study, or all that differ."""
    if "axes" in tree.attrs:
        return [str(name) for name in tree.attrs["axes"] if name in merged.coords]
    of_runs = [str(name) for name, values in merged.coords.items() if values.dims == ("run",)]
    return [name for name in of_runs if name not in {*PROVENANCE, "run"} and len(_values(merged[name])) > 1]


def _values(coordinate: xr.DataArray) -> list[Any]:
    """Return the different values, in the order in which they come."""
    return list(dict.fromkeys(np.asarray(coordinate.values).tolist()))


def _some(values: list[Any]) -> str:
    more = f", and {len(values) - SHOWN} more" if len(values) > SHOWN else ""
    return ", ".join(map(str, values[:SHOWN])) + more
