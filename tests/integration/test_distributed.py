"""Two ranks train like one, on other numbers of ranks like before, and no rank ever waits for one that has given up."""

import errno
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from latent_set import OPTIONS, write_latents
from ranks import Result, assert_close, files, launch, on_ranks, trained, twenty_steps

from dynamics.atomic import locked
from dynamics.config import RunConfig
from dynamics.data import Digits, Latents
from dynamics.flow.rows import Rows
from dynamics.flow.times import TimesOptions
from dynamics.instruments import CellsOptions, GapsOptions, GramOptions
from dynamics.objectives import Guidance, MeanFlow
from dynamics.record import StepRecord
from dynamics.runner import RunFolder, run
from dynamics.store import RunLog, read_run
from dynamics.training import TrainState, loop


def assert_same_files(out: Path, other: Path) -> None:
    a, b = files(out), files(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


Configs = Callable[..., RunConfig]


@pytest.fixture
def twenty(tiny: RunConfig) -> Configs:
    return partial(twenty_steps, tiny)


@pytest.fixture
def alone(twenty: Configs, twin: Callable[[RunConfig], Path]) -> Path:
    return twin(twenty())


def test_two_ranks_are_one_on_latents(twenty: Configs, tmp_path: Path) -> None:
    """Where each draws its own rows alone."""
    data = Latents(path=write_latents(tmp_path / "latents"), **OPTIONS)
    config = twenty(accumulation=2).model_copy(update={"data": data, "observers": (CellsOptions(every=7),)})
    alone = run(config, tmp_path / "alone", progress=False)
    on_ranks(config, tmp_path / "both")
    assert_close(tmp_path / "both", alone, 1e-6)


@pytest.mark.parametrize(
    ("training", "tolerance"),
    [
        ({"accumulation": 1}, 1e-6),
        ({"accumulation": 2, "clip_norm": 0.05}, 1e-6),
        ({"accumulation": 2, "clip_norm": 0.05, "parallel": "fsdp"}, 1e-5),
        ({"accumulation": 2, "recompute": "blocks"}, 1e-6),
        ({"accumulation": 2, "recompute": "blocks", "parallel": "fsdp"}, 1e-5),
    ],
    ids=["ddp", "ddp-accumulation", "fsdp", "ddp-recompute", "fsdp-recompute"],
)
def test_two_ranks_are_one(
    twenty: Configs, twin: Callable[[RunConfig], Path], tmp_path: Path, training: Mapping[str, Any], tolerance: float
) -> None:
    config = twenty(**training)
    alone = twin(twenty(clip_norm=config.training.clip_norm))
    first, second = on_ranks(config, tmp_path / "both")
    assert_close(tmp_path / "both", alone, tolerance)
    assert len(first["records"]) == 20
    assert first["records"] == second["records"]
    assert torch.equal(first["cells"], second["cells"])
    checkpoints = RunFolder(tmp_path / "both").checkpoints()
    assert len(list(checkpoints.path(20).glob("model.*"))) == (2 if config.training.parallel == "fsdp" else 1)
    _, whole = checkpoints.weights(20, "model")
    assert whole.keys() == first["weights"].keys()
    for name, weight in whole.items():
        if config.training.parallel == "ddp":
            assert torch.equal(first["weights"][name], weight), "rank 0"
            assert torch.equal(second["weights"][name], weight), "rank 1"
        else:
            assert torch.equal(torch.cat([first["weights"][name], second["weights"][name]]), weight)
    attrs = read_run(tmp_path / "both" / "run.nc").attrs
    assert (attrs["world_size"], attrs["parallel"]) == (2, config.training.parallel)
    attrs = read_run(alone / "run.nc").attrs
    assert (attrs["world_size"], attrs["parallel"]) == (1, "none")


def test_ranks_without_rows_of_a_kind(twenty: Configs, tmp_path: Path) -> None:
    """One r < t row and hardly a label: a rank that asks its network less often than the others waits for ever."""

    def rare(**training: Any) -> RunConfig:
        guided = MeanFlow(guidance=Guidance(k=0.5, label_drop_prob=0.9))
        change = {"objective": guided, "times": TimesOptions(gap_share=1 / 16), "curricula": (), "observers": ()}
        return twenty(**training).model_copy(update=change)

    alone = run(rare(), tmp_path / "alone", progress=False)

    def action(rank: int) -> Result:
        # in a process group of the caller's, which stays
        dist.init_process_group("gloo")
        result = trained(rare(parallel="fsdp"), tmp_path / "both")
        return {**result, "left": dist.is_initialized() and dist.get_world_size() == 2}

    results = launch(action, tmp_path / "ranks")
    assert [r.get("error") for r in results] == [None, None]
    assert all(result["left"] for result in results)
    series = [read_run(o / "run.nc")["training"].raw_u for o in (tmp_path / "both", alone)]
    np.testing.assert_allclose(series[0], series[1], rtol=1e-5)


@pytest.mark.parametrize(
    "training", [{}, {"parallel": "fsdp", "accumulation": 2}, {"parallel": "fsdp", "recompute": "blocks"}]
)
def test_half_precision(
    twenty: Configs, twin: Callable[[RunConfig], Path], tmp_path: Path, training: Mapping[str, Any]
) -> None:
    folders = [twin(twenty(num_steps=6, precision=precision)) for precision in ("float32", "bfloat16")]
    on_ranks(twenty(precision="bfloat16", num_steps=6, **training), tmp_path / "both")
    full, one, two = (read_run(out / "run.nc")["training"].raw_v for out in (*folders, tmp_path / "both"))
    np.testing.assert_allclose(two, one, rtol=1e-3)
    assert not np.allclose(two, full, rtol=1e-7)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_observers_change_nothing(twenty: Configs, tmp_path: Path, parallel: str) -> None:
    gram = GramOptions(every=4, num_splits=2, rows_per_split=4, gap_edges=(0.1, 0.9), precondition="adam")
    watching = (GapsOptions(every=3, rows_per_bin=4), CellsOptions(every=5), gram)
    config = twenty(parallel=parallel, num_steps=8)
    on_ranks(config.model_copy(update={"observers": watching}), tmp_path / "on")
    on_ranks(config.model_copy(update={"observers": ()}), tmp_path / "off")
    assert_same_files(tmp_path / "on", tmp_path / "off")
    tree = read_run(tmp_path / "on" / "run.nc")
    assert {name: tree[name].step.values.tolist() for name in ("gaps", "cells", "gram")} == {
        "gaps": [0, 3, 6, 8],
        "cells": [0, 5, 8],
        "gram": [4, 8],
    }


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_signal_to_one_rank_stops_both_and_any_number_of_ranks_goes_on(
    twenty: Configs, alone: Path, tmp_path: Path, parallel: str
) -> None:
    config, out = twenty(parallel=parallel), tmp_path / "both"
    results = launch(lambda rank: trained(config, out, stop_at=3 if rank == 1 else 0), tmp_path / "ranks")
    assert [r.get("stops") for r in results] == [[(signal.SIGUSR2, 3)]] * 2
    assert RunFolder(out).checkpoints().steps() == [3]
    pid = os.fork()
    if pid == 0:
        try:
            trained(config, out, stop_at=7)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert RunFolder(out).checkpoints().steps() == [3, 7]
    # the signal is caught and the same processes go on, as a job does after a warning
    results = launch(lambda rank: trained(config, out, stop_at=12 if rank == 0 else 0, again=True), tmp_path / "ranks")
    assert [r.get("stops") for r in results] == [[(signal.SIGUSR2, 12)]] * 2
    assert_close(out, alone, 1e-5)


def test_a_stop_changes_no_bit(twenty: Configs, tmp_path: Path) -> None:
    config = twenty(num_steps=10)
    on_ranks(config, tmp_path / "undisturbed")
    on_ranks(config, tmp_path / "stopped", stop_at=4, again=True)
    assert_same_files(tmp_path / "stopped", tmp_path / "undisturbed")
    trees = [read_run(tmp_path / name / "run.nc") for name in ("stopped", "undisturbed")]
    for group in ("training", "gaps", "cells"):
        a, b = (tree[group].to_dataset().drop_vars("step_seconds", errors="ignore") for tree in trees)
        assert a.equals(b)


def failing(config: RunConfig, out: Path, prepare: Callable[[int], object] = lambda rank: None) -> list[str]:
    """Errors of both ranks, which end within seconds."""

    def action(rank: int) -> Result:
        prepare(rank)
        return trained(config, out)

    return [r["error"] for r in launch(action, out.with_name("ranks"), seconds=20)]


def test_what_stops_the_first_rank_stops_all(
    twenty: Configs, twin: Callable[[RunConfig], Path], tmp_path: Path
) -> None:
    alone = Path(shutil.copytree(twin(twenty()), tmp_path / "alone"))
    other = failing(twenty(learning_rate=1.0), alone)
    assert all("ValueError: config: received 'training.learning_rate: 0.001 there, 1.0 asked for'" in e for e in other)
    with locked(RunFolder(alone).log):
        assert all("RunInUseError: run: received" in e for e in failing(twenty(), alone))
    indivisible = failing(twenty(accumulation=16), tmp_path / "indivisible")
    assert all("training.batch_size: received 16; allowed: a multiple of 2 ranks" in e for e in indivisible)
    assert not (tmp_path / "indivisible").exists()
    (alone / "run.nc").unlink()
    for step in RunFolder(alone).checkpoints().steps():
        (RunFolder(alone).checkpoints().path(step) / "model.safetensors").write_bytes(b"")
    assert all("DamagedCheckpointError: no intact checkpoint" in e for e in failing(twenty(), alone))


def test_what_stops_one_rank_on_the_way_stops_all(twenty: Configs, tmp_path: Path) -> None:
    def full_disk(rank: int) -> None:
        append = RunLog.append

        def fail(self: RunLog, record: Mapping[str, object]) -> None:
            if record["step"] == 5:
                raise OSError(errno.ENOSPC, "no space left on device")
            append(self, record)

        RunLog.append = fail  # type: ignore[method-assign]

    errors = failing(twenty(), tmp_path / "disk", full_disk)
    assert all("DiskFullError: no room for log.jsonl" in e for e in errors)

    def no_data(rank: int) -> None:
        def fail(options: object) -> None:
            raise FileNotFoundError("no images on this machine")

        if rank == 1:
            Digits.load = fail  # type: ignore[method-assign, assignment]

    errors = failing(twenty(), tmp_path / "data", no_data)
    assert all("FileNotFoundError: no images on this machine" in e for e in errors)

    def die(rank: int) -> None:
        one_step = loop.train_step

        def step(state: TrainState, *rest: Any) -> StepRecord:
            if state.step == 5 and rank == 0:
                raise MemoryError("this rank alone")
            return one_step(state, *rest)

        loop.train_step = step

    errors = failing(twenty(), tmp_path / "died", die)
    assert "this rank alone" in errors[0]
    assert "RuntimeError" in errors[1]


def test_ranks_of_different_configs_do_not_begin(twenty: Configs, tmp_path: Path) -> None:
    configs = [twenty(), twenty(learning_rate=1.0)]
    results = launch(lambda rank: trained(configs[rank], tmp_path / "out"), tmp_path / "ranks", seconds=20)
    assert all("config of rank 1: received" in result["error"] for result in results)
    assert not (tmp_path / "out").exists()


def test_a_non_finite_loss_names_the_rows_of_the_batch(twenty: Configs, tmp_path: Path) -> None:
    def spoil(rank: int) -> None:
        draw = loop.draw

        def spoiled(*args: Any, **drawn: Any) -> Rows:
            rows = draw(*args, **drawn)
            if args[-1] == 3:
                rows = replace(rows, x=rows.x.clone())
                rows.x[torch.tensor([3, 6, 13])] = torch.nan
            return rows

        loop.draw = spoiled

    errors = failing(twenty(accumulation=2), tmp_path / "out", spoil)
    assert all("NonFiniteLossError: the loss or its gradient is not finite at step 4" in e for e in errors)
    rows = json.loads((tmp_path / "out" / "nonfinite.json").read_text())["rows"]
    assert [row["row"] for row in rows] == [3, 6, 13]
    assert rows[0]["t"] == rows[0]["r"]
    assert rows[2]["t"] > rows[2]["r"]


@pytest.mark.xdist_group("slurm")  # whose worker has a warm Python
def test_through_the_launcher(warm_command: str, alone: Path, twenty: Configs, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(twenty().to_json())
    out, python = tmp_path / "both", tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {warm_command} "$@"\n')
    python.chmod(0o755)
    command = [python, "-u", "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "dynamics"]
    done = subprocess.run(
        [*command, "train", str(tmp_path / "config.json"), "--out", str(out)],
        env={**os.environ, "PYTHON_EXEC": str(python)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert read_run(out / "run.nc").attrs["world_size"] == 2
    assert_close(out, alone, 1e-6)
