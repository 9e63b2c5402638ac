"""Do two tasks pull the weights the same way? Cosines of true gradients, from the stored Gram of independent splits."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import xarray as xr
from scipy import stats

from dynamics.analysis import gram as kernels
from dynamics.analysis.gram import Floats
from dynamics.analysis.measured import Texts, finite_splits, over_measurements, split_gram, t_quantile, task_index
from dynamics.options import invalid

Interval = Literal["jackknife", "bootstrap"]

PAIR, ONE = ("group", "task", "task2"), ("group", "task")
SQUARED = "squared gradient norm"

COSINE_TEXTS: Texts = {
    "cosine": (PAIR, "1", "cosine of the true gradients, unbiased products"),
    "cosine_low": (PAIR, "1", "lower end of the cosine's interval"),
    "cosine_high": (PAIR, "1", "upper end of the cosine's interval"),
    "cosine_sem": (PAIR, "1", "standard error of the cosine"),
    "product": (PAIR, SQUARED, "unbiased inner product of the true gradients"),
    "product_sem": (PAIR, SQUARED, "standard error of the product"),
    "conflict_share": (PAIR, "1", "share of independent gradient pairs with negative inner product"),
}
AFFINITY_TEXTS: Texts = {
    **COSINE_TEXTS,
    "naive_cosine": (PAIR, "1", "cosine of gradients of the same split, biased"),
    "naive_independent": (PAIR, "1", "cosine of gradients of different splits, biased towards 0"),
    "self_cosine": (ONE, "1", "cosine of a gradient with itself over two halves of the splits, expected 1"),
    "num_splits": ((), "1", "independent splits"),
}


def affinity(
    results: xr.DataTree | xr.Dataset, group: str = "gram", interval: Interval = "jackknife", level: float = 0.95
) -> xr.Dataset:
    """Return the cosine of every two tasks' true gradients, with an interval.

    S_ij = (<sum_a g_i^a, sum_b g_j^b> - sum_a <g_i^a, g_j^a>) / (K (K - 1)), cos_ij = S_ij / sqrt(S_ii S_jj)
    (a U-statistic over splits). The cosine of two minibatch gradients is no estimate of it: noise attenuates it by
    1 / sqrt((1 + B_i / n) (1 + B_j / n)), and rows that both tasks share push it up.

    The jackknife interval is cos +- t(K - 1) sem, with the delete-one products carried to the cosine by its
    derivative: defined wherever the cosine is, and not bounded by 1. The bootstrap interval takes percentiles, widened
    for small K: level Phi(-sqrt(K / (K - 1)) t(K - 1)) at each end (Hesterberg 2015, 1411.5279).

    Coverage of 95% intervals for linear regression with noise B / n from 0.8 to 5, cosines 0, .5 and .9, 1000
    repetitions (tests/reference/test_affinity_coverage.py has some of these settings): jackknife at K = 8 91-97% with
    shared rows and 95-99% with independent ones, at K = 16 92-97% and 95-99%; bootstrap 92-100%, but 78-95% at K = 4,
    and without the widening 85-96% at K = 8; arctanh of the cosine, undefined from 1 on, was not better. Below K = 3
    there is no interval. Unbiased are the products; their ratio leans outwards where signals are weak.

    Args:
        results: Results of one run or many (`dynamics.open_results`), or the dataset of the group.
        group: gram, or decomposition (its tasks are the two forces in each gap bin).
        interval: Where intervals come from.
        level: Probability that an interval covers the truth.

    Returns:
        Dimensions [run?, step?, group, task, task2]:

        * `cosine`, `cosine_low`, `cosine_high`, `cosine_sem`: NaN where a task shows no signal, never clipped; the
          sketch's error is added in quadrature (`gram.cosine_error`); `significant`: the interval excludes 0;
        * `product`, `product_sem`: S_ij;
        * `naive_cosine`: mean cosine on the same split, whose tasks share rows or not as the attribute `rows` says;
          `naive_independent`: mean cosine on different splits;
        * `conflict_share`: share of pairs of different splits with negative inner product;

        [.., task] `signal`: S_ii > 0; `self_cosine`: a gradient against itself over two halves of the splits, about 1
        (NaN if K < 4); [run?, step?] `num_splits`: K.

    Raises:
        ValueError: The group is missing, has fewer than two splits, or an option is unknown.

    Example:
        >>> g = np.array([[[1.0, 0.0], [1.2, 0.1], [0.8, 0.0]], [[0.5, 1.0], [0.5, 1.2], [0.4, 1.0]]])
        >>> gram, dims = np.einsum("iad,jbd->iajb", g, g)[None], ("group", "task", "split", "task2", "split2")
        >>> content = {"gram": (dims, gram), "product_error": (("group", "task", "task2"), np.zeros((1, 2, 2)))}
        >>> labels = {"group": ["model"], "task": ["v", "u"], "task2": ["v", "u"]}
        >>> found = affinity(xr.Dataset(content, labels)).sel(group="model", task="v", task2="u")
        >>> round(float(found.cosine), 3), bool(found.significant)
        (0.43, True)
    """
    _check_interval(interval)
    t_quantile(level, 1.0)
    ds = split_gram(results, group)

    def compute(gram: Floats, error: Floats) -> dict[str, Floats]:
        splits = finite_splits(gram)
        return split_affinity(gram[:, :, splits][..., splits], error, interval, level)

    out = over_measurements(ds, [ds.gram, ds.product_error], compute, AFFINITY_TEXTS, {})
    return judged(out.assign_attrs(interval=interval, level=level))


def update_cosine(
    results: xr.DataTree | xr.Dataset,
    weights: Mapping[str, float] | None = None,
    group: str = "gram",
    level: float = 0.95,
) -> xr.Dataset:
    """Return the cosine of each task's true gradient with the direction that training moves along, sum_k w_k G_k.

    The update is a task of its own, with gradient sum_k w_k g_k^a on split a, so that its cosines are as unbiased as
    all others. A negative one: a small step along the update makes the task's loss grow.

    Args:
        results: Results, or the dataset of the group.
        weights: By task; tasks that are left out have weight 0. If None, equal weights of the tasks that a run has.
        group: As in `affinity`.
        level: Probability that an interval covers the truth (jackknife).

    Returns:
        `cosine`, `cosine_low`, `cosine_high`, `cosine_sem`, `product`, `product_sem`, `conflict_share`, `significant`
        [run?, step?, group, task].

    Raises:
        ValueError: As `affinity`; a task is unknown, or no weight differs from 0.
    """
    t_quantile(level, 1.0)
    ds = split_gram(results, group)
    chosen = {str(task): 1.0 for task in ds.task.values} if weights is None else dict(weights)
    index = task_index(ds, list(chosen), "weights")
    tasks = ds.sizes["task"]
    mix = np.vstack([np.eye(tasks), np.zeros(tasks)])
    mix[-1, index] = list(chosen.values())
    if not mix[-1].any() or not np.isfinite(mix[-1]).all():
        raise invalid("weights", chosen, "finite numbers, one of them not 0", "weigh at least one task")

    def compute(gram: Floats, error: Floats) -> dict[str, Floats]:
        splits = finite_splits(gram)
        there = np.isfinite(gram).any((0, 2, 3, 4))
        used = np.flatnonzero(there if weights is None else there | (mix[-1] != 0))
        own = gram[:, used][:, :, splits][:, :, :, used][..., splits]
        here = np.where(np.append(there, True)[:, None], mix[:, used], np.nan)
        # at most: errors of products that add up with the same sign
        spread = np.abs(here) @ error[:, used][..., used] @ np.abs(here).T
        mixed = kernels.combine(own, here)
        found = split_affinity(mixed, spread, "jackknife", level)
        return {name: found[name][:, :-1, -1] for name in COSINE_TEXTS}

    texts: Texts = {name: (ONE, units, f"{text}, with the update") for name, (_, units, text) in COSINE_TEXTS.items()}
    out = over_measurements(ds, [ds.gram, ds.product_error], compute, texts, {})
    return judged(out.assign_attrs(level=level))


def split_affinity(gram: Floats, error: Floats, interval: Interval, level: float) -> dict[str, Floats]:
    """Return the arrays of `affinity` for one measurement, [group, T, K, T, K] and [group, T, T]."""
    k = gram.shape[-1]
    if k < 2:
        full = np.full_like(error, np.nan)
        out = {name: full if dims == PAIR else full[..., 0] for name, (dims, _, _) in AFFINITY_TEXTS.items()}
        return {**out, "num_splits": np.array(float(k))}
    s = kernels.products(gram)
    left_out = kernels.delete_one(gram) if k > 2 else s[..., None, :, :]
    spread = kernels.jackknife_sem(kernels.cosine_changes(s, left_out))
    quantile = t_quantile(level, k - 1)
    out = with_interval(s, spread, kernels.cosine_error(s, error), quantile)
    if interval == "bootstrap":
        low, high = _percentiles(kernels.cosines(kernels.bootstrap(gram)), k, level)
        extra = quantile * kernels.cosine_error(s, error)
        out["cosine_low"] = out["cosine"] - np.hypot(out["cosine"] - low, extra)
        out["cosine_high"] = out["cosine"] + np.hypot(high - out["cosine"], extra)
    naive = kernels.pair_cosines(gram)
    return {
        **out,
        "product_sem": np.hypot(kernels.jackknife_sem(left_out), error),
        "conflict_share": kernels.products(np.where(np.isfinite(gram), gram < 0, np.nan)),
        "naive_cosine": kernels.same_split(naive).mean(-1),
        "naive_independent": kernels.products(naive),
        "self_cosine": _self_cosine(gram),
        "num_splits": np.array(float(k)),
    }


def with_interval(s: Floats, spread: Floats, error: Floats, quantile: Floats) -> dict[str, Floats]:
    """Return cosines, products, and cosine +- quantile times the standard error."""
    cosine, sem = kernels.cosines(s), np.hypot(spread, error)
    half = quantile * sem
    return {
        "cosine": cosine,
        "cosine_low": cosine - half,
        "cosine_high": cosine + half,
        "cosine_sem": sem,
        "product": s,
    }


def judged(ds: xr.Dataset) -> xr.Dataset:
    """Add which cosines differ from 0 and, for pairs of tasks, which tasks show a signal."""
    excludes = (ds.cosine_low > 0) | (ds.cosine_high < 0)
    out = ds.assign(significant=excludes.assign_attrs(units="1", long_name="the interval excludes 0"))
    if "task2" in ds.dims:
        own = np.einsum("...ii->...i", ds["product"].values) > 0
        text = {"units": "1", "long_name": "the unbiased squared norm of the gradient is positive"}
        out["signal"] = (ds["product"].dims[:-1], own, text)
    return out


def _self_cosine(gram: Floats) -> Floats:
    """<mean_A, mean_B> / sqrt(S_ii^A S_ii^B) for two halves A, B of the splits, [..., T]."""
    half = gram.shape[-1] // 2
    if half < 2:
        return np.full(gram.shape[:-3], np.nan)
    a, b = slice(half), slice(half, None)
    first = kernels.signal_norms(kernels.products(gram[..., a, :, a]))
    second = kernels.signal_norms(kernels.products(gram[..., b, :, b]))
    between = np.einsum("...iaib->...i", gram[..., a, :, b]) / (half * (gram.shape[-1] - half))
    return np.asarray(between / (first * second))


def _percentiles(versions: Floats, k: int, level: float) -> tuple[Floats, Floats]:
    """Return percentiles of bootstrap versions [..., B, T, T], at the level Phi(-+ sqrt(K / (K - 1)) t(K - 1))."""
    if k < 3:
        empty = np.full(versions[..., 0, :, :].shape, np.nan)
        return empty, empty
    tail = stats.norm.cdf(-np.sqrt(k / (k - 1)) * t_quantile(level, k - 1))
    sorted_versions = np.sort(versions, axis=-3)  # NaN, resamples without signal, come last
    known = np.isfinite(sorted_versions).sum(-3, keepdims=True)
    last = np.maximum(known - 1, 0)
    ends = [np.rint(p * last).astype(int) for p in (tail, 1 - tail)]
    low, high = (np.take_along_axis(sorted_versions, end, axis=-3).squeeze(-3) for end in ends)
    return low, high


def _check_interval(interval: str) -> None:
    if interval not in ("jackknife", "bootstrap"):
        raise invalid("interval", interval, "jackknife or bootstrap", "use jackknife, which covers at every K >= 3")
