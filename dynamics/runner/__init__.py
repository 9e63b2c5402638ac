"""Runs: a config goes in, a run folder comes out. The only thing experiments call."""

from dynamics.runner.measure.finished_run import evaluated, load_network
from dynamics.runner.measure.quality import evaluate_run
from dynamics.runner.run_folder import RunFolder, RunInUseError
from dynamics.runner.train import run
from dynamics.training import device_for

__all__ = [
    "RunFolder",
    "RunInUseError",
    "device_for",
    "evaluate_run",
    "evaluated",
    "load_network",
    "run",
]
