"""How much a step on one task lowers the loss of another, with intervals over splits."""

import numpy as np
import xarray as xr

from dynamics.analysis.gradients.measurements import LEAD, Labels, over_measurements
from dynamics.analysis.run_groups import group_or_dataset
from dynamics.estimators import Floats, mean_sem, t_quantile

STEPPED = ("task", "task2")
STEP_LABELS: Labels = {
    "lookahead": (STEPPED, "1", "relative fall of task2's loss by a step on task"),
    "low": (STEPPED, "1", "lower end of its interval"),
    "high": (STEPPED, "1", "upper end of its interval"),
    "biased": (STEPPED, "1", "1 where the step has seen the rows of the loss"),
}


def lookahead(results: xr.DataTree | xr.Dataset, group: str = "lookahead", level: float = 0.95) -> xr.Dataset:
    """Return Z_{i -> j} = 1 - L_j(theta_i) / L_j(theta), the mean over splits (TAG, 2109.04617, eq. 1).

    Splits are independent rows for the step and for the loss, each split serving once as either, so that the interval
    mean +- t(K - 1) sem takes neighbouring splits as independent, which they are to first order.

    Args:
        results: Results of one run or many, or the dataset of the group.
        group: lookahead.
        level: Probability that an interval covers the truth.

    Returns:
        [run?, step?, task, task2]: `lookahead` (the step on `task` seen by `task2`; positive helps), `low`, `high`,
        `significant` (the interval excludes 0) and `biased`.

    Raises:
        ValueError: The group is missing.
    """
    ds = group_or_dataset(results, group, ("lookahead", "biased"))
    ds = ds.transpose(*(dim for dim in LEAD if dim in ds.dims), "task", "task2", "split")

    def compute(values: Floats, biased: Floats) -> dict[str, Floats]:
        there = values[..., np.isfinite(values).any((0, 1))]
        mean, half = there.mean(-1), t_quantile(level, there.shape[-1] - 1) * mean_sem(there)
        return {"lookahead": mean, "low": mean - half, "high": mean + half, "biased": biased}

    out = over_measurements(ds, [ds.lookahead, ds.biased], compute, STEP_LABELS)
    out["significant"] = ((out.low > 0) | (out.high < 0)).assign_attrs(units="1", long_name="interval excludes 0")
    return out.assign_attrs(level=level)
