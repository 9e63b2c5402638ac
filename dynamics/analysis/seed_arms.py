"""Arms: runs that differ in nothing but their seed are shown as one, their mean with an interval over seeds."""

import json
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from dynamics.analysis.run_groups import group, run_labels
from dynamics.estimators import t_quantile

LEVEL = 0.95
"""Of intervals over seeds."""
LINES = 8
"""Arms that a panel of lines shows at most."""
PANELS = 4
"""Runs that have panels of their own in a figure of a report."""
SEEDS_NOTE = f"{LEVEL:.0%} interval over seeds"


def arms_of(tree: xr.DataTree) -> dict[str, list[str]]:
    """Return the runs of each arm by its label; a tree that names no arms has one a run."""
    runs = run_labels(tree)
    named = json.loads(tree.attrs.get("arms", "null")) or {run: [run] for run in runs}
    there = {arm: [run for run in members if run in runs] for arm, members in named.items()}
    return {arm: members for arm, members in there.items() if members}


def with_arms(tree: xr.DataTree, arms: Mapping[str, Sequence[str]]) -> xr.DataTree:
    """Return the tree's runs of some arms alone; figures show arms from now on."""
    members = {run for runs in arms.values() for run in runs}
    groups = {}
    for name in map(str, tree.children):
        ds = group(tree, name)
        there = [str(run) in members for run in ds.run.values]
        if any(there):
            groups[f"/{name}"] = ds.isel(run=there)
    attrs = {**tree.attrs, "arms": json.dumps({arm: list(runs) for arm, runs in arms.items()})}
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=attrs), **groups})


def first_seeds(tree: xr.DataTree) -> xr.DataTree:
    """Return one run of each arm, the first, under the arm's label."""
    first = {arm: runs[:1] for arm, runs in arms_of(tree).items()}
    labels = {run: arm for arm, (run,) in first.items()}
    kept = with_arms(tree, first)
    groups = {
        f"/{name}": ds.assign_coords(run=[labels[str(run)] for run in ds.run.values])
        for name, ds in ((name, group(kept, name)) for name in map(str, kept.children))
    }
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs={**tree.attrs, "arms": "null"}), **groups})


def arms_by_config(tree: xr.DataTree) -> dict[str, list[str]]:
    """Return the arms of any runs: those whose configurations agree in all but the seed."""
    configs: dict[str, str] = {}
    for name in map(str, tree.children):
        ds = group(tree, name)
        if "config_json" in ds.coords:
            configs |= {str(run): str(text) for run, text in zip(ds.run.values, ds.config_json.values, strict=True)}
    arms: dict[str, list[str]] = {}
    for run in run_labels(tree):
        config = json.loads(configs.get(run) or "{}")
        config.pop("seed", None)
        arms.setdefault(json.dumps(config, sort_keys=True) if config else run, []).append(run)
    names = [_name(members) for members in arms.values()]
    plain = [members[0] if len(members) == 1 else f"{members[0]} and other seeds" for members in arms.values()]
    return dict(zip(names if len(set(names)) == len(names) else plain, arms.values(), strict=True))


def _name(members: Sequence[str]) -> str:
    """Return what the labels of an arm's runs have in common, without the seed at their end."""
    if len(members) == 1:
        return members[0]
    found = {re.sub(r"[\W_]*(seed|s)?[-_= ]*\d+$", "", label) for label in members}
    return found.pop() if len(found) == 1 and "" not in found else f"{members[0]} and other seeds"


def mean_over_seeds(table: pd.DataFrame, logs: bool) -> pd.DataFrame:
    """Return mean, low and high over the runs of an arm; one run has no interval.

    Args:
        table: A row a run; what a run lacks is NaN.
        logs: Means are those of logs, and intervals that are symmetric in logs.

    Example:
        >>> mean_over_seeds(pd.DataFrame({"a": [1.0, 4.0], "b": [2.0, np.nan]}), True)["mean"].round(6).tolist()
        [2.0, 2.0]
    """
    values = table.apply(np.log) if logs else table
    count, mean = values.count(), values.mean()
    half = t_quantile(LEVEL, (count - 1).to_numpy(float)) * values.std() / count**0.5
    out = pd.DataFrame({"mean": mean, "low": mean - half, "high": mean + half})
    return out.apply(np.exp) if logs else out


def spread_arms(values: pd.Series, baseline: str, limit: int) -> list[str]:
    """Return at most `limit` arms, in the table's order: the baseline, and others spread over the ranks of a value.

    Args:
        values: One value an arm; those without one come last.
        baseline: The arm that is always among them.
        limit: How many.

    Example:
        >>> spread_arms(pd.Series([3.0, 9.0, 1.0, 2.0, 5.0], list("abcde")), "e", 3)
        ['b', 'c', 'e']
    """
    if len(values) <= limit:
        return [str(name) for name in values.index]
    others = values.drop(baseline).sort_values().index
    chosen = {baseline, *(others[i] for i in np.linspace(0, len(others) - 1, limit - 1).round().astype(int))}
    return [str(name) for name in values.index if name in chosen]
