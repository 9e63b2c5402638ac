"""Two ranks train like one, on other numbers of ranks like before, and no rank ever waits for one that has given up."""

import errno
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed.fsdp  # noqa: F401  here and not in every forked rank: it takes a second
from safetensors.torch import load_file

from dynamics.atomic import locked
from dynamics.config import RunConfig
from dynamics.data import load
from dynamics.flow.rows import Rows
from dynamics.flow.times import TimesOptions
from dynamics.instruments import CellsOptions, GapsOptions, GramOptions
from dynamics.models import build
from dynamics.objectives import Guidance, MeanFlow
from dynamics.runner import RunFolder, run
from dynamics.runner import train as runner
from dynamics.store import RunLog, read_run
from dynamics.training import Interrupted, StepRecord, TrainState, gathered, joined, loop, split, start
from dynamics.training.distributed import interleaved, local

Result = dict[str, Any]
"""What a rank hands back: `error`, or what its action returned."""


def launch(action: Callable[[int], Result], folder: Path, ranks: int = 2, seconds: float = 60) -> list[Result]:
    """Fork ranks, which spares the imports, and return what each came to; one that hangs fails the test."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": str(ranks)}
    pids = []
    for rank in range(ranks):
        pid = os.fork()
        if pid == 0:
            try:
                os.environ.update(place, RANK=str(rank), LOCAL_RANK=str(rank))
                result = action(rank)
            except BaseException as error:
                result = {"error": f"{type(error).__name__}: {error}"}
            (folder / f"rank{rank}").write_bytes(pickle.dumps(result))
            os._exit(0)
        pids.append(pid)
    end, running = time.monotonic() + seconds, set(pids)
    while running and time.monotonic() < end:
        running = {pid for pid in running if os.waitpid(pid, os.WNOHANG)[0] == 0}
        time.sleep(0.005)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert not running, f"{len(running)} of {ranks} ranks hung"
    return [pickle.loads((folder / f"rank{rank}").read_bytes()) for rank in range(ranks)]


def trained(config: RunConfig, out: Path, stop_at: int = 0, again: bool = False) -> Result:
    """Run, and return the records and last weights that this rank saw; SIGUSR2 comes in step `stop_at`."""
    records, states, one_step = [], list[TrainState](), loop.train_step

    def spy(state: TrainState, *rest: Any) -> StepRecord:
        record = one_step(state, *rest)
        if record.step == stop_at and not records[stop_at:]:
            os.kill(os.getpid(), signal.SIGUSR2)
        records.append({name: value for name, value in record.flat().items() if name != "step_seconds"})
        states[:] = [state]
        return record

    loop.train_step = spy
    stops = []
    try:
        run(config, out, progress=False)
    except Interrupted as stop:
        stops.append((stop.signal, stop.step))
        if again:
            run(config, out, progress=False)
    finally:
        loop.train_step = one_step
    weights = {name: local(p.detach()).clone() for name, p in states[0].model.named_parameters()}
    return {"records": records, "weights": weights, "stops": stops, "cells": states[0].cells}


def on_ranks(config: RunConfig, out: Path, **how: Any) -> list[Result]:
    results = launch(lambda rank: trained(config, out, **how), out.with_name(f"{out.name}-ranks"))
    assert [result.get("error") for result in results] == [None, None]
    return results


def files(out: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the last checkpoint."""
    newest = max((out / "checkpoints").iterdir())
    tensors = {f"{p.name}.{n}": w for p in newest.glob("*.safetensors") for n, w in load_file(p).items()}
    for index, moments in torch.load(newest / "optimizer.pt", weights_only=True)["state"].items():
        tensors |= {f"{index}.{name}": tensor for name, tensor in moments.items()}
    return tensors


def assert_close(out: Path, other: Path, tolerance: float) -> None:
    """Compare last checkpoints (relative to the scale of the weights) and all recorded series."""
    a, b = files(out), files(other)
    assert a.keys() == b.keys()
    for name in a:
        scale = max(1.0, float(a[name].abs().max())) if "safetensors" not in name else 0.5
        assert float((a[name] - b[name]).abs().max()) <= tolerance * scale, name
    states = [json.loads((max((o / "checkpoints").iterdir()) / "state.json").read_text()) for o in (out, other)]
    np.testing.assert_allclose(states[0]["cells"], states[1]["cells"], rtol=1e-4)
    assert states[0]["curricula"][0]["stage"] == states[1]["curricula"][0]["stage"]
    series = [read_run(o / "run.nc")["training"] for o in (out, other)]
    assert series[0].step.values.tolist() == series[1].step.values.tolist()
    for name in set(series[0].data_vars) - {"step_seconds"}:
        np.testing.assert_allclose(series[0][name], series[1][name], rtol=20 * tolerance, err_msg=str(name))


def assert_same_files(out: Path, other: Path) -> None:
    a, b = files(out), files(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def twenty(tiny: RunConfig) -> Callable[..., RunConfig]:
    """Configs of twenty steps, with changed training options."""

    def config(**training: Any) -> RunConfig:
        options = {"num_steps": 20, "checkpoint_every": 8, **training}
        return tiny.model_copy(update={"training": tiny.training.model_copy(update=options)})

    return config


Configs = Callable[..., RunConfig]
