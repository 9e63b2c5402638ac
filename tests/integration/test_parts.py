"""Weights split over ranks are saved and read in parts, and other numbers of ranks go on from them."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import Result, assert_close, launch, on_ranks, trained, twenty_steps
from torch.distributed.tensor import DTensor

from dynamics.config import RunConfig
from dynamics.models import build
from dynamics.runner import RunFolder, run
from dynamics.store import read_run
from dynamics.training import Checkpoints, TrainState, gathered, joined, split, start, step_folders
from dynamics.training.distributed import local

Configs = Callable[..., RunConfig]
Twin = Callable[[RunConfig], Path]


@pytest.fixture
def twenty(tiny: RunConfig) -> Configs:
    return partial(twenty_steps, tiny)


def test_parts_go_on_with_any_number_of_ranks(twenty: Configs, twin: Twin, tmp_path: Path) -> None:
    """2 -> 3 -> 1 -> 2 ranks: the rows, the losses and the averages of one rank that nobody stopped."""
    config, out = twenty(parallel="fsdp", batch_size=24, num_steps=16), tmp_path / "out"
    undisturbed = twin(twenty(batch_size=24, num_steps=16))
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


def test_a_damaged_or_missing_part_is_named_and_the_checkpoint_before_is_used(
    twenty: Configs, twin: Twin, tmp_path: Path
) -> None:
    config, out, undisturbed = twenty(parallel="fsdp"), tmp_path / "out", twin(twenty())
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
        write = step_folders.write

        def die(path: Path, tensors: dict[str, torch.Tensor]) -> str:
            if rank == victim and "step_00000016" in str(path) and path.name.startswith("ema_0.99"):
                os.kill(os.getpid(), signal.SIGKILL)
            return write(path, tensors)

        step_folders.write = die
        return trained(config, out)

    results = launch(act, tmp_path / "ranks", seconds=20)
    assert results[victim] == {"error": "killed"}
    assert "error" in results[1 - victim]
    checkpoints = RunFolder(out).checkpoints()
    assert checkpoints.steps() == [8]
    checkpoints.verify(8)
    on_ranks(config, out)
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step_00000016", "step_00000020"]


def test_a_split_state_is_small_and_comes_back_whole(twenty: Configs, tmp_path: Path) -> None:
    config = twenty()

    def tensors(state: TrainState) -> dict[str, torch.Tensor]:
        out = {f"model.{n}": p.detach() for n, p in state.model.named_parameters()}
        out |= {f"{d}.{n}": w for d, ema in state.emas.items() for n, w in ema.items()}
        for index, moments in state.optimizer.state_dict()["state"].items():
            out |= {f"{index}.{n}": w for n, w in moments.items() if w.dim()}
        return out

    def action(rank: int) -> Result:
        state = start(build(config.model, *config.data.dimensions(), 0), config.training, config.curricula)
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
                "blank": sum(p.numel() for p in state.blank.parameters()) if state.blank else None,
                "own": back is state,
            }

    first, second = launch(action, tmp_path / "ranks")
    assert (first["equal"], first["names"], first["blank"], first["own"]) == (True, True, 0, False)
    assert (second["blank"], second["own"]) == (0, True)
    assert 0.4 < first["share"] < 0.6
    assert 0.4 < second["share"] < 0.6
    sizes = [path.stat().st_size for path in (tmp_path / "saved" / "step_00000000").glob("model.*")]
    assert len(sizes) == 2
    assert max(sizes) < 1.2 * min(sizes)
