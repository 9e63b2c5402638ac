"""Curricula that keep tensors and hear observers: nothing they have learned is lost, and every rank knows the same."""

import json
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import ended, forked, killed_run
from invented import Counting, Listening, Remembering
from ranks import launch, on_ranks, trained, twenty_steps
from sweeps._sweep import same_results

from dynamics.config import RunConfig
from dynamics.instruments import CellsOptions, GapsOptions, GramOptions
from dynamics.runner import RunFolder, run
from dynamics.store import read_run

Configs = Callable[..., RunConfig]
GAPS = GapsOptions(every=7, rows_per_bin=4)
DUE = (0, 7, 14, 20)
"""When gaps are measured in 20 steps."""


@pytest.fixture
def learning(tiny: RunConfig) -> Configs:
    """Twenty steps with all of them; checkpoints at 8, 16 and 20."""
    change = {
        "curricula": (Remembering(), Counting(), Listening()),
        "observers": (GAPS, CellsOptions(every=5)),
    }
    return partial(twenty_steps, tiny.model_copy(update=change))


def remembered(out: Path) -> list[dict[str, Any]]:
    """What the last checkpoint says in JSON of each curriculum."""
    newest = max((out / "checkpoints").iterdir())
    states: list[dict[str, Any]] = json.loads((newest / "state.json").read_text())["curricula"]
    return states


def test_they_learn_what_they_read_at_due_steps_before_the_checkpoint(learning: Configs, tmp_path: Path) -> None:
    out = run(learning(), tmp_path / "run", progress=False)
    training = read_run(out / "run.nc")["training"]
    # the weights of step i + 1 come from what was heard up to step i
    assert training.heard.values.tolist() == [sum(due <= step for due in DUE) for step in range(20)]
    assert training.heard.attrs == {"units": "1", "long_name": "measurements that were heard of"}
    assert training.counted.values.tolist() == [16 * 5 * (step // 5) for step in range(20)]
    own, counted, told = remembered(out)
    assert told == {"told": [["gaps"]] * len(DUE)}, "no measurement that it does not read"
    assert counted == {"told": [["cells"]] * 5, "rows": 20 * 16}
    assert own["note"]["steps"] == 20
    assert own.keys() == {"note"}, "tensors are in a file of their own"
    measured = read_run(out / "run.nc")["gaps"].u_error.sel(step=20)
    assert RunFolder(out).checkpoints().last() == 20
    state = learned(learning(), out)
    assert state[2]["errors"].tolist() == measured.values.tolist()
    assert int(state[0]["seen"].sum()) == 20 * 16
    assert state[0]["losses"][:, 0].tolist() == pytest.approx(training.raw_v.values.tolist())
    assert len(set(training.spread.values.tolist())) == 20


def learned(config: RunConfig, out: Path) -> list[dict[str, Any]]:
    """The curricula's states of the last checkpoint."""
    from dynamics.runner.measure.probe import restored

    return restored(config, RunFolder(out)).curricula


def test_kills_change_nothing(learning: Configs, tmp_path: Path) -> None:
    config = learning()
    undisturbed, out = run(config, tmp_path / "undisturbed", progress=False), tmp_path / "killed"
    for after in (1, 8, 13, 15, 4):
        assert ended(forked(partial(killed_run, config, out, after))) == -signal.SIGKILL
    assert not (out / "run.nc").exists()
    run(config, out, progress=False)
    same_results(out, undisturbed)
    assert (max((out / "checkpoints").iterdir()) / "curricula.safetensors").exists()


def test_stops_of_split_weights_change_nothing(learning: Configs, tmp_path: Path) -> None:
    """On two ranks, at a step where something was learned, and at one where the others had learned more."""
    config = learning(parallel="fsdp")
    first, second = on_ranks(config, tmp_path / "undisturbed")
    assert first["records"] == second["records"], "every rank has learned the same"
    assert first["records"][-1]["heard"] == 3
    for stop_at in (7, 12):
        results = launch(partial(stopped, config, tmp_path / "stopped", stop_at), tmp_path / "ranks")
        assert [[step for _, step in result.get("stops", [])] for result in results] == [[stop_at]] * 2
    on_ranks(config, tmp_path / "stopped")
    same_results(tmp_path / "stopped", tmp_path / "undisturbed")
    alone = run(learning(), tmp_path / "alone", progress=False)
    for name in ("spread", "heard", "raw_v"):
        ours, theirs = (read_run(o / "run.nc")["training"][name].values for o in (tmp_path / "undisturbed", alone))
        assert ours.tolist() == pytest.approx(theirs.tolist(), rel=1e-4)


def stopped(config: RunConfig, out: Path, stop_at: int, rank: int) -> Any:
    return trained(config, out, stop_at=stop_at)


def test_an_observer_that_nobody_reads_changes_nothing(learning: Configs, tmp_path: Path) -> None:
    config = learning().model_copy(update={"curricula": (Remembering(), Listening())})
    gram = GramOptions(every=6, num_splits=2, rows_per_split=4, gap_edges=(0.1, 0.9), groups="model")
    trees = []
    for name, observers in (("few", (GAPS,)), ("many", (CellsOptions(every=3), gram, GAPS))):
        run(config.model_copy(update={"observers": observers}), tmp_path / name, progress=False)
        trees.append(read_run(tmp_path / name / "run.nc"))
    contents = [
        {path.name: path.read_bytes() for path in (tmp_path / name / "checkpoints" / "step_00000020").glob("*.s*")}
        for name in ("few", "many")
    ]
    assert contents[0].keys() == contents[1].keys() >= {"curricula.safetensors", "model.safetensors"}
    assert all(contents[1][name] == content for name, content in contents[0].items() if name != "state.json")
    assert remembered(tmp_path / "few") == remembered(tmp_path / "many")
    a, b = (tree["training"].to_dataset().drop_vars("step_seconds") for tree in trees)
    assert a.identical(b)
    # one that is read does: else there was nothing to see
    rare = config.model_copy(update={"observers": (GAPS.model_copy(update={"every": 20}),)})
    c = read_run(run(rare, tmp_path / "rare", progress=False) / "run.nc")["training"]
    assert not torch.equal(torch.tensor(c.loss.values), torch.tensor(a.loss.values))
