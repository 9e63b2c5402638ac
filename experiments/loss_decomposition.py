"""What is MeanFlow's loss made of while it trains?

The losses of v and of u by time and gap, what of them can be learned, and the two forces in u's gradient: trajectory
flow matching and trajectory consistency. AlphaFlow (2510.20771) reports a cosine below -0.4 between them for more
than 95% of training; a cosine on one batch is itself negatively biased, since both sides share the noise of v.
"""

from dynamics.analysis import Claim
from dynamics.config import RunConfig
from dynamics.curricula import Beta, MinSNR
from dynamics.instruments import CellsOptions, DecompositionOptions
from dynamics.presets import baseline
from dynamics.sweep.grid import Axes, with_values
from experiments._measuring import errors

QUESTION = "How do flow matching and consistency share u's gradient, and what is left to learn of v?"
PRIMARY = "cosine_forces_0.3-0.5_end"
BINS = ("0.1-0.3", "0.3-0.5", "0.5-0.7", "0.7-0.9")
SEEDS = {"digits": 5, "digits-dit": 3, "mnist5k": 3, "testbed": 5, "b4": 3, "xl2": 1}
CLAIMS = tuple(
    Claim(
        f"aF: the two forces oppose each other (cosine below -0.4), gaps {gap}, {when} of training",
        f"cosine_forces_{gap}_{when}",
        {"schedule": "vanilla"},
        "lower",
        than=-0.4,
        source="2510.20771",
    )
    for gap in BINS
    for when in ("end",)
)


def base(scale: str) -> RunConfig:
    config = baseline(scale)
    quarter = config.training.num_steps // 4
    observers = (
        CellsOptions(every=quarter // 2),
        errors(scale, every=quarter // 2),
        DecompositionOptions(every=quarter, rows_per_bin=64, rows_per_split=64, t_law="uniform", groups="model"),
    )
    return with_values(config, {"observers": observers})


def axes(scale: str) -> Axes:
    return {
        "schedule": {"vanilla": {}, "minsnr + beta": {"curricula": (MinSNR(), Beta())}},
        "seed": {seed: {"seed": seed} for seed in range(SEEDS[scale])},
    }
