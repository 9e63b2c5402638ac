"""Estimators on plain float64 arrays: unbiased products of gradients, their cosines and noise; effects over seeds.

Everything takes any leading dimensions. `dynamics.analysis` puts labels on what these return.
"""

from dynamics.estimators.censored_effects import CensoredEffect
from dynamics.estimators.gradient_noise import batch_cosines, split_noise
from dynamics.estimators.intervals import Floats, holm, jackknife_sem, mean_sem, t_quantile
from dynamics.estimators.over_rows import row_affinity, row_products
from dynamics.estimators.over_splits import IntervalKind, combine_tasks, split_affinity, split_products
from dynamics.estimators.repeated_looks import check_looks, look_limits, repeated_p
from dynamics.estimators.seed_budget import decision_power, seeds_needed
from dynamics.estimators.seed_effects import SeedEffect, TwoWay, mean_effect

__all__ = [
    "CensoredEffect",
    "Floats",
    "IntervalKind",
    "SeedEffect",
    "TwoWay",
    "batch_cosines",
    "check_looks",
    "combine_tasks",
    "decision_power",
    "holm",
    "jackknife_sem",
    "look_limits",
    "mean_effect",
    "mean_sem",
    "repeated_p",
    "row_affinity",
    "row_products",
    "seeds_needed",
    "split_affinity",
    "split_noise",
    "split_products",
    "t_quantile",
]
