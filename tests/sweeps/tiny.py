"""Ten runs of a fraction of a second: two arms from random and from pretrained weights, two seeds."""

from collections.abc import Mapping

from dynamics.config import RunConfig
from dynamics.evaluation import EvaluationOptions
from dynamics.flow.times import TimesOptions
from dynamics.instruments import CellsOptions
from dynamics.models import MLPOptions
from dynamics.objectives import FlowMatching
from dynamics.sweep.grid import Axes, Knob, with_values
from dynamics.training import TrainingOptions

QUESTION = "Does a sweep come out as its runs do?"


def base(scale: str) -> RunConfig:
    training = TrainingOptions(num_steps=12, batch_size=8, checkpoint_every=5, num_threads=1, ema_decays=(0.9,))
    return RunConfig(model=MLPOptions(dim=16, depth=1), training=training, observers=(CellsOptions(every=6),))


def axes(scale: str) -> Axes:
    return {
        "init": {"random": {}, "v": {}},
        "rate": {"slow": {"training.learning_rate": 1e-4}, "fast": {"training.learning_rate": 1e-2}},
        "seed": {seed: {"seed": seed} for seed in range(2)},
    }


def before(config: RunConfig, knobs: Mapping[str, Knob]) -> list[RunConfig]:
    pretraining = {"objective": FlowMatching(), "times": TimesOptions(gap_share=0.0), "training.learning_rate": 1e-3}
    return [with_values(config, pretraining)] if knobs["init"] == "v" else []


def evaluation(scale: str) -> list[EvaluationOptions]:
    return [EvaluationOptions(nfe=(1,), num_samples=20)]
