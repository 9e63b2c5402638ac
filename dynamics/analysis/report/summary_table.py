"""One row of numbers a run: exact errors, sample distances, costs, and how they were measured."""

import json
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from statsmodels.stats.proportion import proportion_confint

from dynamics.analysis.run_groups import attribute, bin_edges, group, run_labels
from dynamics.estimators import Floats
from dynamics.options import invalid
from dynamics.store import protocol_groups

T_FROM = 0.3
"""On a finite data set the exact v* memorises below this t, so that its error there does not measure quality."""

_SAMPLES = (
    *("num_samples", "num_reference", "label_mode", "method", "evaluation_seed", "data", "data_sha256", "weights"),
    *("guidance_scale", "guidance_interval"),
)
SampleGroup = Literal["evaluation", "fid"]
"""Groups of what samples are worth."""
PROTOCOL: dict[SampleGroup, tuple[str, ...]] = {
    "evaluation": (*_SAMPLES, "extractor", "extractor_sha256", "exact_rows_per_bin"),
    "fid": (
        *(*_SAMPLES, "inception", "inception_sha256", "reference", "reference_sha256", "decoder"),
        *("rounding", "resize", "is_splits", "kernel_subset", "neighbour_rows"),
    ),
}
"""Attributes of a group that must agree before two runs can be compared."""


SAMPLED = ("fid_", "is_", "fd_", "kd_", "energy_distance", "accuracy", "precision", "recall")
"""How the names begin of what is measured of samples."""
FLOOR = "floor_"
"""How the names begin of what the population's own samples have."""


def relative_error(ds: xr.Dataset, what: Literal["v", "u", "one_step"]) -> xr.Dataset:
    """Return the squared error of a velocity as a share of the exact velocity's squared norm.

    R = E[error] / E[scale] with standard error by the delta method,
    sqrt(sem_error^2 + R^2 sem_scale^2 - 2 R cov) / E[scale], cov being the covariance of the two means.

    Args:
        ds: The group gaps or evaluation: `<what>_error` and `<what>_scale` [...], squared pixels, their `_sem`, and
            `<what>_covariance`.
        what: v (by t_bin), u (by gap_bin) or one_step (t, r) = (1, 0).

    Returns:
        `relative_error` and `relative_error_sem` with the same dimensions, unit 1; 1 is what a network that answers
        0 everywhere would get.

    Raises:
        ValueError: The dataset does not have that error.

    Example:
        >>> values = {"u_error": 1.0, "u_error_sem": 0.3, "u_scale": 10.0, "u_scale_sem": 4.0, "u_covariance": 0.0}
        >>> r = relative_error(xr.Dataset(values), "u")
        >>> round(float(r.relative_error), 3), round(float(r.relative_error_sem), 3)
        (0.1, 0.05)
    """
    if f"{what}_error" not in ds:
        remedy = "pass the group gaps or evaluation (dynamics evaluate DIR adds the latter)"
        raise invalid("ds", sorted(map(str, ds.data_vars)), f"a dataset with {what}_error", remedy)
    error, scale = ds[f"{what}_error"], ds[f"{what}_scale"]
    ratio = error / scale
    spread = ds[f"{what}_error_sem"] ** 2 + (ratio * ds[f"{what}_scale_sem"]) ** 2
    # rounding can leave a tiny negative where error and scale are proportional
    sem = (spread - 2 * ratio * ds[f"{what}_covariance"]).clip(min=0) ** 0.5 / scale
    text = f"relative squared error of {'the one-step velocity' if what == 'one_step' else what}"
    return xr.Dataset(
        {
            "relative_error": ratio.assign_attrs(units="1", long_name=text),
            "relative_error_sem": sem.assign_attrs(units="1", long_name=f"{text}, standard error over rows"),
        }
    )


def summary(tree: xr.DataTree) -> pd.DataFrame:
    """Return one row of final numbers a run.

    What was measured by a further protocol has columns of its own, such as `fd_digits_u_nfe1@n500_seed0_ema`; a column
    never mixes two.

    Exact errors are those of the evaluation if all runs have one, else of the last measurement while training. Latents
    have none: of runs on latents there is what FID measured.

    Args:
        tree: One run or many.

    Returns:
        Index `run`. Columns (those that were measured): v_error (mean over bins of t) and v_error_from_0.3 (bins from
        t = 0.3), u_error_<low>-<high> by gap, one_step_error, all relative and with `_sem`; by field and number of
        evaluations fd_<extractor>_u_nfe1, kd_<extractor>_u_nfe1 with `_sem`, accuracy_u_nfe1 with the ends `_low` and
        `_high` of its 95% Wilson interval, precision_u_nfe1, recall_u_nfe1; fid_inception_u_nfe1, is_inception_u_nfe1,
        kd_inception_u_nfe1, precision_inception_u_nfe1, recall_inception_u_nfe1; seconds; peak_memory_mb; protocol, a
        text that is equal for runs measured alike; budget, how long a run was trained and on what, in words.
        `attrs["exact"]` names the group of the exact errors, "" if there are none.

    Raises:
        ValueError: Some runs have exact errors and others have none, or nothing was measured.
    """
    runs = run_labels(tree)
    exact, source = _exact(tree, runs)
    columns = {} if exact is None else _exact_columns(exact)
    texts: list[pd.Series[Any]] = []
    for name, at in sampled_groups(tree).items():
        ds = group(tree, name)
        columns |= _sampled(ds, name, at)
        if not at:
            rows = protocol(tree, name)
            texts.append(pd.Series(["; ".join(row) for row in rows.to_numpy()], rows.index))
        elif "one_step_error" in ds:
            columns |= _exact_columns(ds, at)
    columns |= _costs(tree)
    table = pd.DataFrame({name: series.reindex(runs) for name, series in columns.items()}, pd.Index(runs, name="run"))
    if texts:
        table["protocol"] = pd.concat(texts, axis=1).reindex(runs).fillna("not evaluated").agg(" | ".join, axis=1)
    elif exact is not None:
        table["protocol"] = [str(rows) for rows in attribute(exact, "gaps", "rows_per_bin")]
    else:
        table["protocol"] = "not evaluated"
    table["budget"] = _budgets(tree).reindex(runs).fillna("unknown")
    table.attrs["exact"] = source
    return table


def sampled_groups(tree: xr.DataTree) -> dict[str, str]:
    """Return the groups of what samples are worth, and what their protocols append to the names of their numbers."""
    names = [str(name) for name in tree.children]
    return {name: at for stem in PROTOCOL for name, at in protocol_groups(names, stem).items()}


def protocol(tree: xr.DataTree, name: str = "evaluation") -> pd.DataFrame:
    """Return how each run was evaluated: index `run`, a column of texts for each name in PROTOCOL ("" if unknown).

    Args:
        tree: One run or many.
        name: The group that the evaluation made.

    Raises:
        ValueError: No run has that group.
    """
    ds = group(tree, name)
    table = {
        key: ["" if v is None else f"{v:g}" if isinstance(v, float) else str(v) for v in values]
        for key, values in ((key, attribute(ds, name, key)) for key in PROTOCOL[sample_group(name)])
    }
    return pd.DataFrame(table, pd.Index([str(run) for run in ds.run.values], name="run"))


def sample_group(name: str) -> SampleGroup:
    """Return the kind of a group of what samples are worth."""
    return "fid" if name.startswith("fid") else "evaluation"


def wilson_interval(shares: Floats, counts: object) -> tuple[Floats, Floats]:
    """Return the ends of the 95% Wilson interval of measured shares.

    Args:
        shares: Of the samples in the class asked for, any shape.
        counts: Number of samples, one for all or one a share; None where it is not known, which gives NaN.

    Example:
        >>> [round(float(end), 3) for end in wilson_interval(np.array(0.97), 1000)]
        [0.957, 0.979]
    """
    n = np.asarray(counts, dtype=np.float64)
    low, high = proportion_confint(shares * n, n, method="wilson")
    return np.asarray(low), np.asarray(high)


def _exact(tree: xr.DataTree, runs: list[str]) -> tuple[xr.Dataset | None, str]:
    """Return the final exact errors of all runs and the group they come from."""
    there = [name for name in ("evaluation", "gaps") if name in tree.children]
    if (there or "fid" in tree.children) and not any("one_step_error" in group(tree, name) for name in there):
        return None, ""
    for name in there:
        ds = group(tree, name)
        if "one_step_error" not in ds:
            continue
        known = np.isfinite(ds.one_step_error.transpose("run", ...).values).reshape(ds.sizes["run"], -1)
        if set(map(str, ds.run.values)) != set(runs) or not known.any(1).all():
            continue
        if name == "gaps":
            last = known.shape[1] - 1 - known[:, ::-1].argmax(1)
            each = {"run": np.arange(len(last)), "step": last}
            ds = ds.isel({dim: xr.DataArray(index, dims="run") for dim, index in each.items()})
        return ds, name
    remedy = "dynamics evaluate DIR for each of them, or train with the observer gaps"
    raise invalid("groups", sorted(tree.children), "exact errors of every run", remedy)


def _exact_columns(ds: xr.Dataset, at: str = "") -> dict[str, "pd.Series[Any]"]:
    v, u, one_step = (relative_error(ds, what) for what in ("v", "u", "one_step"))
    late = [low >= T_FROM for low, _ in bin_edges(ds, "t_bin")]
    columns: dict[str, xr.Dataset] = {"v_error": _mean(v)}
    if any(late):
        columns[f"v_error_from_{T_FROM:g}"] = _mean(v.isel(t_bin=late))
    for i, (low, high) in enumerate(bin_edges(ds, "gap_bin")):
        columns[f"u_error_{low:g}-{high:g}"] = u.isel(gap_bin=i)
    columns["one_step_error"] = one_step
    return {
        name + at + suffix: _series(part[f"relative_error{suffix}"])
        for name, part in columns.items()
        for suffix in ("", "_sem")
    }


def _mean(part: xr.Dataset) -> xr.Dataset:
    """Average over bins of t, whose rows are independent."""
    sem = (part.relative_error_sem**2).sum("t_bin") ** 0.5 / part.relative_error.count("t_bin")
    return xr.Dataset({"relative_error": part.relative_error.mean("t_bin"), "relative_error_sem": sem})


def _sampled(ds: xr.Dataset, source: str, at: str) -> dict[str, "pd.Series[Any]"]:
    """Return what samples are worth, by field and number of evaluations, with what is known of its error."""
    columns = {f"{name}{at}": _series(ds[name]) for name in map(str, ds.data_vars) if name.startswith(FLOOR)}
    counts = attribute(ds, source, "num_samples")
    names = sorted(n for n in map(str, ds.data_vars) if n.startswith(SAMPLED) and not n.endswith(("_sem", "_std")))
    for name in names:
        for field in ds.field.values:
            for nfe in ds.nfe.values:
                column, where = f"{name}_{field}_nfe{nfe}{at}", {"field": field, "nfe": nfe}
                values = _series(ds[name].sel(where))
                if values.isna().all():
                    continue
                columns[column] = values
                if f"{name}_sem" in ds:
                    columns[f"{column}_sem"] = _series(ds[f"{name}_sem"].sel(where))
                if name == "accuracy":
                    for end, ends in zip(("low", "high"), wilson_interval(values.to_numpy(), counts), strict=True):
                        columns[f"{column}_{end}"] = pd.Series(ends, values.index)
    return columns


def _costs(tree: xr.DataTree) -> dict[str, "pd.Series[Any]"]:
    """Return seconds and peak memory from whichever groups have them."""
    columns = {}
    for name in ("seconds", "peak_memory_mb"):
        found = [_series(group(tree, g)[name]) for g in tree.children if name in group(tree, g).coords]
        if found:
            joined = pd.concat(found)
            columns[name] = joined[~joined.index.duplicated()]
    return columns


def _budgets(tree: xr.DataTree) -> "pd.Series[Any]":
    """Return in words how long each run was trained, and on what."""
    texts: dict[str, str] = {}
    for ds in (group(tree, name) for name in map(str, tree.children)):
        if "config_json" in ds.coords:
            texts |= dict(zip(map(str, ds.run.values), map(str, ds.config_json.values), strict=True))
    out = {}
    for run, text in texts.items():
        config = json.loads(text or "{}")
        training, data = config.get("training", {}), config.get("data", {}).get("name")
        if "num_steps" in training:
            rows = f"{training['num_steps']} steps of {training.get('batch_size', '?')} rows"
            out[run] = f"{rows} of {data}" if data else rows
    return pd.Series(out, dtype=object)


def _series(values: xr.DataArray) -> "pd.Series[Any]":
    return pd.Series(values.values.astype(float), [str(run) for run in values.run.values])
