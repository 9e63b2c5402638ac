"""How fast should the weight move from small gaps to all gaps?

s = 1 - (i/T)^k of "Understanding, Accelerating, and Improving MeanFlow Training" (2511.19065). Published 1-NFE FID
for k = 0.5, 1, 2 (B/4, with DTD): 11.16, 10.20, 11.44.
"""

from dynamics.analysis import Claim
from dynamics.config import RunConfig
from dynamics.curricula import Beta, MinSNR, denoising_difficulty
from dynamics.evaluation import EvaluationOptions
from dynamics.presets import baseline
from dynamics.sweep.grid import Axes, with_values
from experiments._measuring import errors, samples

QUESTION = "Which exponent k of beta's progress is best, with DTD and with MinSNR?"
PRIMARY = "one_step_error"
EXPONENTS = (0.5, 1.0, 2.0)
SEEDS = {"digits": 5, "digits-dit": 3, "mnist5k": 3, "testbed": 5, "b4": 1, "xl2": 1}
CLAIMS = tuple(
    Claim(
        f"k = 1 is better than k = {other:g}, with {name}",
        PRIMARY,
        {"arm": f"{name}, k=1"},
        "lower",
        {"arm": f"{name}, k={other:g}"},
        source="2511.19065" if name == "dtd" else "",
        family=name,
    )
    for name in ("dtd", "minsnr")
    for other in (0.5, 2.0)
)


def base(scale: str) -> RunConfig:
    config = baseline(scale)
    return with_values(config, {"observers": (errors(scale, every=config.training.num_steps // 4),)})


def axes(scale: str) -> Axes:
    first = {"dtd": denoising_difficulty(baseline(scale).training.num_steps), "minsnr": MinSNR()}
    arms = {f"{name}, k={k:g}": {"curricula": (one, Beta(k=k))} for name, one in first.items() for k in EXPONENTS}
    return {"arm": {"vanilla": {}, **arms}, "seed": {seed: {"seed": seed} for seed in range(SEEDS[scale])}}


def evaluation(scale: str) -> list[EvaluationOptions]:
    return samples(scale)
