"""How many steps does each schedule need for what vanilla MeanFlow reaches at the end?

Published (ImageNet, 1-NFE FID): 2.1 to 2.5 times fewer steps. A schedule depends on the planned number of steps, so
that every length is a training of its own; the longest is four times that of the other studies, which checks their
verdicts at a larger budget.
"""

from dynamics.analysis import Claim, SpeedUp
from dynamics.config import RunConfig
from dynamics.curricula import Beta, GapLaw, MinSNR
from dynamics.evaluation import EvaluationOptions
from dynamics.presets import baseline
from dynamics.sweep.grid import Axes, with_values
from experiments._measuring import errors, samples

QUESTION = (
    "How many steps does each schedule need to reach vanilla's final values, and what changes at four times as many?"
)
PRIMARY = "one_step_error"
LENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""In units of the baseline's number of steps."""
SEEDS = {"digits": 5, "digits-dit": 3, "mnist5k": 3, "testbed": 3, "b4": 1, "xl2": 1}
LAW = "50% u, growing late to 50%"


PAPER = "2511.19065"


def _faster(text: str, schedule: str, metric: str, source: str = "") -> SpeedUp:
    arms = ({"schedule": schedule}, "lower", {"schedule": "vanilla"})
    return SpeedUp(text, metric, *arms, source=source, family=schedule, along="length", at=1.0)


def _better(text: str, schedule: str, metric: str = PRIMARY) -> Claim:
    return Claim(text, metric, {"schedule": schedule, "length": "4"}, "lower", {"schedule": "vanilla"}, family=schedule)


CLAIMS = (
    _faster("MinSNR + beta reach vanilla's final error of u in fewer steps", "minsnr + beta", PRIMARY, PAPER),
    _faster("MinSNR + beta reach vanilla's final 1-NFE samples in fewer steps", "minsnr + beta", "fd_u_nfe1", PAPER),
    _faster("MinSNR + beta reach vanilla's final error of v in fewer steps", "minsnr + beta", "v_error"),
    _faster("ours: a growing share of uniform gaps reaches vanilla's final error of u sooner", LAW, PRIMARY),
    _faster("ours: it reaches vanilla's final 1-NFE samples sooner", LAW, "fd_u_nfe1"),
    _better("MinSNR + beta improve on vanilla at 4 times the steps", "minsnr + beta"),
    _better("ours: the growing share improves on vanilla at 4 times the steps", LAW),
)


def base(scale: str) -> RunConfig:
    return with_values(baseline(scale), {"observers": (errors(scale, every=10**9),)})


def axes(scale: str) -> Axes:
    steps = baseline(scale).training.num_steps
    lengths = LENGTHS[:-1] if scale == "testbed" else LENGTHS  # four times as many steps are in `testbed`
    growing = {"times.gap_share": 0.5, "curricula": (GapLaw(share_to=0.5, start=0.5, end=1.0),)}
    return {
        "schedule": {"vanilla": {}, "minsnr + beta": {"curricula": (MinSNR(), Beta())}, LAW: growing},
        "length": {length: {"training.num_steps": round(length * steps)} for length in lengths},
        "seed": {seed: {"seed": seed} for seed in range(SEEDS[scale])},
    }


def evaluation(scale: str) -> list[EvaluationOptions]:
    return samples(scale)
