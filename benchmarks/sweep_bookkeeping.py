"""How long do plan, status and collect of many finished runs take, and how much memory?

    python benchmarks/sweep_bookkeeping.py --out benchmarks/results/sweep_bookkeeping.json

Makes a sweep of N finished tiny runs (one is trained, the others are its file under other configs, each with folder,
config and diary) and times the real commands in processes of their own, start of Python included. Peak memory is that
of the process; seconds are medians over rounds. The floor of collecting is reading every array once with h5py.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py

from dynamics.config import RunConfig
from dynamics.models import MLPOptions
from dynamics.runner import run
from dynamics.store import provenance
from dynamics.sweep.events import record
from dynamics.sweep.grid import experiment, plan
from dynamics.sweep.sweep_folder import SweepFolder
from dynamics.training import TrainingOptions

COMMAND = """
import sys, time
began = time.perf_counter()
from dynamics.cli.experiments import main
from dynamics.record import peak_memory_mb
imported = time.perf_counter()
main("many", sys.argv[1:])
print(f"\\nMEASURED {time.perf_counter() - began} {imported - began} {peak_memory_mb()}")
"""
EXPERIMENT = """
from dynamics.config import RunConfig
from dynamics.models import MLPOptions
from dynamics.training import TrainingOptions

QUESTION = "How long does bookkeeping take?"


def base(scale):
    training = TrainingOptions(num_steps={num_steps}, batch_size=8, num_threads=1)
    return RunConfig(model=MLPOptions(dim=16, depth=1), training=training)


def axes(scale):
    return {{"seed": {{seed: {{"seed": seed}} for seed in range({num_runs})}}}}
"""


def make_sweep(folder: Path, num_runs: int, num_steps: int) -> SweepFolder:
    """Write the package `many` with its experiment of `num_runs` runs, and every run's folder, finished."""
    name = f"runs_{num_runs}"
    package = folder / "many"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").touch()
    (package / f"{name}.py").write_text(EXPERIMENT.format(num_runs=num_runs, num_steps=num_steps))
    sweep = SweepFolder(folder / "results", name, "digits")
    runs = plan(experiment("many", name), "digits")
    first = sweep.run(runs[0].run_id)
    run(runs[0].config, first.path, progress=False)
    for planned in runs:
        there = sweep.run(planned.run_id)
        if planned is not runs[0]:
            there.path.mkdir(parents=True)
            there.config.write_text(planned.config.to_json())
            shutil.copyfile(first.result, there.result)
            with h5py.File(there.result, "r+") as file:
                own = {"config_json": planned.config.to_json(), "run_id": planned.run_id, "seed": planned.config.seed}
                file.attrs.update(own)
        record(there.path, "submitted", cluster="slurm", token=f"{name}-digits-0", index=0)
        record(there.path, "started", cluster="slurm", job_id="1_0", log="", out="", ranks=1, step=0)
        record(there.path, "finished", evaluations="[]", evaluation_seconds=0.0)
    return sweep


def measure(folder: Path, *words: str) -> dict[str, float]:
    """Run a command in a process of its own; return wall seconds, those of importing, and peak memory."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", COMMAND, *words, "--results", str(folder / "results")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("MEASURED"))
    seconds, importing, memory = map(float, line.split()[1:])
    return {"seconds": seconds, "of_these_importing": importing, "peak_memory_mb": memory}


def floor(sweep: SweepFolder) -> dict[str, float]:
    """Time the least that collecting needs: open every file and read its arrays."""
    began = time.perf_counter()
    size = 0
    for run_id in sweep.run_ids():
        with h5py.File(sweep.run(run_id).result) as file:
            arrays: list[h5py.Dataset] = []
            file.visititems(
                lambda _, item, arrays=arrays: arrays.append(item) if isinstance(item, h5py.Dataset) else None
            )
            size += sum(array[...].nbytes for array in arrays)
    return {"read_all_seconds": time.perf_counter() - began, "megabytes": size / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[500, 1000, 2000])
    parser.add_argument("--steps", type=int, default=20, help="training steps of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    config = RunConfig(model=MLPOptions(dim=16, depth=1), training=TrainingOptions(num_steps=args.steps, num_threads=1))
    table: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sys.path.insert(0, name)
        for num_runs in args.runs:
            sweep = make_sweep(folder, num_runs, args.steps)
            row: dict[str, object] = {"floor": floor(sweep)}
            for verb in ("plan", "status", "collect"):
                rounds = [measure(folder, sweep.experiment, verb) for _ in range(args.rounds)]
                row[verb] = {key: sorted(r[key] for r in rounds)[len(rounds) // 2] for key in rounds[0]}
                print(num_runs, verb, row[verb], flush=True)
            row["merged_megabytes"] = sweep.merged.stat().st_size / 1e6
            print(num_runs, "floor", row["floor"], flush=True)
            table[str(num_runs)] = row
    result = {**provenance(config.to_json(), config.run_id, config.seed), "rounds": args.rounds, "runs": table}
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
