"""Runs of a fraction of a second whose claims want different numbers of seeds; those of one arm start from others."""

from collections.abc import Mapping

from dynamics.analysis import Claim
from dynamics.config import RunConfig
from dynamics.evaluation import EvaluationOptions
from dynamics.sweep.grid import Axes, Knob
from sweeps import tiny

QUESTION = "Do looks at the claims stop the arms that are decided, and no others?"
METRIC = "fd_u_nfe1"
CLAIMS = (
    Claim("a high rate is better", METRIC, {"arm": "fast"}, "lower", {"arm": "slow"}, primary=True),
    Claim("a start from v is better", METRIC, {"arm": "from v"}, "lower", {"arm": "slow"}, margin=0.3),
)


def base(scale: str) -> RunConfig:
    return tiny.base(scale)


def axes(scale: str) -> Axes:
    arms = {"slow": 1e-4, "fast": 1e-1, "from v": 2e-4}
    return {
        "arm": {arm: {"training.learning_rate": rate} for arm, rate in arms.items()},
        "seed": {seed: {"seed": seed} for seed in range(2)},
    }


def before(config: RunConfig, knobs: Mapping[str, Knob]) -> list[RunConfig]:
    return tiny.before(config, {"init": "v" if knobs["arm"] == "from v" else "random"})


def evaluation(scale: str) -> list[EvaluationOptions]:
    return tiny.evaluation(scale)
