"""The cluster of the tests: jobs run, end, are cancelled, come back; and nothing of it stays."""

from pathlib import Path

import slurm_jobs
import submitit
from slurm_cluster import Slurm


def executor(folder: Path, **parameters: object) -> submitit.AutoExecutor:
    made = submitit.AutoExecutor(folder=folder / "%j", cluster="slurm")
    made.update_parameters(timeout_min=5, cpus_per_task=1, **parameters)
    return made


def test_a_function_runs_and_returns(slurm: Slurm, tmp_path: Path) -> None:
    job = executor(tmp_path).submit(slurm_jobs.add, 2, 3)
    assert job.result() == 5
