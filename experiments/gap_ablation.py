"""What does training the average velocity over gaps of one size do to the instantaneous velocity?

Study O2 of "Understanding, Accelerating, and Improving MeanFlow Training" (2511.19065): u alone over one bin of gaps,
from random weights and from weights that know v. Published direction: small gaps build and refine v, large gaps fail.
Gaps of a bin come with their own law of t (large gaps never visit small t); the arms "matched" have one law for all.
"""

from collections.abc import Mapping

from dynamics.analysis import Claim, Direction
from dynamics.config import RunConfig
from dynamics.evaluation import EvaluationOptions
from dynamics.flow.times import TimesOptions, UniformGap, UniformGapFromTime
from dynamics.instruments import GramOptions
from dynamics.presets import baseline
from dynamics.sweep.grid import Axes, Knob, with_values
from experiments._measuring import errors, samples

QUESTION = "Which gaps t - r build, refine or destroy v = u(z, t, t), from random weights and after v has been learned?"
PRIMARY = "v_error_end"
BINS = ((0.1, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 0.9))
SEEDS = {"digits": 5, "digits-dit": 3, "mnist5k": 3, "testbed": 5, "testbed-mlp": 5, "b4": 3, "xl2": 1}
_START, _LARGE = "v_error_start", "0.7-0.9 matched"


def _claim(text: str, init: str, gap: str, expected: Direction, against: str = "") -> Claim:
    other = {"against": {"gap": against}} if against else {"relative_to": _START}
    arm, primary = {"init": init, "gap": gap}, text == "O2: small gaps build v from nothing"
    return Claim(text, PRIMARY, arm, expected, **other, source="2511.19065", primary=primary)


def _seen(text: str, init: str, gap: str, expected: Direction, against: str = "") -> Claim:
    other = {"against": {"gap": against}} if against else {"relative_to": "v_error_0.9-1_start"}
    return Claim(text, "v_error_0.9-1_end", {"init": init, "gap": gap}, expected, post_hoc=True, **other)


CLAIMS = (
    _claim("O2: small gaps build v from nothing", "random", "0.1-0.3", "lower"),
    _claim("O2: small gaps build v better than large ones", "random", "0.1-0.3", "lower", "0.7-0.9"),
    _claim("O2, one law of t: small gaps build v better", "random", "0.1-0.3 matched", "lower", "0.7-0.9 matched"),
    _claim("O2: small gaps refine a learned v", "v", "0.1-0.3", "lower"),
    _claim("O2: large gaps destroy a learned v", "v", "0.7-0.9", "higher"),
    _claim("O2, one law of t: large gaps destroy a learned v", "v", "0.7-0.9 matched", "higher"),
    # that law has t >= 0.9 only: what happens to v there, where all gaps train it?
    _seen("one law of t, v where it is drawn: small gaps build v better", "random", "0.1-0.3 matched", "lower", _LARGE),
    _seen("one law of t, v where it is drawn: small gaps refine v", "v", "0.1-0.3 matched", "lower"),
    _seen("one law of t, v where it is drawn: large gaps destroy v", "v", "0.7-0.9 matched", "higher"),
)


def base(scale: str) -> RunConfig:
    config = baseline(scale)
    half = config.training.num_steps // 2
    observers = (
        errors(scale, every=half // 2),
        GramOptions(every=half, t_law="uniform", groups="model", rows_per_split=64),
    )
    # as many steps of u as of v before
    return with_values(config, {"training.num_steps": half, "times.gap_share": 1.0, "observers": observers})


def axes(scale: str) -> Axes:
    own = {f"{low}-{high}": UniformGap(low=low, high=high) for low, high in BINS}
    matched = {f"{low}-{high} matched": UniformGapFromTime(t_min=0.9, low=low, high=high) for low, high in BINS}
    controlled = ("digits", "testbed", "testbed-mlp")
    laws = {**own, **matched} if scale in controlled else own
    return {
        "init": {"random": {}, "v": {}},
        "gap": {label: {"times.law": law} for label, law in laws.items()},
        "seed": {seed: {"seed": seed} for seed in range(SEEDS[scale])},
    }


def before(config: RunConfig, knobs: Mapping[str, Knob]) -> list[RunConfig]:
    """v-pretrained runs start from one run of the same objective on v alone, the same for all gaps."""
    return [with_values(config, {"times": TimesOptions(gap_share=0.0)})] if knobs["init"] == "v" else []


def evaluation(scale: str) -> list[EvaluationOptions]:
    return [options.model_copy(update={"nfe": (1,)}) if options.field == "u" else options for options in samples(scale)]
