"""Estimators on plain float64 arrays: unbiased products of gradients, their cosines and noise, with intervals.

Everything takes any leading dimensions. `dynamics.analysis` puts labels on what these return.
"""

from dynamics.estimators.gradient_noise import batch_cosines, split_noise
from dynamics.estimators.intervals import Floats, jackknife_sem, mean_sem, t_quantile
from dynamics.estimators.over_rows import row_affinity, row_products
from dynamics.estimators.over_splits import IntervalKind, combine_tasks, split_affinity, split_products

__all__ = [
    "Floats",
    "IntervalKind",
    "batch_cosines",
    "combine_tasks",
    "jackknife_sem",
    "mean_sem",
    "row_affinity",
    "row_products",
    "split_affinity",
    "split_noise",
    "split_products",
    "t_quantile",
]
