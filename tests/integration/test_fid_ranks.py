"""FID of a run: killed and continued on two ranks it is bitwise the same, and nothing is measured twice."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import Result, launch
from torch import Tensor, nn

from dynamics.atomic import locked
from dynamics.config import RunConfig
from dynamics.evaluation.fid import FidOptions, Parts
from dynamics.evaluation.inception import Inception
from dynamics.rng import generator
from dynamics.runner import run
from dynamics.runner.measure import fid_of_run
from dynamics.runner.measure.fid_of_run import evaluate_fid_run
from dynamics.store import read_run

OPTIONS = FidOptions(num_samples=44, batch_size=8, neighbour_rows=20)


class SmallNetwork(nn.Module):
    """Stands in for Inception."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = torch.randn(192, 6, generator=generator(0, "projections")) / 14

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (torch.tanh((images.flatten(1).float() / 128 - 1) @ self.matrix),)


@pytest.fixture
def trained(tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run, a reference beside it, and a small network in Inception's place."""
    monkeypatch.setattr(
        fid_of_run, "load_inception", lambda path, device: Inception(SmallNetwork(), torch.eye(6), "ab" * 32, device)
    )
    features = torch.randn(30, 6, generator=generator(0, "reference"))
    np.savez(tmp_path / "stats.npz", mu=features.double().mean(0), sigma=np.cov(features.T), features=features)
    training = tiny.training.model_copy(update={"num_steps": 3})
    return run(tiny.model_copy(update={"training": training, "observers": ()}), tmp_path / "run", progress=False)


def measured(out: Path, **changes: Any) -> Any:
    options = OPTIONS.model_copy(update=changes)
    return evaluate_fid_run(out, options, Path("unused"), out.parent / "stats.npz", progress=False)


def killed_after(parts: int, out: Path) -> None:
    """Evaluate in another process, which is killed with kill -9 in the middle of writing."""
    pid = os.fork()
    if pid == 0:
        write, count = Parts.write, [0]

        def counted(self: Parts, index: int, features: dict[int, Tensor]) -> None:
            if count[0] == parts:
                os.kill(os.getpid(), signal.SIGKILL)
            count[0] += 1
            write(self, index, features)

        Parts.write = counted  # type: ignore[method-assign]
        measured(out)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


def test_killed_and_continued_on_two_ranks(trained: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    shutil.copytree(trained, twin)
    expected = measured(twin)
    killed_after(3, trained)
    assert len(list(trained.glob("evaluation/fid-*/part_*.safetensors"))) == 3
    assert "fid" not in read_run(trained / "run.nc").children

    def rank(number: int) -> Result:
        written = []
        write = Parts.write
        Parts.write = lambda self, i, features: (written.append(i), write(self, i, features))[1]  # type: ignore
        return {"content": measured(trained), "written": written}

    results = launch(rank, tmp_path / "ranks")
    assert [result.get("error") for result in results] == [None, None]
    assert [result["written"] for result in results] == [[4], [3, 5]]
    for result in results:
        assert result["content"].identical(expected)
    assert read_run(trained / "run.nc")["fid"].to_dataset().identical(expected)
    assert not (trained / "evaluation").exists()


def test_ranks_that_fail_fail_together(trained: Path, tmp_path: Path) -> None:
    def rank(number: int) -> Result:
        return {"content": measured(trained, seed=number)}

    errors = [result["error"] for result in launch(rank, tmp_path / "ranks", seconds=30)]
    assert all("evaluation_seed: 0 there, 1 asked for" in error for error in errors)


def test_what_is_measured_is_not_measured_again(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measured(trained)
    drawn: list[tuple[int, ...]] = []
    draw = fid_of_run.evaluate_fid

    def spy(source: Any, options: FidOptions, *rest: Any) -> Any:
        drawn.append(options.nfe)
        return draw(source, options, *rest)

    monkeypatch.setattr(fid_of_run, "evaluate_fid", spy)
    before = (trained / "run.nc").stat().st_mtime_ns
    assert measured(trained).identical(first)
    assert (drawn, (trained / "run.nc").stat().st_mtime_ns) == ([], before)
    more = measured(trained, nfe=(4, 1))
    assert drawn == [(4,)]
    assert more["nfe"].values.tolist() == [1, 2, 4]
    assert more.sel(nfe=[1, 2]).identical(first)
    field = measured(trained, nfe=(2,), field="v")
    assert drawn[1:] == [(2,)]
    assert field["field"].values.tolist() == ["u", "v"]
    assert bool(field.fid_inception.sel(field="v", nfe=1).isnull())
    assert float(field.fid_inception.sel(field="u", nfe=4)) == float(more.fid_inception.sel(field="u", nfe=4))
    measured(trained, nfe=(1,), field="v")
    assert drawn[2:] == [(1,)]
    there = read_run(trained / "run.nc")["fid"].to_dataset()
    other = measured(trained, num_samples=40)
    assert other.fid_inception.sizes == {"field": 1, "nfe": 2}
    kept = read_run(trained / "run.nc")
    assert kept["fid"].to_dataset().identical(there)
    assert f"fid_{other.attrs['protocol']}" in kept.children


def test_what_cannot_be_evaluated_is_refused(trained: Path) -> None:
    stats = trained.parent / "stats.npz"
    with pytest.raises(ValueError, match="a decoder for latents, none for pixels"):
        evaluate_fid_run(trained, OPTIONS, Path("unused"), stats, vae="somewhere", progress=False)
    with (
        locked(trained / "fid"),
        pytest.raises(ValueError, match="a run that no other process is evaluating"),
    ):
        measured(trained)
    (trained / "run.nc").unlink()
    with pytest.raises(ValueError, match=r"a folder with a finished run \(run\.nc\)"):
        measured(trained)
