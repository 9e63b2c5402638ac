"""Run folders with known numbers: no training."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from synthetic_runs import BASE, OTHER, STEPS, Numbers, bins, cells, evaluation, exact, fid, training

from dynamics.store import open_results, write_run


def write(
    folder: Path,
    name: str,
    numbers: Numbers,
    without: tuple[str, ...] = (),
    steps: int = 100,
    arm: tuple[str, int] | None = None,
    **attrs: object,
) -> Path:
    about = {"num_steps": 20 * steps, "batch_size": 64, "ema_decays": [0.995]}
    config = {"training": about, "data": {"name": "digits"}, "name": name}
    if arm is not None:
        config |= dict(zip(("name", "seed"), arm, strict=True))
    lead = {"lead": ("step",), "fall": [1.0, 0.5, 0.25]}
    gaps = xr.Dataset(
        exact(numbers["v"], numbers["u"], numbers["one_step"], **lead),
        {"step": STEPS, **bins()},
        {"rows_per_bin": 16, "weights": "ema"},
    )
    extra = {"beta_s": np.linspace(1, 0, steps)} if name == "other" else {}
    groups = {
        "training": training(steps, **extra),
        "gaps": gaps,
        "cells": cells(steps),
        "evaluation": evaluation(numbers, **{"checkpoint": 20 * steps, **attrs}),
    }
    seed = 0 if arm is None else arm[1]
    return store(folder / name, config, {k: g for k, g in groups.items() if k not in without}, seed=seed)


def store(folder: Path, config: dict[str, object], groups: dict[str, xr.Dataset], **attrs: str | int) -> Path:
    name = folder.name
    file = {
        "run_id": f"id-{name}",
        "config_json": json.dumps(config),
        "seed": 0,
        "git_sha": "0123456789abcdef",
        "dirty": int(name == "other"),
        "host": "machine",
        "versions": json.dumps({"torch": "2.13.0"}),
        "seconds": 60.0,
        "peak_memory_mb": 500.0,
    }
    write_run(folder / "run.nc", groups, file | attrs)
    return folder


@pytest.fixture
def on_latents(tmp_path: Path) -> list[Path]:
    """Folders of two runs on latents: losses by gap but no exact errors, and FID."""
    losses = {"loss": (("step", "gap_bin"), np.ones((3, 6)), {"units": "1", "long_name": "loss"})}
    gaps = xr.Dataset(losses, {"step": STEPS, "gap_bin": bins()["gap_bin"]})
    config: dict[str, object] = {"training": {"num_steps": 100, "batch_size": 32, "ema_decays": [0.9999]}}
    return [
        store(tmp_path / name, {**config, "name": name}, {"training": training(), "gaps": gaps, "fid": fid(value)})
        for name, value in (("base", 4.0), ("other", 3.0))
    ]


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    """Folder of public weights, of which nothing is known but FID."""
    about = {"imported_as": "sit", "imported_from": "willisma/SiT", "imported_file": "SiT-XL-2-256.pt", "meaning": "v"}
    return store(tmp_path / "sit", {"name": "sit"}, {"fid": fid(2.0)}, **about)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Write a run folder; `without` names groups to leave out, `arm` its arm and seed, the rest are attributes of the
    evaluation.
    """
    return partial(write, tmp_path)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [write(folder, "base", BASE), write(folder, "other", OTHER)]


@pytest.fixture(scope="module")
def tree(two: list[Path]) -> xr.DataTree:
    """Both runs merged, under their ids."""
    return open_results(two[0].parent)
