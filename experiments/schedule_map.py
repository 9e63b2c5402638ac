"""When does a schedule help? Its effect on one-step errors and samples, from far under-trained to converged.

Schedules of "Understanding, Accelerating, and Improving MeanFlow Training" (2511.19065), the controls that keep their
average weight, and changes of which rows are drawn: a constant law of gaps, and the late shift, v first and u late. A
regime is a learning rate, a number of steps, the adaptive exponent p, and guidance inside u's target whose effective
scale is 1 (w'=1): the truth stays that of the data. What was seen before (`experiments/LOG.md`) was seen on seeds below
100.
"""

from dynamics.analysis import Claim
from dynamics.config import RunConfig, baseline
from dynamics.curricula import DTD, Beta, Constant, GapLaw, MinSNR
from dynamics.evaluation import EvaluationOptions
from dynamics.instruments import GapsOptions
from dynamics.objectives import Guidance
from dynamics.sweep.grid import Axes, Changes, with_values

QUESTION = "Where does each schedule help, where does it harm, and what helps everywhere?"
PRIMARY = "one_step_error_end"
PAPER = "2511.19065"
HEUN = "@n10000_seed0_ema_heun"
NFE1, NFE2, NFE32 = "excess_fd_u_nfe1", "excess_fd_u_nfe2", f"excess_fd_v_nfe32{HEUN}"
"""Frechet distances less that of the population's own samples."""
UNDER_TRAINED = ("p=1 lr=0.001 800", "p=1 lr=0.001 1000 w'=1")
"""Of digits, and of the testbed."""
SEEN = (*UNDER_TRAINED, "p=1 lr=0.002 800", "p=0 lr=0.003 800")
"""Regimes of the earlier look, and the testbed's."""
_MIXTURE = ((1e-3, 1000, 1, True), (2e-3, 1000, 1, True))
# learning rate, steps, p, guided
REGIMES: dict[str, tuple[tuple[float, int, int, bool], ...]] = {
    "digits": (
        *((1e-3, 400, 1, False), (1e-3, 800, 1, False), (1e-3, 800, 1, True), (2e-3, 800, 1, False)),
        *((2e-3, 3200, 1, False), (1e-3, 800, 0, False), (3e-3, 800, 0, False)),
    ),
    "testbed": _MIXTURE,
    "testbed-mlp": _MIXTURE,
    "mnist5k": ((1e-3, 1200, 1, False), (2e-3, 600, 1, False)),
}
SEEDS = {"digits": 5, "testbed": 3, "testbed-mlp": 3, "mnist5k": 3}
FIRST_SEED = 100
RAW, DIFFICULTY, NORMALISED = "minsnr v + beta", "dtd + beta", "minsnr v normalised + beta"
LATE, BOTH = "late shift", "minsnr v normalised + beta + late shift"


def name_of(rate: float, steps: int, p: int, guided: bool) -> str:
    return f"p={p} lr={rate:g} {steps}" + " w'=1" * guided


def _lower(family: str, what: str, arm: str, metric: str, regime: str, by: float | None = None) -> Claim:
    text = f"{arm}: {what} ({regime})"
    sides = ({"schedule": arm, "regime": regime}, "lower", {"schedule": "vanilla"})
    return Claim(text, metric, *sides, source=PAPER if "paper" in family else "", family=family, by=by)


CLAIMS = (
    *(
        _lower("normalised weights", f"better {nfe}-NFE samples", NORMALISED, metric, regime)
        for nfe, metric in ((1, NFE1), (2, NFE2), (32, NFE32))
        for regime in UNDER_TRAINED
    ),
    *(_lower("late shift, u", "one-step error at least 8% lower", LATE, PRIMARY, r, by=0.08) for r in SEEN),
    *(_lower("late shift, v", "error of v at most 5% higher", LATE, "v_error_end", r, by=-0.05) for r in SEEN),
    *(_lower("both", "better 1-NFE samples", BOTH, NFE1, r) for r in SEEN),
    *(
        _lower(f"paper: {arm}", "better 1-NFE samples", arm, metric, name_of(*regime))
        for arm in (RAW, DIFFICULTY)
        for scale, metric in (("digits", NFE1), ("testbed", NFE1), ("mnist5k", "fd_u_nfe1"))
        for regime in REGIMES[scale]
    ),
)


def base(scale: str) -> RunConfig:
    batch = {"training.batch_size": 128} if scale == "mnist5k" else {}
    return with_values(baseline(scale), batch)


def axes(scale: str) -> Axes:
    late = GapLaw(share_from=0.0, share_to=0.25, start=0.75, end=1.0, gap_share_to=0.75)
    constant = GapLaw(share_from=0.25, share_to=0.25)
    schedules: dict[str, Changes] = {
        "vanilla": {},
        RAW: {"curricula": (MinSNR(), Beta())},
        NORMALISED: {"curricula": (MinSNR(normalise=True), Beta())},
        # its 20 clusters join within 19 steps, 0.5 to 5% of training; published: about 0.6%
        DIFFICULTY: {"curricula": (DTD(pacing="fixed", stage_steps=1), Beta())},
        "constant alpha + beta": {"curricula": (Constant(v=0.399), Beta())},  # the mean of MinSNR's v
        "beta": {"curricula": (Beta(),)},
        "50% u, 25% uniform": {"times.gap_share": 0.5, "curricula": (constant,)},
        LATE: {"curricula": (late,)},
        BOTH: {"curricula": (MinSNR(normalise=True), Beta(), late)},
    }
    seeds = {seed: {"seed": seed} for seed in range(FIRST_SEED, FIRST_SEED + SEEDS[scale])}
    regimes = {name_of(*regime): _changes(scale, *regime) for regime in REGIMES[scale]}
    return {"schedule": schedules, "regime": regimes, "seed": seeds}


def _changes(scale: str, rate: float, steps: int, p: int, guided: bool) -> Changes:
    # the exact velocities of a finite set say little of quality, and take long
    rows, every = (128, 10**9) if scale == "mnist5k" else (512, steps // 4)
    return {
        "training.learning_rate": rate,
        "training.num_steps": steps,
        "training.checkpoint_every": steps,
        "objective.adaptive.p": p,
        "objective.guidance": Guidance(w=0.25, k=0.75) if guided else Guidance(),
        "observers": (GapsOptions(every=every, rows_per_bin=rows),),
    }


def evaluation(scale: str) -> list[EvaluationOptions]:
    many = {"num_samples": 10_000, "only_frechet": True}
    return [
        EvaluationOptions(nfe=(1, 2), **many),
        EvaluationOptions(nfe=(32,), field="v", method="heun", **many),
    ]
