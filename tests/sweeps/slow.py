"""Eight runs to be interrupted (see `_held`), short when left alone: every part of a run that has state is in use."""

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
        model=MLPOptions(dim=16, depth=1),
        times=TimesOptions(gap_share=0.5),
        curricula=(DTD(num_clusters=3, patience=5), MinSNR(), Beta()),
        training=TrainingOptions(num_steps=80, batch_size=16, checkpoint_every=30, num_threads=1),
        observers=(GapsOptions(every=32, rows_per_bin=4), CellsOptions(every=22)),
    )


def axes(scale: str) -> Axes:
    return {"seed": {seed: {"seed": seed} for seed in range(8)}}


def evaluation(scale: str) -> list[EvaluationOptions]:
    return [EvaluationOptions(nfe=(1,), num_samples=20)]
