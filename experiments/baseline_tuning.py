"""Which optimiser settings suit plain MeanFlow best? Whatever is compared with a baseline needs one that is tuned.

A grid of learning rate, adaptive exponent p and average at 1200 steps; then, at the 800 steps of the studies, the
best of it once more and one change at a time.
"""

from itertools import product

from dynamics.config import RunConfig
from dynamics.evaluation import EvaluationOptions
from dynamics.instruments import GapsOptions
from dynamics.presets import baseline
from dynamics.sweep.grid import Axes, Changes, with_values

QUESTION = "Which learning rate, adaptive exponent, average and batch make plain MeanFlow's u most accurate?"
PRIMARY = "one_step_error"
RATES, EXPONENTS, AVERAGES = (1e-3, 2e-3, 4e-3, 8e-3), (0.0, 0.5, 1.0), (0.98, 0.995)
STUDY = {"training.num_steps": 800, "training.ema_decays": (0.98,)}
CHANGES: dict[str, Changes] = {
    "beta2=0.99": {"training.betas": (0.9, 0.99)},
    "batch=256": {"training.batch_size": 256},
    "warmup=100": {"training.warmup_steps": 100},
    "batch=512": {"training.batch_size": 512},
    "batch=256 lr=0.004": {"training.batch_size": 256, "training.learning_rate": 4e-3},
    "batch=256 p=0.5": {"training.batch_size": 256, "objective.adaptive.p": 0.5},
    "ema=0.95": {"training.ema_decays": (0.95,)},
}


def base(scale: str) -> RunConfig:
    observers = (GapsOptions(every=300, rows_per_bin=128),)
    short = {"training.num_steps": 1200, "training.batch_size": 128, "training.num_threads": 1}
    return with_values(baseline(scale), {**short, "training.checkpoint_every": 1200, "observers": observers})


def axes(scale: str) -> Axes:
    def around(rate: float, p: float) -> dict[str, object]:
        return {"training.learning_rate": rate, "objective.adaptive.p": p}

    grid: dict[str, Changes] = {
        f"lr={rate:g} p={p:g} ema={ema:g}": {**around(rate, p), "training.ema_decays": (ema,)}
        for rate, p, ema in product(RATES, EXPONENTS, AVERAGES)
    }
    short = {
        f"lr={rate:g} p={p:g} steps=800": {**STUDY, **around(rate, p)}
        for rate, p in product((2e-3, 3e-3, 4e-3), (0.0, 0.5))
    }
    changed = {f"lr=0.003 p=0 steps=800 {name}": {**STUDY, **around(3e-3, 0.0), **c} for name, c in CHANGES.items()}
    return {"setting": {**grid, **short, **changed}, "seed": {seed: {"seed": seed} for seed in range(2)}}


def evaluation(scale: str) -> list[EvaluationOptions]:
    return [EvaluationOptions(nfe=(1, 2, 32)), EvaluationOptions(nfe=(32,), field="v")]
