"""Does the improved schedule make better one-step samples than MeanFlow, trained to the end at full scale?

Published (2511.19065, ImageNet 256, 1-NFE FID): XL/2 3.43 -> 2.87 (DTD + beta), B/4 11.58 -> 9.87 (MinSNR + beta). At
the scales b4 and xl2 both are the presets of the papers, on latents, measured by FID of 50000 samples. digits-dit and
mnist5k are the same question of a small DiT on pixels, with MinSNR + beta. The scale digits is a rehearsal: it walks
the whole way of paper scale, from images to the report, in a few minutes, with an autoencoder and an Inception of
random weights. Its numbers mean nothing.
"""

from pathlib import Path

from dynamics.analysis import Claim
from dynamics.config import RunConfig
from dynamics.data import Latents
from dynamics.evaluation import EvaluationOptions
from dynamics.evaluation.fid import FidOptions
from dynamics.instruments import CellsOptions, GapsOptions
from dynamics.models import DiTOptions
from dynamics.presets import preset
from dynamics.sweep.grid import Axes, with_values
from dynamics.sweep.machine_files import Files
from experiments._rehearsal import VAE, rehearsal

QUESTION = "Does the improved schedule make better one-step samples than MeanFlow, trained to the end?"
PRIMARY = "fd_u_nfe1"
PRESETS = {"digits": "b4", "digits-dit": "digits", "mnist5k": "mnist"}
SEEDS = {"digits": 1, "digits-dit": 3, "mnist5k": 3, "b4": 3, "xl2": 1}

_ARMS = ({"schedule": "improved"}, "lower", {"schedule": "meanflow"})
PAPER = "2511.19065"
CLAIMS = (
    Claim("the improved schedule improves 1-NFE samples", PRIMARY, *_ARMS, source=PAPER, primary=True),
    Claim("the improved schedule improves 2-NFE samples", "fd_u_nfe2", *_ARMS, source=PAPER),
)

SMALL = {
    "data": Latents(image_size=32, vae=VAE),
    "model": DiTOptions(patch_size=1, dim=64, depth=2, heads=4),
    "training.num_steps": 60,
    "training.batch_size": 64,
    "training.learning_rate": 1e-3,
    "training.ema_decays": (0.98,),
    "training.compile": False,
    "training.num_threads": 1,
    "training.checkpoint_every": 20,
    "observers": (GapsOptions(every=30, rows_per_bin=32), CellsOptions()),
}


def base(scale: str) -> RunConfig:
    config = preset(f"{PRESETS.get(scale, scale)}-meanflow")
    return with_values(config, SMALL) if scale == "digits" else config


def axes(scale: str) -> Axes:
    return {
        "schedule": {
            "meanflow": {},
            "improved": {"curricula": preset("xl2-improved" if scale == "xl2" else "b4-improved").curricula},
        },
        "seed": {seed: {"seed": seed} for seed in range(SEEDS[scale])},
    }


def evaluation(scale: str) -> list[EvaluationOptions]:
    if scale in ("digits-dit", "mnist5k"):
        return [EvaluationOptions(nfe=(1, 2))]
    return [FidOptions(nfe=(1, 2), num_samples=20, batch_size=10) if scale == "digits" else FidOptions(nfe=(1, 2))]


def prepare(scale: str, folder: Path) -> Files:
    return rehearsal(folder) if scale == "digits" else Files()
