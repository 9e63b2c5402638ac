"""Slurm's answers, from a stand-in program: what a real one says is tested in tests/integration."""

from pathlib import Path

import pytest

from dynamics.sweep import slurm


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bash").symlink_to("/bin/bash")
    for name in ("sleep", "env"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


def test_queue_reads_arrays_single_jobs_and_hostile_names(program: Path) -> None:
    lines = "7_0|0|RUNNING|None|a-x\\n7_1|1|PENDING|Priority|a-x\\n9|N/A|PENDING|Dependency|b|c"
    write(program, "squeue", f'echo "$@" >> {program}/asked; printf "{lines}\\n"')
    jobs = slurm.queue(["a-x", "b|c"])
    assert jobs == {
        ("a-x", 0): slurm.Job("7_0", "RUNNING", "None"),
        ("a-x", 1): slurm.Job("7_1", "PENDING", "Priority"),
        ("b|c", 0): slurm.Job("9", "PENDING", "Dependency"),
    }
    assert [job.waits for job in jobs.values()] == [False, True, True]
    assert "--name=a-x,b|c" in (program / "asked").read_text()


def test_many_names_are_asked_in_parts(program: Path) -> None:
    write(program, "squeue", f"echo x >> {program}/asked")
    slurm.queue([f"name-{i}" for i in range(1001)])
    assert (program / "asked").read_text().count("x") == 3


def test_silence_is_an_error_and_not_an_empty_queue(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(slurm.SlurmError, match="squeue is not on this machine"):
        slurm.queue(["a"])
    write(program, "squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(slurm.SlurmError, match="Unable to contact"):
        slurm.queue(["a"])
    monkeypatch.setattr(slurm, "SECONDS", 0.2)
    write(program, "squeue", "exec sleep 30")
    with pytest.raises(slurm.SlurmError, match="did not answer within"):
        slurm.queue(["a"])


def test_how_a_job_ended_comes_from_accounting_or_else_from_the_controller(program: Path) -> None:
    assert slurm.ending("3") == ""
    write(program, "scontrol", "echo 'JobId=3 JobName=x JobState=OUT_OF_MEMORY Reason=None'")
    assert slurm.ending("3") == "OUT_OF_MEMORY"
    write(program, "sacct", "echo 'CANCELLED by 0'")
    assert slurm.ending("3") == "CANCELLED"
    write(program, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert slurm.ending("3") == "OUT_OF_MEMORY"


def test_the_largest_array_is_the_clusters(program: Path) -> None:
    write(program, "scontrol", "echo 'MaxArraySize            = 51'")
    assert slurm.largest_array() == 50


def test_cancel_names_the_jobs(program: Path) -> None:
    write(program, "scancel", f'echo "$@" > {program}/asked')
    slurm.cancel(["1_2", "5"])
    assert (program / "asked").read_text().split() == ["--quiet", "1_2", "5"]
    (program / "asked").unlink()
    slurm.cancel([])
    assert not (program / "asked").exists()
