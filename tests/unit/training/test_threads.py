"""How many threads a run takes: what is asked for, else what the environment grants, else what the process is left."""

from pathlib import Path

import pytest

from dynamics.training import TrainingOptions, optimisation, threads_for


@pytest.mark.parametrize(
    ("asked", "environment", "affinity", "quota", "expected"),
    [
        (3, {"OMP_NUM_THREADS": "5"}, 8, "max 100000", 3),
        (None, {"OMP_NUM_THREADS": "5", "SLURM_CPUS_PER_TASK": "4"}, 8, "max 100000", 5),
        (None, {"OMP_NUM_THREADS": "6,2"}, 8, "max 100000", 6),
        (None, {"OMP_NUM_THREADS": "", "SLURM_CPUS_PER_TASK": "4"}, 8, "max 100000", 4),
        (None, {"OMP_NUM_THREADS": "many"}, 3, "max 100000", 3),
        (None, {}, 16, "450000 100000", 4),
        (None, {}, 16, "50000 100000", 1),
        (None, {}, 16, "max 100000", 2),
        (None, {}, 16, None, 2),
    ],
)
def test_threads(
    asked: int | None,
    environment: dict[str, str],
    affinity: int,
    quota: str | None,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(affinity)))
    if quota is not None:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(optimisation, "CGROUP", tmp_path / "cpu.max")
    assert threads_for(TrainingOptions(num_threads=asked)) == expected
