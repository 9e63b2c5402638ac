"""A whole study through a real Slurm of one node, compared with its committed file.

    python benchmarks/study_on_slurm.py loss_decomposition

Starts the Slurm of the tests (see .ci/run for the packages), submits the experiment with --cluster slurm, waits,
collects, and compares every number with results/EXPERIMENT/digits.nc, made by other processes on this kind of machine.
Writes benchmarks/results/study_on_slurm.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "integration"))

from slurm_cluster import cluster  # noqa: E402

from dynamics.store import open_results, provenance  # noqa: E402

WALL = ("step_seconds", "seconds")
"""What no two runs share."""


def compare(ours: xr.DataTree, theirs: xr.DataTree) -> dict[str, dict[str, float]]:
    """Return, by group, how many numbers there are and the largest difference."""
    out = {}
    for name in map(str, theirs.children):
        a, b = (tree[name].to_dataset().sortby("run") for tree in (ours, theirs))
        assert list(a.run.values) == list(b.run.values), f"{name}: other runs"
        numbers, worst = 0, 0.0
        for variable in (str(v) for v in b.data_vars if str(v) not in WALL and b[v].dtype.kind in "fiu"):
            x, y = a[variable].values.astype(float), b[variable].values.astype(float)
            assert np.array_equal(np.isnan(x), np.isnan(y)), f"{name}/{variable}: other runs were measured"
            numbers += y.size
            worst = max(worst, float(np.nanmax(np.abs(x - y), initial=0.0)))
        out[name] = {"numbers": numbers, "largest_difference": worst}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment")
    parser.add_argument("--parallelism", default="2", help="jobs at a time")
    asked = parser.parse_args()
    began = time.time()
    with cluster(accounting=False) as slurm, tempfile.TemporaryDirectory() as folder:
        environment = slurm.environment | {"OMP_NUM_THREADS": "1"}

        def experiments(*words: str) -> str:
            command = [sys.executable, "-m", "experiments", asked.experiment, *words, "--results", folder]
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{' '.join(words)}: {done.stdout}\n{done.stderr}")
            return done.stdout

        print(experiments("submit", "--cluster", "slurm", "--timeout", "60", "--parallelism", asked.parallelism))
        while states := slurm.states():
            print(f"{time.time() - began:5.0f} s: {len(states)} jobs in the queue", flush=True)
            time.sleep(15)
        print(experiments("collect", "--small"))
        os.sync()
        through_slurm = open_results(Path(folder) / asked.experiment / "digits.nc")
    committed = open_results(ROOT / "results" / asked.experiment / "digits.nc")
    found = compare(through_slurm, committed)
    said = provenance("", "", 0)
    result = {
        "experiment": asked.experiment,
        "runs": int(committed["training"].sizes["run"]),
        "groups": found,
        "seconds": round(time.time() - began),
        "git_sha": said["git_sha"],
        "dirty": said["dirty"],
    }
    (ROOT / "benchmarks" / "results" / "study_on_slurm.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
