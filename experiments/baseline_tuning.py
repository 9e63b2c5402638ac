"""Which optimiser settings suit plain MeanFlow best? Whatever is compared with a baseline needs one that is tuned.

Grid of learning rate, adaptive exponent p and average; then one change at a time around the best of the grid.
"""

from itertools import product

from dynamics.config import RunConfig, baseline
from dynamics.evaluation.evaluate import EvaluationOptions
from dynamics.instruments import GapsOptions
from dynamics.sweep.grid import Axes, with_values

QUESTION = "Which learning rate, adaptive exponent, average and batch make plain MeanFlow's u most accurate?"
RATES, EXPONENTS, AVERAGES = (1e-3, 2e-3, 4e-3, 8e-3), (0.0, 0.5, 1.0), (0.98, 0.995)


def base(scale: str) -> RunConfig:
    observers = (GapsOptions(every=300, rows_per_bin=128),)
    short = {"training.num_steps": 1200, "training.batch_size": 128, "training.num_threads": 1}
    return with_values(baseline(scale), {**short, "training.checkpoint_every": 1200, "observers": observers})


def axes(scale: str) -> Axes:
    grid = {
        f"lr={rate:g} p={p:g} ema={ema:g}": {
            "training.learning_rate": rate,
            "objective.adaptive.p": p,
            "training.ema_decays": (ema,),
        }
        for rate, p, ema in product(RATES, EXPONENTS, AVERAGES)
    }
    return {"setting": grid, "seed": {seed: {"seed": seed} for seed in range(2)}}


def evaluation(scale: str) -> list[EvaluationOptions]:
    return [EvaluationOptions(nfe=(1, 2, 32)), EvaluationOptions(nfe=(32,), field="v")]
