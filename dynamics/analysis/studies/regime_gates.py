"""Is a run of plain MeanFlow in the regime in which the papers make their claims? Three gates, before any arm runs."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from dynamics.analysis.gradients.task_affinity import affinity
from dynamics.analysis.run_groups import bin_edges, group
from dynamics.analysis.studies.study_table import study
from dynamics.estimators import Floats
from dynamics.estimators.intervals import mean_sem, t_quantile

LARGE = 0.5
"""Gaps from here on are large."""
LONGER = 4
"""Times the steps."""
GATES = {
    "under_trained": f"distance / distance at {LONGER} times the steps, above 2",
    "inherited": f"share of u's squared error that its own v has already, gaps from {LARGE}, above 0.5",
    "conflict": f"cosine of v and u, products summed over the middle half of training, gaps from {LARGE}, below 0",
}
"""What each gate asks of the mean over seeds, and of the end of its interval on the near side where there is one."""
_THRESHOLDS = {"under_trained": 2.0, "inherited": 0.5, "conflict": 0.0}


def regime_gates(
    tree: xr.DataTree, axes: Sequence[str], metric: str = "fd_u_nfe1", level: float = 0.95
) -> pd.DataFrame:
    """Judge plain MeanFlow at each setting by GATES.

    Args:
        tree: A merged file whose runs have the groups evaluation, decomposition and gram.
        axes: The experiment's axes, `steps` and `seed` among them; a setting is everything but the seed.
        metric: Column of `study` that shows how far training is from its end.
        level: Probability that an interval over seeds covers the truth.

    Returns:
        One row a setting and gate: the axes, `gate`, `value` (mean over seeds; of ratios the geometric one), `low`,
        `high` (Student's t over seeds, NaN of one seed), `num_seeds` and `passed`; `under_trained` only of the settings
        that were also trained LONGER times as long.
    """
    table = study(tree, axes)
    numbers = table[list(axes)].assign(
        under_trained=_fall(table, axes, metric), inherited=_inherited(tree), conflict=_conflict(tree)
    )
    setting, rows = [axis for axis in axes if axis != "seed"], []
    for labels, runs in numbers.groupby(setting, sort=False):
        for gate in GATES:
            values = runs[gate].dropna().to_numpy(float)
            if len(values):
                rows.append([*labels, gate, *_judged(gate, values, level)])
    return pd.DataFrame(rows, columns=[*setting, "gate", "value", "low", "high", "num_seeds", "passed"])


def _judged(gate: str, values: Floats, level: float) -> tuple[float, float, float, int, bool]:
    ratio, threshold = gate == "under_trained", _THRESHOLDS[gate]
    seen = np.log(values) if ratio else values
    half = t_quantile(level, len(seen) - 1) * mean_sem(seen) if len(seen) > 1 else np.nan
    ends = [float(end) for end in (seen.mean(), seen.mean() - half, seen.mean() + half)]
    value, low, high = np.exp(ends) if ratio else ends
    near, side = (high, -1) if gate == "conflict" else (low, 1)
    passed = all(side * (end - threshold) > 0 for end in (value, near) if np.isfinite(end))
    return value, low, high, len(values), passed


def _fall(table: pd.DataFrame, axes: Sequence[str], metric: str) -> pd.Series:
    """Return by what factor a run's metric falls until LONGER times its steps, same seed and setting."""
    key = table[list(axes)].assign(steps=table["steps"].astype(float))
    later = pd.Series(table[metric].to_numpy(), pd.MultiIndex.from_frame(key))
    wanted = pd.MultiIndex.from_frame(key.assign(steps=LONGER * key["steps"]))
    return pd.Series(table[metric].to_numpy() / later.reindex(wanted).to_numpy(), table.index)


def _inherited(tree: xr.DataTree) -> pd.Series:
    """Return the part of u's error at the end that would be left if u agreed with the network's own v."""
    ds = group(tree, "decomposition")
    large = [low >= LARGE for low, _ in bin_edges(ds, "gap_bin")]
    own, error = (ds[name].isel(gap_bin=large).sum("gap_bin", skipna=False) for name in ("u_inherited", "u_error"))
    return _mean_between(own / error, 1.0, 1.0).to_series()


def _conflict(tree: xr.DataTree) -> pd.Series:
    """Return the cosine of v and u by inner products that are summed over the middle half of training, mean over bins.

    The sign of one measurement changes within a hundred steps, with the noise of the weights: what counts over training
    is the sum of the products, to which a step with small gradients adds little.
    """
    products = affinity(tree, "gram")["product"].sel(group="model", drop=True)
    names = [name for name in map(str, products.task.values) if name.startswith("u ")]
    large = [name for name in names if float(name.removeprefix("u ").split("-")[0]) >= LARGE]
    with_v = products.sel(task="v", task2=large, drop=True)
    of_v = products.sel(task="v", task2="v", drop=True)
    of_u = xr.concat([products.sel(task=name, task2=name, drop=True) for name in large], with_v.task2)
    across, v, u = (_mean_between(part, 0.25, 0.75) for part in (with_v, of_v, of_u))
    return (across / np.sqrt(v * u)).mean("task2", skipna=False).to_series()


def _mean_between(values: xr.DataArray, low: float, high: float) -> xr.DataArray:
    """Return the mean of [run, step, ...] over a run's measurements between two shares of the last one's step."""
    there = np.isfinite(values)
    last = values.step.where(there).max("step")
    share = values.step / last
    return values.where((share >= low) & (share <= high)).mean("step")
