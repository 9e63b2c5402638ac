"""A sweep of two or three minutes, to see that submitting, watching and collecting work on a new machine."""

from dynamics.config import RunConfig
from dynamics.curricula import Beta
from dynamics.evaluation import EvaluationOptions
from dynamics.instruments import CellsOptions, GapsOptions
from dynamics.presets import preset
from dynamics.sweep.grid import Axes, with_values

QUESTION = "Does the machinery work, and how far do four seeds of the same short run lie apart?"


def base(scale: str) -> RunConfig:
    short = {"training.num_steps": 300, "training.checkpoint_every": 100, "training.num_threads": 1}
    observers = (GapsOptions(every=100, rows_per_bin=16), CellsOptions(every=100))
    return with_values(preset(f"{scale}-meanflow"), {**short, "model.depth": 2, "observers": observers})


def axes(scale: str) -> Axes:
    return {
        "schedule": {"vanilla": {}, "beta": {"curricula": (Beta(),)}},
        "seed": {seed: {"seed": seed} for seed in range(4)},
    }


def evaluation(scale: str) -> list[EvaluationOptions]:
    return [EvaluationOptions(nfe=(1, 2), num_samples=500)]
