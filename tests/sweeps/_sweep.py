"""A small sweep in a folder of its own, and how to compare its runs."""

import json
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from dynamics.planning.resources import RESOURCES
from dynamics.store import read_run
from dynamics.sweep.grid import Experiment, Planned, experiment, plan
from dynamics.sweep.local import run_here
from dynamics.sweep.submit import ClusterOptions
from dynamics.sweep.sweep_folder import SweepFolder


@dataclass(frozen=True)
class Small:
    """An experiment of the tests, its plan and its folder."""

    experiment: Experiment
    runs: list[Planned]
    folder: SweepFolder

    def do(self, *runs: Planned) -> None:
        """Train and evaluate runs in this process."""
        run_here(self.folder, runs or self.runs, ClusterOptions(cluster="debug"), RESOURCES["digits"])


def small(name: str, results: Path) -> Small:
    """Return one of the tests' sweeps with its results in a folder."""
    which = experiment("sweeps", name)
    return Small(which, plan(which, "digits"), SweepFolder(results, name, "digits"))


def same_results(a: Path, b: Path) -> None:
    """Compare two run folders: last weights, moments, and everything recorded but wall time, bit by bit."""
    (files_a, groups_a), (files_b, groups_b) = _content(a), _content(b)
    assert files_a == files_b
    assert groups_a.keys() == groups_b.keys()
    for name, dataset in groups_a.items():
        xr.testing.assert_identical(dataset, groups_b[name])


def _content(folder: Path) -> tuple[dict[str, bytes], dict[str, xr.Dataset]]:
    newest = max((folder / "checkpoints").iterdir())
    files = {p.name: p.read_bytes() for p in newest.glob("*.safetensors")}
    state = json.loads((newest / "state.json").read_text())
    files |= {name: json.dumps(state[name]).encode() for name in ("curricula", "cells")}
    tree = read_run(folder / "run.nc")
    return files, {n: node.to_dataset().drop_vars("step_seconds", errors="ignore") for n, node in tree.children.items()}
