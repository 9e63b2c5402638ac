"""Nine objectives on one scale: exact errors, samples, noise and conflict of gradients, at equal compute.

Compute is counted in forward passes a row (`dynamics.planning.estimate`). Each objective has its own laws of times and
weights (`_family`); RATES come from `objectives_tuning`, the same effort for all. The late shift moves rows from v to
large gaps in the last quarter, behind each one's own curriculum (TEMF's share of r < t rows ends higher: there it takes
rows back). Arms whose steps cost more or less than MeanFlow's by a tenth and more also run for as many steps as it.
Seeds from 300 on.
"""

from typing import Any

from dynamics.analysis import Claim
from dynamics.config import RunConfig
from dynamics.curricula import GapLaw
from dynamics.evaluation import EvaluationOptions
from dynamics.instruments import GapsOptions, GramOptions
from dynamics.sweep.grid import Axes, Changes
from experiments import _family

QUESTION = "Which objective trains the most accurate one-step model at equal compute, why, and does a late shift help?"
PRIMARY, SAMPLES = "one_step_error_end", "excess_fd_u_nfe1"
SEEDS = {"digits": 10, "testbed": 10}
LATE = GapLaw(share_from=0.0, share_to=0.25, start=0.75, end=1.0, gap_share_to=0.75)
RATES: dict[str, dict[str, float]] = {
    "digits": dict.fromkeys(("dmf", "shortcut", "split", "tvm"), 2.0),
    "testbed": {},
}
"""Factor of the baseline's learning rate where it is not 1: the best of four in objectives_tuning."""
_PUBLISHED = (
    *(("alphaflow", "lower", "2510.20771"), ("imf", "lower", "2512.02012"), ("soflow", "lower", "2512.15657")),
    *(("tvm", "lower", "2511.19797"), ("temf", "lower", "TEMF, CVPR 2026"), ("shortcut", "higher", "2505.13447")),
)
_ALL = tuple(_family.objectives())
_TEXTS = {"lower": "better 1-NFE samples than MeanFlow", "higher": "worse 1-NFE samples than MeanFlow"}
# family, text, metric, arm, direction, opponent, more
_ROWS: list[tuple[str, str, str, str, str, str, dict[str, Any]]] = [
    *(("published", _TEXTS[d], SAMPLES, arm, d, "meanflow", {"source": s}) for arm, d, s in _PUBLISHED),
    *(("league", "one step is more accurate than MeanFlow's", PRIMARY, n, "lower", "meanflow", {}) for n in _ALL[1:]),
    *(("late shift, u", "more accurate one step", PRIMARY, f"{n}, late shift", "lower", n, {}) for n in _ALL),
    *(
        ("late shift, v", "v at most 5% off", "v_error_end", f"{n}, late shift", "lower", n, {"by": -0.05})
        for n in _ALL
    ),
]
CLAIMS = tuple(
    Claim(f"{arm}: {text}", metric, {"arm": arm}, direction, {"arm": opponent}, family=family, **more)
    for family, text, metric, arm, direction, opponent, more in _ROWS
)


def base(scale: str) -> RunConfig:
    return _family.base(scale)


def axes(scale: str) -> Axes:
    arms, num_steps = dict[str, Changes](), base(scale).training.num_steps
    for name, own in _family.objectives().items():
        rate = RATES[scale].get(name, 1.0) * base(scale).training.learning_rate
        own = {**own, "training.learning_rate": rate}
        late = {**own, "curricula": (*own["curricula"], LATE)}
        arms[name] = _family.at_equal_compute(scale, own)
        arms[f"{name}, late shift"] = _family.at_equal_compute(scale, late)
        if abs(arms[name]["training.num_steps"] / num_steps - 1) > 0.1:
            arms[f"{name}, as many steps"] = {**own, **_family.lasting(num_steps)}
    arms = {arm: {**changes, "observers": _observers(changes["training.num_steps"])} for arm, changes in arms.items()}
    return {"arm": arms, "seed": {seed: {"seed": seed} for seed in range(300, 300 + SEEDS[scale])}}


def _observers(num_steps: int) -> tuple[GapsOptions, GramOptions]:
    gram = GramOptions(every=num_steps // 2, t_law="uniform", num_splits=4, rows_per_split=128, groups="model")
    return GapsOptions(every=num_steps // 4, rows_per_bin=512), gram


def evaluation(scale: str) -> list[EvaluationOptions]:
    return [EvaluationOptions(nfe=(1, 2, 4), num_samples=10_000, only_frechet=True)]
