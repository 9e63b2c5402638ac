"""Runs: a config goes in, a run folder comes out. The only thing experiments call."""

from dynamics.runner.evaluate import evaluate_run, evaluated, load_network
from dynamics.runner.folder import RunFolder
from dynamics.runner.public import ImportedRun, export_run, import_run
from dynamics.runner.train import RunInUseError, run
from dynamics.training import device_for

__all__ = [
    "ImportedRun",
    "RunFolder",
    "RunInUseError",
    "device_for",
    "evaluate_run",
    "evaluated",
    "export_run",
    "import_run",
    "load_network",
    "run",
]
