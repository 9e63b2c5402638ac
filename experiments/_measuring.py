"""What the studies measure: as they always did, and on the testbed enough to tell its arms apart."""

from dynamics.evaluation import EvaluationOptions
from dynamics.instruments import GapsOptions


def errors(scale: str, every: int) -> GapsOptions:
    """Return exact errors by time and gap: on the testbed of 6,656 rows."""
    return GapsOptions(every=every, rows_per_bin=512 if scale.startswith("testbed") else 128)


def samples(scale: str, by_v: bool = True) -> list[EvaluationOptions]:
    """Return 1- and 2-NFE samples by u and, unless told otherwise, 32-NFE samples by v."""
    if not scale.startswith("testbed"):
        return [EvaluationOptions(nfe=(1, 2)), *([EvaluationOptions(nfe=(32,), field="v")] if by_v else [])]
    many = EvaluationOptions(nfe=(1, 2), num_samples=10_000, only_frechet=True)
    return [many, *([many.model_copy(update={"nfe": (32,), "field": "v", "method": "heun"})] if by_v else [])]
