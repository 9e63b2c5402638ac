"""Eight runs of some ten seconds, long enough to be interrupted: every part of a run that has state is in use."""

from dynamics.config import RunConfig
from dynamics.curricula import DTD, Beta, MinSNR
from dynamics.evaluation import EvaluationOptions
from dynamics.flow.times import TimesOptions
from dynamics.instruments import CellsOptions, GapsOptions
from dynamics.models import MLPOptions
from dynamics.sweep.grid import Axes
from dynamics.training import TrainingOptions

QUESTION = "Does an interrupted sweep come out as an undisturbed one?"


def base(scale: str) -> RunConfig:
    return RunConfig(
        model=MLPOptions(dim=32, depth=2),
        times=TimesOptions(gap_share=0.5),
        curricula=(DTD(num_clusters=3, patience=5), MinSNR(), Beta()),
        training=TrainingOptions(num_steps=1500, batch_size=32, checkpoint_every=500, num_threads=1),
        observers=(GapsOptions(every=600, rows_per_bin=4), CellsOptions(every=400)),
    )


def axes(scale: str) -> Axes:
    # the last one is longer, for what takes Slurm some seconds
    return {"seed": {seed: {"seed": seed, "training.num_steps": 5000 if seed == 7 else 1500} for seed in range(8)}}


def evaluation(scale: str) -> list[EvaluationOptions]:
    return [EvaluationOptions(nfe=(1,), num_samples=20)]
