"""The cluster of the tests: jobs run, end, are cancelled, come back; and nothing of it stays."""

import subprocess
import sys
from pathlib import Path

import pytest
import slurm_jobs
import submitit
from slurm_cluster import HERE, Slurm
from slurm_jobs import Patient, Restarts


def executor(folder: Path, **parameters: object) -> submitit.AutoExecutor:
    made = submitit.AutoExecutor(folder=folder / "%j", cluster="slurm")
    made.update_parameters(timeout_min=5, cpus_per_task=1, **parameters)
    return made


def test_a_function_runs_and_returns(slurm: Slurm, tmp_path: Path) -> None:
    assert executor(tmp_path).submit(slurm_jobs.add, 2, 3).result() == 5


def test_an_array_of_four(slurm: Slurm, tmp_path: Path) -> None:
    jobs = executor(tmp_path).map_array(slurm_jobs.add, range(4), range(4))
    assert [job.job_id.partition("_")[2] for job in jobs] == ["0", "1", "2", "3"]
    assert [job.result() for job in jobs] == [0, 2, 4, 6]


def test_a_cancelled_job_leaves_the_queue(slurm: Slurm) -> None:
    job_id = slurm.ask("sbatch", "--parsable", "--output=/dev/null", "--wrap=srun sleep 3600")
    slurm.wait_until(lambda: slurm.states().get(job_id) == "RUNNING", what="the start")
    slurm.ask("scancel", job_id)
    slurm.wait_until(lambda: not slurm.states(), what="an empty queue")


def test_a_signalled_job_is_queued_again(slurm: Slurm, tmp_path: Path) -> None:
    job = executor(tmp_path).submit(Patient(tmp_path / "started"))
    slurm.wait_until((tmp_path / "started").exists, what="the start")
    slurm.signal(job.job_id, "USR2")
    slurm.wait_until(lambda: slurm.states().get(job.job_id) == "PENDING", what="the wait before the second start")
    slurm.wait_until(job.done, what="the second end")
    assert job.result() == Restarts(submitit=1, slurm=1)


def test_a_job_makes_room_for_one_of_higher_priority(slurm: Slurm, tmp_path: Path) -> None:
    # as the cluster is otherwise: SIGTERM, killed after a time of grace, queued again by Slurm; that takes 20 seconds
    with slurm.configured("SlurmctldParameters=preempt_send_user_signal"):
        job = executor(tmp_path, slurm_partition="low").submit(Patient(tmp_path / "started"))
        slurm.wait_until((tmp_path / "started").exists, what="the start")
        slurm.ask("sbatch", "--partition=high", "--cpus-per-task=8", "--output=/dev/null", "--wrap=sleep 1")
        slurm.wait_until(job.done, what="the end after the preemption")
    assert job.result() == Restarts(submitit=1, slurm=1)


def test_states_come_from_accounting_where_there_is_some(slurm_with_accounting: Slurm, tmp_path: Path) -> None:
    slurm = slurm_with_accounting
    job = executor(tmp_path).submit(slurm_jobs.add, 2, 3)
    assert job.result() == 5
    slurm.wait_until(lambda: job.watcher.get_state(job.job_id, mode="force") == "COMPLETED", what="sacct's COMPLETED")


def test_sacct_fails_without_accounting(slurm: Slurm) -> None:
    with pytest.raises(RuntimeError, match="accounting storage is disabled"):
        slurm.ask("sacct")


def test_a_silent_controller_comes_back(slurm: Slurm) -> None:
    with slurm.without_controller():
        assert not slurm.answers()
    assert slurm.states() == {}


def processes(folder: Path) -> dict[int, str]:
    """Return the names, by pid, of the processes that have a folder in their command line or environment."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "cmdline").read_bytes() + (process / "environ").read_bytes():
                found[int(process.name)] = (process / "comm").read_text().strip()
        except OSError:
            continue
    return found


def test_nothing_stays_of_a_session_that_is_killed(slurm: Slurm, tmp_path: Path) -> None:
    program = """
import signal, sys, slurm_cluster
with slurm_cluster.cluster(accounting=False) as slurm:
    slurm.ask("sbatch", "--output=/dev/null", "--wrap=srun sleep 3600")
    print(slurm.folder, flush=True)
    signal.pause()
"""
    session = subprocess.Popen(
        [sys.executable, "-c", program], env=slurm.environment, cwd=HERE, stdout=subprocess.PIPE, text=True
    )
    assert session.stdout is not None
    with session.stdout:
        folder = Path(session.stdout.readline().strip())
    slurm.wait_until(lambda: "sleep" in processes(folder).values(), what="the job of the other cluster")
    assert {"munged", "slurmctld", "slurmd", "srun"} <= set(processes(folder).values())
    session.kill()
    session.wait()
    slurm.wait_until(lambda: not processes(folder), what="the end of the other cluster")
    slurm.wait_until(lambda: not folder.exists(), what="the end of its folder")
