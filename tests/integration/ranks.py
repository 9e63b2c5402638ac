"""Ranks for tests: forked processes of one run, and what each of them saw."""

import json
import os
import pickle
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forks  # noqa: F401 - which imports what every rank would
import numpy as np
import torch
from safetensors.torch import load_file

from dynamics.config import RunConfig
from dynamics.record import StepRecord
from dynamics.runner import run
from dynamics.store import read_run
from dynamics.training import Interrupted, TrainState, loop
from dynamics.training.distributed import local

Result = dict[str, Any]
"""What a rank hands back: `error`, or what its action returned."""


def launch(action: Callable[[int], Result], folder: Path, ranks: int = 2, seconds: float = 60) -> list[Result]:
    """Fork ranks, which spares the imports, and return what each came to; one that hangs fails the test."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("rank*"):  # of an earlier launch
        left.unlink()
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
    said = [folder / f"rank{rank}" for rank in range(ranks)]
    return [pickle.loads(path.read_bytes()) if path.exists() else {"error": "killed"} for path in said]


def trained(config: RunConfig, out: Path, stop_at: int = 0, again: bool = False) -> Result:
    """Run, and return the records and last weights that this rank saw; SIGUSR2 comes in step `stop_at`."""
    records, states, one_step = [], list[TrainState](), loop.train_step

    def spy(state: TrainState, *rest: Any) -> StepRecord:
        record = one_step(state, *rest)
        if record.step == stop_at:
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
    """Every tensor of the last checkpoint, put together from the parts."""
    newest = max((out / "checkpoints").iterdir())
    parts: dict[str, list[torch.Tensor]] = {}
    for path in sorted(newest.glob("*.safetensors")):
        kind = re.sub(r"(\.\d{5}-of-\d{5})?\.safetensors$", "", path.name)
        for name, tensor in load_file(path).items():
            parts.setdefault(f"{kind}.{name}", []).append(tensor)
    return {name: torch.cat(found) if found[0].dim() else found[0] for name, found in parts.items()}


def assert_close(out: Path, other: Path, tolerance: float) -> None:
    """Compare last checkpoints (relative to the scale of the weights) and all recorded series."""
    a, b = files(out), files(other)
    assert a.keys() == b.keys()
    scale = max(float(a[name].abs().max()) for name in a if name.startswith("model."))
    for name in a:
        difference = (a[name] - b[name]).abs()
        if name.endswith("qkv.bias"):
            # a key's bias changes nothing: its gradient is rounding, of which Adam makes steps of full size
            difference.view(3, -1)[1] = 0
        assert float(difference.max()) <= tolerance * scale, name
    states = [json.loads((max((o / "checkpoints").iterdir()) / "state.json").read_text()) for o in (out, other)]
    np.testing.assert_allclose(states[0]["cells"], states[1]["cells"], rtol=1e-4)
    assert states[0]["curricula"][0]["stage"] == states[1]["curricula"][0]["stage"]
    series = [read_run(o / "run.nc")["training"] for o in (out, other)]
    assert series[0].step.values.tolist() == series[1].step.values.tolist()
    for name in set(series[0].data_vars) - {"step_seconds"}:
        np.testing.assert_allclose(series[0][name], series[1][name], rtol=20 * tolerance, err_msg=str(name))


def twenty_steps(tiny: RunConfig, **training: Any) -> RunConfig:
    """A config of twenty steps, with changed training options."""
    options = {"num_steps": 20, "checkpoint_every": 8, **training}
    return tiny.model_copy(update={"training": tiny.training.model_copy(update=options)})
