"""Do two tasks pull the weights the same way? Cosines of true gradients, from the stored Gram of independent splits."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from dynamics.analysis.gradients.measurements import (
    ONE,
    PAIR,
    SQUARED,
    Labels,
    finite_splits,
    over_measurements,
    split_gram,
    task_index,
)
from dynamics.estimators import Floats, IntervalKind, combine_tasks, split_affinity
from dynamics.options import invalid

COSINE_LABELS: Labels = {
    "cosine": (PAIR, "1", "cosine of the true gradients, unbiased products"),
    "cosine_low": (PAIR, "1", "lower end of the cosine's interval"),
    "cosine_high": (PAIR, "1", "upper end of the cosine's interval"),
    "cosine_sem": (PAIR, "1", "standard error of the cosine"),
    "product": (PAIR, SQUARED, "unbiased inner product of the true gradients"),
    "product_sem": (PAIR, SQUARED, "standard error of the product"),
    "conflict_share": (PAIR, "1", "share of independent gradient pairs with negative inner product"),
}
AFFINITY_LABELS: Labels = {
    **COSINE_LABELS,
    "naive_cosine": (PAIR, "1", "cosine of gradients of the same split, biased"),
    "naive_independent": (PAIR, "1", "cosine of gradients of different splits, biased towards 0"),
    "self_cosine": (ONE, "1", "cosine of a gradient with itself over two halves of the splits, expected 1"),
    "num_splits": ((), "1", "independent splits"),
}


def affinity(
    results: xr.DataTree | xr.Dataset, group: str = "gram", interval: IntervalKind = "jackknife", level: float = 0.95
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
    ds = split_gram(results, group)

    def compute(gram: Floats, error: Floats) -> dict[str, Floats]:
        splits = finite_splits(gram)
        return split_affinity(gram[:, :, splits][..., splits], error, interval, level)

    out = over_measurements(ds, [ds.gram, ds.product_error], compute, AFFINITY_LABELS)
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
        mixed = combine_tasks(own, here)
        found = split_affinity(mixed, spread, level=level)
        return {name: found[name][:, :-1, -1] for name in COSINE_LABELS}

    labels = {name: (ONE, units, f"{text}, with the update") for name, (_, units, text) in COSINE_LABELS.items()}
    out = over_measurements(ds, [ds.gram, ds.product_error], compute, labels)
    return judged(out.assign_attrs(level=level))


def judged(ds: xr.Dataset) -> xr.Dataset:
    """Add which cosines differ from 0 and, for pairs of tasks, which tasks show a signal."""
    excludes = (ds.cosine_low > 0) | (ds.cosine_high < 0)
    out = ds.assign(significant=excludes.assign_attrs(units="1", long_name="the interval excludes 0"))
    if "task2" in ds.dims:
        own = np.einsum("...ii->...i", ds["product"].values) > 0
        text = {"units": "1", "long_name": "the unbiased squared norm of the gradient is positive"}
        out["signal"] = (ds["product"].dims[:-1], own, text)
    return out


def affinity_table(gram: xr.Dataset) -> str:
    """Return the cosines between the tasks' true gradients of one measurement, whole model, as text.

    Args:
        gram: Group gram of one checkpoint, without `run` and `step`.
    """
    found = affinity(gram).sel(group="model")
    tasks = [str(task) for task in found.task.values]
    table = pd.DataFrame("", tasks, ["cosine of true gradients [95% interval]", *tasks])
    table.iloc[:, 0] = tasks
    for i, task in enumerate(tasks):
        for j, other in enumerate(tasks[: i + 1]):
            cosine, low, high = (float(found[name][i, j]) for name in ("cosine", "cosine_low", "cosine_high"))
            interval = "no interval of so few splits" if math.isnan(low) else f"{low:.2f}, {high:.2f}"
            shown = "no signal" if math.isnan(cosine) else f"{cosine:.2f} [{interval}]"
            table.loc[task, other] = shown
    return str(table.to_markdown(index=False, tablefmt="plain", disable_numparse=True))
