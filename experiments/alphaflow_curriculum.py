"""What makes AlphaFlow work: its way from trajectory flow matching to MeanFlow, or the rows with r = t?

"Understanding and Improving MeanFlow Models" (2510.20771) splits MeanFlow's loss into trajectory flow matching and
trajectory consistency, finds that their gradients oppose each other, that rows with r = t stand in for the first at
less conflict, and that a curriculum from a = 1 to a = 0 beats a fixed a. All arms have as many steps, of 3 passes a row
at a = 1, 3.5 between and on average of the curriculum, 4 at a = 0 (5 without r = t). Seeds from 400 on; the learning
rate was found for the curriculum, which favours it.
"""

from dynamics.analysis import Claim
from dynamics.config import RunConfig
from dynamics.evaluation import EvaluationOptions
from dynamics.instruments import DecompositionOptions, GapsOptions
from dynamics.objectives import AlphaFlow, Annealed
from dynamics.sweep.grid import Axes, Changes, with_values
from experiments import _family
from experiments.objectives import RATES

QUESTION = "Does AlphaFlow's curriculum beat a fixed alpha, and what do the rows with r = t give?"
PRIMARY, SAMPLES = "one_step_error_end", "excess_fd_u_nfe1"
SEEDS = {"digits": 10, "testbed": 5}
PAPER = "2510.20771"
CURRICULUM, MEANFLOW = "alpha 1 to 0", "alpha 0"
FIXED = {f"alpha {value:g}": Annealed(path="constant", first=value) for value in (1.0, 0.5, 0.1, 0.0)}
BORDER = {f"alpha 0, {round(100 * share)}% r=t": 1 - share for share in (0.0, 0.25, 0.75)}
_NONE, *_MORE = BORDER
# family, text, metric, arm, opponent
_ROWS = (
    *(("curriculum", f"one step is more accurate than at {arm}", PRIMARY, CURRICULUM, arm) for arm in FIXED),
    *(("curriculum, samples", f"better 1-NFE samples than at {arm}", SAMPLES, CURRICULUM, arm) for arm in FIXED),
    *(("border", "one step is more accurate than without r = t", PRIMARY, arm, _NONE) for arm in (MEANFLOW, *_MORE)),
    ("border, samples", "better 1-NFE samples than without r = t", SAMPLES, MEANFLOW, _NONE),
)
CLAIMS = (
    *(
        Claim(f"{arm}: {text}", metric, {"arm": arm}, "lower", {"arm": other}, family=family, source=PAPER)
        for family, text, metric, arm, other in _ROWS
    ),
    *(
        Claim(
            f"{arm}: the two forces oppose each other (cosine below -0.4), gaps 0.3-0.5, end of training",
            *("cosine_forces_0.3-0.5_end", {"arm": arm}, "lower"),
            than=-0.4,
            source=PAPER,
            family="forces",
        )
        for arm in (MEANFLOW, CURRICULUM)
    ),
)


def base(scale: str) -> RunConfig:
    config = with_values(_family.base(scale), _family.objectives()["alphaflow"])
    rate, observers = RATES[scale].get("alphaflow", 1.0) * config.training.learning_rate, (_errors(config),)
    return with_values(config, {"training.learning_rate": rate, "observers": observers})


def _errors(config: RunConfig) -> GapsOptions:
    return GapsOptions(every=config.training.num_steps // 4, rows_per_bin=512)


def axes(scale: str) -> Axes:
    fixed = {name: {"objective": AlphaFlow(alpha=alpha)} for name, alpha in FIXED.items()}
    linear = {"alpha 1 to 0, linear": {"objective": AlphaFlow(alpha=Annealed(path="linear"))}}
    arms: dict[str, Changes] = {CURRICULUM: {}, **linear, **fixed}
    arms |= {name: {**fixed[MEANFLOW], "times.gap_share": share} for name, share in BORDER.items()}
    errors = _errors(base(scale))
    forces = DecompositionOptions(
        every=errors.every, t_law="uniform", num_splits=4, rows_per_bin=64, rows_per_split=128, groups="model"
    )
    arms |= {name: {**arms[name], "observers": (errors, forces)} for name in (CURRICULUM, MEANFLOW)}
    return {"arm": arms, "seed": {seed: {"seed": seed} for seed in range(400, 400 + SEEDS[scale])}}


def evaluation(scale: str) -> list[EvaluationOptions]:
    return [EvaluationOptions(nfe=(1, 2, 4), num_samples=10_000, only_frechet=True)]
