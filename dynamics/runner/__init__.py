"""Runs: a config goes in, a run folder comes out. The only thing experiments call."""

from dynamics.runner.measure.quality import evaluate_run, evaluated, load_network
from dynamics.runner.run_folder import RunFolder
from dynamics.runner.train import RunInUseError, run
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
