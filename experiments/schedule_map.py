"""Where does a schedule help? Its effect on one-step errors and samples, from far under-trained to converged.

Schedules of "Understanding, Accelerating, and Improving MeanFlow Training" (2511.19065), controls of equal average
weight, a constant law of gaps, and the late shift of rows from v to u. A regime is p of the adaptive weight, learning
rate, steps, and guidance inside u's target of an effective scale of 1 (w'=1). Seeds below 100 led to the claims.
"""

from dynamics.analysis import Claim
from dynamics.config import RunConfig
from dynamics.curricula import DTD, Beta, Constant, GapLaw, MinSNR
from dynamics.evaluation import EvaluationOptions
from dynamics.instruments import GapsOptions
from dynamics.objectives import Guidance
from dynamics.presets import baseline
from dynamics.sweep.grid import Axes, Changes, with_values

QUESTION = "Where does each schedule help, where does it harm, and what helps everywhere?"
PRIMARY, PAPER = "one_step_error_end", "2511.19065"
NFE = {1: "excess_fd_u_nfe1", 2: "excess_fd_u_nfe2", 32: "excess_fd_v_nfe32@n10000_seed0_ema_heun"}
SEEDS, LABEL = {"digits": 5, "testbed": 3, "testbed-mlp": 3, "mnist5k": 3}, "p={} lr={:g} {}{}"
DIGITS = (
    *((1, 1e-3, 400, ""), (1, 1e-3, 800, ""), (1, 1e-3, 800, " w'=1"), (1, 2e-3, 800, "")),
    *((1, 2e-3, 3200, ""), (0, 1e-3, 800, ""), (0, 3e-3, 800, "")),
)
TESTBED, MNIST = ((1, 1e-3, 1000, " w'=1"), (1, 2e-3, 1000, " w'=1")), ((1, 1e-3, 1200, ""), (1, 2e-3, 600, ""))
REGIMES = {"digits": DIGITS, "testbed": TESTBED, "testbed-mlp": TESTBED, "mnist5k": MNIST}
RAW, DIFFICULTY, NORMALISED, LATE = "minsnr v + beta", "dtd + beta", "minsnr v normalised + beta", "late shift"
BOTH = f"{NORMALISED} + {LATE}"
UNDER_TRAINED, SEEN = (DIGITS[1], TESTBED[1]), (DIGITS[1], TESTBED[1], DIGITS[3], DIGITS[6])
_ROWS = (
    *(("normalised weights", f"better {n}-NFE samples", NORMALISED, NFE[n], None, UNDER_TRAINED) for n in NFE),
    ("late shift, u", "one-step error at least 8% lower", LATE, PRIMARY, 0.08, SEEN),
    ("late shift, v", "error of v at most 5% higher", LATE, "v_error_end", -0.05, SEEN),
    ("both", "better 1-NFE samples", BOTH, NFE[1], None, SEEN),
    *((arm, "better 1-NFE samples", arm, NFE[1], None, (*DIGITS, *TESTBED)) for arm in (RAW, DIFFICULTY)),
    *((arm, "better 1-NFE samples", arm, "fd_u_nfe1", None, MNIST) for arm in (RAW, DIFFICULTY)),
)
CLAIMS = tuple(
    Claim(
        *(f"{arm}: {text} ({LABEL.format(*regime)})", metric, {"schedule": arm, "regime": LABEL.format(*regime)}),
        *("lower", {"schedule": "vanilla"}),
        **{"source": PAPER if family == arm else "", "family": family, "by": by},
    )
    for family, text, arm, metric, by, where in _ROWS
    for regime in where
)


def base(scale: str) -> RunConfig:
    return with_values(baseline(scale), {"training.batch_size": 128} if scale == "mnist5k" else {})


def axes(scale: str) -> Axes:
    late = GapLaw(share_from=0.0, share_to=0.25, start=0.75, end=1.0, gap_share_to=0.75)
    # DTD's 20 clusters join within 19 steps, 0.6 to 5% of training (published: 0.6%); 0.399 is the mean of MinSNR's v
    dtd, normalised = DTD(pacing="fixed", stage_steps=1), MinSNR(normalise=True)
    chains = {
        **{"vanilla": (), RAW: (MinSNR(), Beta()), NORMALISED: (normalised, Beta()), DIFFICULTY: (dtd, Beta())},
        **{"beta": (Beta(),), "constant alpha + beta": (Constant(v=0.399), Beta())},
        **{LATE: (late,), BOTH: (normalised, Beta(), late)},
    }
    schedules: dict[str, Changes] = {name: {"curricula": chain} for name, chain in chains.items()}
    regimes = {LABEL.format(*regime): _changes(scale, *regime) for regime in REGIMES[scale]}
    seeds, law = range(100, 100 + SEEDS[scale]), GapLaw(share_from=0.25, share_to=0.25)
    schedules["50% u, 25% uniform"] = {"times.gap_share": 0.5, "curricula": (law,)}
    return {"schedule": schedules, "regime": regimes, "seed": {seed: {"seed": seed} for seed in seeds}}


def _changes(scale: str, p: int, rate: float, steps: int, guided: str) -> Changes:
    every, rows = (10**9, 128) if scale == "mnist5k" else (steps // 4, 512)
    return {
        **{"training.learning_rate": rate, "training.num_steps": steps, "training.checkpoint_every": steps},
        **{"objective.adaptive.p": p, "objective.guidance": Guidance(w=0.25, k=0.75) if guided else Guidance()},
        "observers": (GapsOptions(every=every, rows_per_bin=rows),),
    }


def evaluation(scale: str) -> list[EvaluationOptions]:
    many = EvaluationOptions(nfe=(1, 2), num_samples=10_000, only_frechet=True)
    return [many, many.model_copy(update={"nfe": (32,), "field": "v", "method": "heun"})]
