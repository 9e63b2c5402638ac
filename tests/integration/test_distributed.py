"""Two ranks train like one, on other numbers of ranks like before, and no rank ever waits for one that has given up."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed.fsdp  # here, and not in every forked rank: it takes a second
from ranks import Result, launch, on_ranks, trained
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

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
from dynamics.training import Checkpoints, StepRecord, TrainState, checkpoint, gathered, joined, loop, split, start
from dynamics.training.distributed import local


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


@pytest.fixture
def alone(twenty: Configs, tmp_path: Path) -> Path:
    return run(twenty(), tmp_path / "alone", progress=False)


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
def test_two_ranks_are_one(twenty: Configs, tmp_path: Path, training: Mapping[str, Any], tolerance: float) -> None:
    config = twenty(**training)
    alone = run(twenty(clip_norm=config.training.clip_norm), tmp_path / "alone", progress=False)
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
def test_half_precision(twenty: Configs, tmp_path: Path, training: Mapping[str, Any]) -> None:
    half = twenty(precision="bfloat16", num_steps=6)
    run(twenty(num_steps=6), tmp_path / "full", progress=False)
    run(half, tmp_path / "half", progress=False)
    on_ranks(twenty(precision="bfloat16", num_steps=6, **training), tmp_path / "both")
    full, one, two = (read_run(tmp_path / o / "run.nc")["training"].raw_v for o in ("full", "half", "both"))
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


def test_parts_go_on_with_any_number_of_ranks(twenty: Configs, tmp_path: Path) -> None:
    """2 -> 3 -> 1 -> 2 ranks: the rows, the losses and the averages of one rank that nobody stopped."""
    config, out = twenty(parallel="fsdp", batch_size=24, num_steps=16), tmp_path / "out"
    undisturbed = run(twenty(batch_size=24, num_steps=16), tmp_path / "alone", progress=False)
    for ranks, stop_at in ((2, 4), (3, 8), (1, 12), (2, 0)):
        act = partial(lambda rank, at: trained(config, out, stop_at=at), at=stop_at)
        results = launch(act, tmp_path / "ranks", ranks=ranks)
        assert [r.get("error") for r in results] == [None] * ranks
        newest = RunFolder(out).checkpoints().last()
        assert newest == (stop_at or 16)
        parts = len(list(RunFolder(out).checkpoints().path(newest).glob("ema_0.9.*")))
        assert parts == ranks
    assert_close(out, undisturbed, 1e-5)
    a, b = (read_run(folder / "run.nc")["training"] for folder in (out, undisturbed))
    for name in ("loss", "raw_v", "raw_u"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-5)
    np.testing.assert_array_equal(a.gap_count, b.gap_count)


def test_a_damaged_or_missing_part_is_named_and_the_checkpoint_before_is_used(twenty: Configs, tmp_path: Path) -> None:
    config, out = twenty(parallel="fsdp"), tmp_path / "out"
    undisturbed = run(twenty(), tmp_path / "alone", progress=False)
    on_ranks(config, out)
    (out / "run.nc").unlink()
    checkpoints = RunFolder(out).checkpoints()
    part = checkpoints.path(20) / "optimizer.00002-of-00002.safetensors"
    content = part.read_bytes()
    part.unlink()
    with pytest.warns(UserWarning, match=r"step_00000020 is damaged .*optimizer.00002-of-00002.safetensors"):
        assert checkpoints.weights()[0] == 16
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.warns(UserWarning, match=r"damaged \(optimizer.00002-of-00002.safetensors fails its checksum\)"):
        run(config, out, progress=False)
    assert_close(out, undisturbed, 1e-5)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_kill_during_a_save_costs_only_that_checkpoint(twenty: Configs, tmp_path: Path, victim: int) -> None:
    config, out = twenty(parallel="fsdp"), tmp_path / "out"

    def act(rank: int) -> Result:
        write = checkpoint.write

        def die(path: Path, tensors: dict[str, torch.Tensor]) -> str:
            if rank == victim and "step_00000016" in str(path) and path.name.startswith("ema_0.99"):
                os.kill(os.getpid(), signal.SIGKILL)
            return write(path, tensors)

        checkpoint.write = die
        return trained(config, out)

    results = launch(act, tmp_path / "ranks", seconds=20)
    assert results[victim] == {"error": "killed"}
    assert "error" in results[1 - victim]
    checkpoints = RunFolder(out).checkpoints()
    assert checkpoints.steps() == [8]
    checkpoints.verify(8)
    on_ranks(config, out)
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step_00000016", "step_00000020"]


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


def test_what_stops_the_first_rank_stops_all(twenty: Configs, alone: Path, tmp_path: Path) -> None:
    other = failing(twenty(learning_rate=1.0), alone)
    assert all("ValueError: config: received 'training.learning_rate: 0.001 there, 1.0 asked for'" in e for e in other)
    with locked(RunFolder(alone).log):
        assert all("RunInUseError: out: received" in e for e in failing(twenty(), alone))
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

        runner.load = fail if rank == 1 else load

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

        def spoiled(*args: Any) -> Rows:
            rows = draw(*args)
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


def test_a_split_state_is_small_and_comes_back_whole(twenty: Configs, tmp_path: Path) -> None:
    config = twenty()
    data = load(config.data)

    def tensors(state: TrainState) -> dict[str, torch.Tensor]:
        out = {f"model.{n}": p.detach() for n, p in state.model.named_parameters()}
        out |= {f"{d}.{n}": w for d, ema in state.emas.items() for n, w in ema.items()}
        for index, moments in state.optimizer.state_dict()["state"].items():
            out |= {f"{index}.{n}": w for n, w in moments.items() if w.dim()}
        return out

    def action(rank: int) -> Result:
        state = start(build(config.model, data.shape, data.num_classes, 0), config.training, config.curricula)
        for parameter in state.model.parameters():
            parameter.grad = torch.randn_like(parameter, generator=torch.Generator().manual_seed(parameter.numel()))
        state.optimizer.step()
        before = {name: tensor.clone() for name, tensor in tensors(state).items()}
        with joined(torch.device("cpu")):
            split(state)
            held = sum(local(tensor).untyped_storage().nbytes() for tensor in tensors(state).values())
            # neither saving nor reading may put anything together
            together, DTensor.full_tensor = DTensor.full_tensor, None  # type: ignore[method-assign, assignment]
            Checkpoints(tmp_path / "saved").save(state)
            for tensor in tensors(state).values():
                local(tensor).zero_()
            Checkpoints(tmp_path / "saved").load(state, 0)
            DTensor.full_tensor = together  # type: ignore[method-assign]
            back = gathered(state)
            equal = rank > 0 or all(torch.equal(tensor, before[name]) for name, tensor in tensors(back).items())
            return {
                "share": held / sum(tensor.nbytes for tensor in before.values()),
                "equal": equal,
                "names": tensors(back).keys() == before.keys(),
                "blank": state.blank is not None,
                "own": back is state,
            }

    first, second = launch(action, tmp_path / "ranks")
    assert (first["equal"], first["names"], first["blank"], first["own"]) == (True, True, True, False)
    assert (second["blank"], second["own"]) == (False, True)
    assert 0.4 < first["share"] < 0.6
    assert 0.4 < second["share"] < 0.6
    sizes = [path.stat().st_size for path in (tmp_path / "saved" / "step_00000000").glob("model.*")]
    assert len(sizes) == 2
    assert max(sizes) < 1.2 * min(sizes)


def test_through_the_launcher(alone: Path, twenty: Configs, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(twenty().to_json())
    out = tmp_path / "both"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "dynamics"]
    done = subprocess.run(
        [*command, "train", str(tmp_path / "config.json"), "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert read_run(out / "run.nc").attrs["world_size"] == 2
    assert_close(out, alone, 1e-6)
