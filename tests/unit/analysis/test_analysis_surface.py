"""What users import stays where it is, and reading results needs no torch."""

import subprocess
import sys

import dynamics.analysis
from dynamics import analysis


def test_reading_results_needs_no_torch() -> None:
    check = "import sys, dynamics.analysis, dynamics.estimators; print([m for m in sys.modules if m == 'torch'])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there_and_is_no_module_but_plots() -> None:
    modules = [name for name in analysis.__all__ if type(getattr(analysis, name)).__name__ == "module"]
    assert modules == ["plots"]
    assert all(callable(getattr(analysis.plots, name)) for name in analysis.plots.__all__)
    assert dynamics.analysis.affinity is analysis.affinity
