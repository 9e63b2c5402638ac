"""Estimators on plain float64 arrays: unbiased products of gradients, their cosines and noise, with intervals.

Everything takes any leading dimensions. `dynamics.analysis` puts labels on what these return.
"""

from dynamics.estimators.cosine import cosine_changes, cosine_error, cosine_interval, cosines, signal_norms
from dynamics.estimators.gradient_noise import batch_cosines, split_noise
from dynamics.estimators.intervals import Floats, jackknife_sem, mean_sem, t_quantile
from dynamics.estimators.over_rows import products_without_rows, row_affinity, row_products
from dynamics.estimators.over_splits import (
    IntervalKind,
    bootstrap_products,
    combine_tasks,
    merge_splits,
    pair_cosines,
    products_without_splits,
    same_split,
    split_affinity,
    split_products,
)

__all__ = [
    "Floats",
    "IntervalKind",
    "batch_cosines",
    "bootstrap_products",
    "combine_tasks",
    "cosine_changes",
    "cosine_error",
    "cosine_interval",
    "cosines",
    "jackknife_sem",
    "mean_sem",
    "merge_splits",
    "pair_cosines",
    "products_without_rows",
    "products_without_splits",
    "row_affinity",
    "row_products",
    "same_split",
    "signal_norms",
    "split_affinity",
    "split_noise",
    "split_products",
    "t_quantile",
]
