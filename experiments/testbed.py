"""Is plain MeanFlow, on the mixture that looks like MNIST, in the regime in which the papers make their claims?

Their networks are far from convergence, train with p = 1 and a constant rate, and u learns from the network's own v
(guidance with w' = 1 here, so that the truth stays that of the data; w' = 2 as the replicate). No arm runs before plain
MeanFlow has passed three gates (`dynamics.analysis.regime_gates`): it is under-trained, most of the error of large gaps
is inherited from v, and in the middle of training the gradients of v and of large gaps point apart.
"""

from dynamics.config import RunConfig
from dynamics.evaluation import EvaluationOptions
from dynamics.instruments import DecompositionOptions, GapsOptions, GramOptions, InstrumentOptions
from dynamics.objectives import Guidance
from dynamics.presets import baseline
from dynamics.sweep.grid import Axes

QUESTION = "At which length is plain MeanFlow under-trained, with a u that fails by its v?"
PRIMARY = "fd_u_nfe1"
LENGTHS = (1, 4)
"""In units of the baseline's number of steps."""
SEEDS = 8


def base(scale: str) -> RunConfig:
    return baseline(scale)


def axes(scale: str) -> Axes:
    lengths = [n * baseline(scale).training.num_steps for n in LENGTHS]
    return {
        "guidance": {
            "w'=1": {"objective.guidance": Guidance(w=0.25, k=0.75)},
            "w'=2": {"objective.guidance": Guidance(w=1.0, k=0.5)},
        },
        "steps": {steps: {"training.num_steps": steps, "observers": _observers(steps)} for steps in lengths},
        "seed": {seed: {"seed": seed} for seed in range(SEEDS)},
    }


def _observers(steps: int) -> tuple[InstrumentOptions, ...]:
    return (
        GapsOptions(every=steps // 4, rows_per_bin=128),
        GramOptions(every=steps // 40, num_splits=4, rows_per_split=64, groups="model"),
        DecompositionOptions(every=steps // 2, rows_per_bin=128, num_splits=2, rows_per_split=2, groups="model"),
    )


def evaluation(scale: str) -> list[EvaluationOptions]:
    return [EvaluationOptions(nfe=(1, 2), num_samples=10_000)]
