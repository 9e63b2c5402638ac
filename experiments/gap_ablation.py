"""What does training the average velocity over gaps of one size do to the instantaneous velocity?

Study O2 of "Understanding, Accelerating, and Improving MeanFlow Training" (2511.19065): u alone over one bin of gaps,
from random weights and from weights that know v. Published direction: small gaps build and refine v, large gaps fail.
"""

from collections.abc import Mapping

from dynamics.config import RunConfig, preset
from dynamics.evaluation.evaluate import EvaluationOptions
from dynamics.flow.times import TimesOptions, UniformGap
from dynamics.instruments import GapsOptions, GramOptions
from dynamics.objectives import FlowMatching, MeanFlow
from dynamics.sweep.grid import Axes, Knob, with_values

QUESTION = "Which gaps t - r build, refine or destroy v = u(z, t, t), from random weights and after v has been learned?"
BINS = ((0.1, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 0.9))
SEEDS = {"digits": 5, "b4": 3, "xl2": 1}
PRETRAINING = {"objective": FlowMatching(), "times": TimesOptions(gap_share=0.0)}


def base(scale: str) -> RunConfig:
    config = preset(f"{scale}-meanflow")
    half = config.training.num_steps // 2
    observers = (GapsOptions(every=250), GramOptions(every=half, t_law="uniform"))
    # as many steps of u as of v before, unguided, so that the exact velocities are those of the data
    unguided = {"objective": MeanFlow(), "training.num_steps": half, "training.num_threads": 1}
    return with_values(config, {**unguided, "observers": observers})


def axes(scale: str) -> Axes:
    return {
        "init": {"random": {}, "v": {}},
        "gap": {
            f"{low}-{high}": {"times": TimesOptions(law=UniformGap(low=low, high=high), gap_share=1.0)}
            for low, high in BINS
        },
        "seed": {seed: {"seed": seed} for seed in range(SEEDS[scale])},
    }


def before(config: RunConfig, knobs: Mapping[str, Knob]) -> list[RunConfig]:
    """v-pretrained runs start from one run of v alone, the same for all gaps."""
    return [with_values(config, PRETRAINING)] if knobs["init"] == "v" else []


def evaluation(scale: str) -> list[EvaluationOptions]:
    return [EvaluationOptions(nfe=(1, 2)), EvaluationOptions(nfe=(32,), field="v")]
