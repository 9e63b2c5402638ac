"""Do v and the average velocities of each gap pull the weights the same way, and how does that depend on the start?

Study O3 of "Understanding, Accelerating, and Improving MeanFlow Training" (2511.19065): cosine of the gradients of v
and of u in each bin of gaps, at random weights, after v alone, after u over small gaps alone. Published direction:
both starts raise it, small gaps the most for large bins. At random weights the zero final layer makes all tasks
alike, hence a fourth start, with which the others are compared: twenty ordinary steps. All starts then train
ordinarily, and the cosines are followed. One law of t for all bins: else a large gap also means a large t.
"""

from collections.abc import Mapping

from dynamics.analysis import Claim
from dynamics.config import RunConfig
from dynamics.flow.times import TimesOptions, UniformGap
from dynamics.instruments import GramOptions, LookaheadOptions
from dynamics.presets import baseline
from dynamics.sweep.grid import Axes, Knob, with_values
from experiments._measuring import errors

QUESTION = "Which start makes the gradients of v and of u agree, bin by bin, and does that last?"
PRIMARY = "cosine_v_0.7-0.9_start"
SMALL = "cosine_v_0.1-0.3_start"
SEEDS = {"digits": 6, "digits-dit": 4, "mnist5k": 3, "testbed": 6, "b4": 3, "xl2": 1}


def _claim(text: str, metric: str, start: str, against: str) -> Claim:
    primary = (metric, start) == (PRIMARY, "v")
    return Claim(text, metric, {"start": start}, "higher", {"start": against}, source="2511.19065", primary=primary)


CLAIMS = (
    _claim("O3: learning v first raises the affinity to small gaps", SMALL, "v", "warm"),
    _claim("O3: learning v first raises the affinity to large gaps", PRIMARY, "v", "warm"),
    _claim("O3: learning small gaps first raises it for small gaps", SMALL, "small gaps", "warm"),
    _claim("O3: learning small gaps first raises it for large gaps", PRIMARY, "small gaps", "warm"),
    _claim("O3: for large gaps small gaps are the better start", PRIMARY, "small gaps", "v"),
)


def base(scale: str) -> RunConfig:
    config = baseline(scale)
    half = config.training.num_steps // 2
    observers = (
        errors(scale, every=half // 2),
        GramOptions(every=half // 4, t_law="matched", num_splits=8, rows_per_split=128, groups="model"),
        LookaheadOptions(every=half // 2, t_law="matched", num_splits=8, rows_per_split=64),
    )
    return with_values(config, {"training.num_steps": half, "observers": observers})


def axes(scale: str) -> Axes:
    return {
        "start": {"random": {}, "warm": {}, "v": {}, "small gaps": {}},
        "seed": {seed: {"seed": seed} for seed in range(SEEDS[scale])},
    }


def before(config: RunConfig, knobs: Mapping[str, Knob]) -> list[RunConfig]:
    small = TimesOptions(law=UniformGap(low=0.1, high=0.3), gap_share=1.0)
    starts = {
        "random": [],
        "warm": [{"training.num_steps": 20}],
        "v": [{"times": TimesOptions(gap_share=0.0)}],
        "small gaps": [{"times": small}],
    }
    return [with_values(config, {"observers": (), **changes}) for changes in starts[str(knobs["start"])]]
