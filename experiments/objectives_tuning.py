"""Which learning rate suits each objective? The league tunes all of them with the same effort: four rates each.

At the compute of the league, with its own schedule each; the best of three seeds' mean is what the league takes.
"""

from dynamics.config import RunConfig
from dynamics.evaluation import EvaluationOptions
from dynamics.instruments import GapsOptions
from dynamics.sweep.grid import Axes, with_values
from experiments import _family

QUESTION = "Which learning rate makes each objective's u most accurate at equal compute?"
PRIMARY = "one_step_error_end"
FACTORS = (1 / 3, 1.0, 2.0, 4.0)
"""Of the baseline's rate."""
SEEDS = {"digits": (200, 201, 202), "testbed": (200, 201)}


def base(scale: str) -> RunConfig:
    return with_values(_family.base(scale), {"observers": (GapsOptions(every=10**9, rows_per_bin=512),)})


def axes(scale: str) -> Axes:
    rate = _family.base(scale).training.learning_rate
    return {
        "objective": {name: _family.at_equal_compute(scale, changes) for name, changes in _family.objectives().items()},
        "rate": {f"{factor * rate:g}": {"training.learning_rate": factor * rate} for factor in FACTORS},
        "seed": {seed: {"seed": seed} for seed in SEEDS[scale]},
    }


def evaluation(scale: str) -> list[EvaluationOptions]:
    return []
