"""Does the improved schedule help at every strength of guidance?

Guidance inside the target (Mean Flows, 2505.13447, section 4.2): w v + (1 - w - k) v_unc + k v_con, effective scale
w / (1 - k). Exact errors are those against the guided velocity that each setting converges to.
"""

from dynamics.analysis import Claim
from dynamics.config import RunConfig
from dynamics.curricula import Beta, MinSNR
from dynamics.evaluation import EvaluationOptions
from dynamics.presets import baseline
from dynamics.sweep.grid import Axes, with_values
from experiments._measuring import errors, samples

QUESTION = "How do w and k of the guidance change 1-NFE samples, with and without the improved schedule?"
PRIMARY = "one_step_error"
GRID = ((1.0, 0.0), (1.0, 0.25), (1.0, 0.5), (0.5, 0.5), (0.5, 0.75), (0.25, 0.875))
SEEDS = {"digits": 5, "digits-dit": 3, "mnist5k": 3, "b4": 1, "xl2": 1}
_ARMS = ({"schedule": "minsnr + beta"}, "lower", {"schedule": "vanilla"})
CLAIMS = (
    Claim("MinSNR + beta improve on vanilla whatever the guidance", PRIMARY, *_ARMS, source="2511.19065", primary=True),
    Claim("the same in 1-NFE samples", "fd_u_nfe1", *_ARMS, source="2511.19065"),
    Claim(
        "guidance (w' = 2) makes 1-NFE samples better than none",
        "fd_u_nfe1",
        {"guidance": "w=1 k=0.5", "schedule": "vanilla"},
        "lower",
        {"guidance": "w=1 k=0", "schedule": "vanilla"},
        source="2505.13447",
        family="guidance",
        primary=True,
    ),
    Claim(
        "MinSNR + beta harm where the network guides itself most (k = 0.875)",
        PRIMARY,
        {"guidance": "w=0.25 k=0.875", "schedule": "minsnr + beta"},
        "higher",
        {"schedule": "vanilla"},
        post_hoc=True,
    ),
)


def base(scale: str) -> RunConfig:
    config = baseline(scale)
    return with_values(config, {"observers": (errors(scale, every=config.training.num_steps // 4),)})


def axes(scale: str) -> Axes:
    return {
        "guidance": {f"w={w:g} k={k:g}": {"objective.guidance.w": w, "objective.guidance.k": k} for w, k in GRID},
        "schedule": {"vanilla": {}, "minsnr + beta": {"curricula": (MinSNR(), Beta())}},
        "seed": {seed: {"seed": seed} for seed in range(SEEDS[scale])},
    }


def evaluation(scale: str) -> list[EvaluationOptions]:
    return samples(scale, by_v=False)
