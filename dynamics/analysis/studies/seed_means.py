"""Tables behind the figures of experiments: arms, seeds, and means over seeds with their intervals."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from dynamics.analysis.figure_style import check_known
from dynamics.analysis.seed_arms import LEVEL
from dynamics.analysis.studies.study_table import label_text
from dynamics.estimators import t_quantile

Names = str | Sequence[str]
"""One axis of an experiment, or several, whose labels are then read together."""
Where = Mapping[str, str | Sequence[str]]
"""Axes and the label, or labels, of the runs to draw."""

COLUMN_WORDS = {
    r"^v_error_([\d.]+-[\d.]+)": r"error of v, t in \1",
    r"^v_error_from_([\d.]+)": r"error of v, t from \1",
    r"^v_error": "error of v",
    r"^u_error_([\d.]+-[\d.]+)": r"error of u, gaps \1",
    r"^u_error_from_([\d.]+)": r"error of u, gaps from \1",
    r"^u_error": "error of u",
    r"^one_step_error": "error of u from (t, r) = (1, 0)",
    r"^fd_(?:\w+_)?([uv])_nfe(\d+)": r"Frechet distance, \1, NFE \2",
    r"^excess_fd_([uv])_nfe(\d+)": r"Frechet distance above the floor, \1, NFE \2",
    r"^fid_inception_([uv])_nfe(\d+)": r"FID, \1, NFE \2",
    r"^energy_distance_([uv])_nfe(\d+)": r"energy distance, \1, NFE \2",
    r"^accuracy_([uv])_nfe(\d+)": r"class accuracy, \1, NFE \2",
    r"^cosine_v_([\d.]+-[\d.]+)": r"cosine of v and u, gaps \1",
    r"^naive_v_([\d.]+-[\d.]+)": r"naive cosine of v and u, gaps \1",
    r"^cosine_forces_([\d.]+-[\d.]+)": r"cosine of matching and consistency, gaps \1",
    r"_start$": ", first measured",
    r"_end$": ", last measured",
    r"_late$": ", mean of the last quarter",
}
"""What columns of `study` say."""


def column_words(column: str) -> str:
    """Return a column of `study` in words; one that it does not know, as it is.

    Example:
        >>> column_words("u_error_0.1-0.3_end"), column_words("fd_u_nfe1")
        ('error of u, gaps 0.1-0.3, last measured', 'Frechet distance, u, NFE 1')
    """
    for pattern, text in COLUMN_WORDS.items():
        column = re.sub(pattern, text, column)
    return column


def arm_names(labels: pd.DataFrame, axis: Names) -> pd.Series:
    """Return one label a run, of one axis or several."""
    names = [axis] if isinstance(axis, str) else list(axis)
    for name in names:
        check_known("axis", name, list(map(str, labels.columns)))
    return labels[names].astype(str).agg(", ".join, axis=1)


def seed_values(table: pd.DataFrame, axis: Names, column: str) -> pd.DataFrame:
    """Return arm, seed and value of every run."""
    check_known("column", column, list(map(str, table.columns)))
    return pd.DataFrame({"arm": arm_names(table, axis), "seed": table["seed"], "value": table[column].astype(float)})


def arm_labels(ds: xr.Dataset, by: Names, where: Where | None) -> pd.DataFrame:
    """Return arm and seed of the runs to draw, which leaves out those that others start from."""
    axes = [str(name) for name, values in ds.coords.items() if values.dims == ("run",) and name != "run"]
    table = pd.DataFrame({name: [label_text(label) for label in ds[name].values] for name in axes}, ds.run.values)
    if "role" in table:
        table = table[table["role"] == "grid"]
    for name, label in (where or {}).items():
        check_known("where", name, axes)
        chosen = [label] if isinstance(label, str) else list(label)
        for one in chosen:
            check_known(name, one, sorted(set(table[name])))
        table = table[table[name].isin(chosen)]
    return pd.DataFrame({"arm": arm_names(table, by), "seed": table["seed"]})


def long_table(values: xr.DataArray, ds: xr.Dataset, by: Names, where: Where | None) -> pd.DataFrame:
    """Return a row a run, step and bin that was measured: arm, seed and value."""
    labels = arm_labels(ds, by, where)
    plain = values.drop_vars([name for name in values.coords if name not in values.dims])
    frame = plain.sel(run=labels.index.tolist()).to_dataframe("value").dropna().reset_index()
    return frame.merge(labels, left_on="run", right_index=True)


def measured_at(frame: pd.DataFrame, step: str) -> pd.DataFrame:
    """Return the first or the last measurement of every run."""
    check_known("step", step, ("first", "last"))
    steps = frame.groupby("run")["step"]
    return frame[frame["step"] == steps.transform("min" if step == "first" else "max")]


def over_seeds(frame: pd.DataFrame, keys: list[str], logs: bool) -> pd.DataFrame:
    """Return mean, low, high and seeds for every combination of keys; one seed has no interval."""
    values = frame.assign(value=np.log(frame["value"])) if logs else frame
    grouped = values.groupby([*keys, "seed"], sort=False)["value"].mean().groupby(keys, sort=False)
    mean, seeds = grouped.mean(), grouped.count()
    half = t_quantile(LEVEL, seeds - 1) * grouped.std() / seeds**0.5
    out = pd.DataFrame({"mean": mean, "low": mean - half, "high": mean + half})
    return out.apply(np.exp if logs else np.asarray).assign(seeds=seeds)
