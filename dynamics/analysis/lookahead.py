"""How much a step on one task lowers the loss of another, with intervals over splits."""

import numpy as np
import xarray as xr

from dynamics.analysis import runs
from dynamics.analysis.gram import Floats
from dynamics.analysis.measured import LEAD, Texts, over_measurements, t_quantile
from dynamics.options import invalid

PAIR = ("task", "task2")
TEXTS: Texts = {
    "lookahead": (PAIR, "1", "relative fall of task2's loss by a step on task"),
    "low": (PAIR, "1", "lower end of its interval"),
    "high": (PAIR, "1", "upper end of its interval"),
    "biased": (PAIR, "1", "1 where the step has seen the rows of the loss"),
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
    ds = runs.group(results, group) if isinstance(results, xr.DataTree) else results
    if "lookahead" not in ds:
        received = sorted(map(str, ds.data_vars))
        raise invalid(f"variables of {group}", received, "a group with lookahead", "dynamics probe DIR")
    lead = [dim for dim in LEAD if dim in ds.dims]
    ds = ds[["lookahead", "biased"]].transpose(*lead, "task", "task2", "split")

    def compute(values: Floats, biased: Floats) -> dict[str, Floats]:
        there = values[..., np.isfinite(values).any((0, 1))]
        mean, k = there.mean(-1), there.shape[-1]
        sem = there.std(-1, ddof=1) / np.sqrt(k) if k > 1 else np.full_like(mean, np.nan)
        spread = t_quantile(level, k - 1) * sem
        return {"lookahead": mean, "low": mean - spread, "high": mean + spread, "biased": biased}

    out = over_measurements(ds, [ds.lookahead, ds.biased], compute, TEXTS, {})
    out["significant"] = ((out.low > 0) | (out.high < 0)).assign_attrs(units="1", long_name="interval excludes 0")
    return out.assign_attrs(level=level)
