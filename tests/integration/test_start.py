"""A run that starts from another run's checkpoint begins exactly there, and is otherwise a run like any other."""

import hashlib
import json
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from forks import ended, forked, killed_run
from safetensors.torch import load_file
from sweeps._sweep import same_results

from dynamics import cli
from dynamics.config import RunConfig
from dynamics.models import build
from dynamics.runner import RunFolder, RunInUseError, run
from dynamics.store import read_run
from dynamics.training import Checkpoints, DamagedCheckpointError, StartOptions, TrainState, inherit, start

Child = Callable[..., RunConfig]


@pytest.fixture
def parent(tiny: RunConfig) -> RunConfig:
    return tiny.model_copy(
        update={
            "training": tiny.training.model_copy(update={"num_steps": 9, "checkpoint_every": 4}),
            "observers": (),
        }
    )


@pytest.fixture
def sweep(parent: RunConfig, twin: Callable[[RunConfig], Path], tmp_path: Path) -> Path:
    """A folder with a finished run, checkpoints at 8 and 9, in a folder named by its run_id."""
    shutil.copytree(twin(parent), tmp_path / parent.run_id)
    return tmp_path


@pytest.fixture
def child(tiny: RunConfig, parent: RunConfig) -> Child:
    """Configs of another seed, with another average, that start from the parent."""

    def config(**choices: object) -> RunConfig:
        training = tiny.training.model_copy(update={"num_steps": 12, "ema_decays": (0.5,), "learning_rate": 3e-4})
        options = StartOptions.model_validate({"run": parent.run_id, **choices})
        return tiny.model_copy(update={"seed": 7, "training": training, "start": options})

    return config


def begun(config: RunConfig, sweep: Path) -> tuple[TrainState, Checkpoints]:
    """The state of a run that has just started from the parent, and the parent's checkpoints."""
    state = start(build(config.model, *config.data.dimensions(), 7), config.training, config.curricula)
    checkpoints = RunFolder(sweep / str(config.start.run)).checkpoints()
    inherit(state, checkpoints, config.start)
    return state, checkpoints


@pytest.mark.parametrize(("weights", "file"), [("model", "model"), ("ema", "ema_0.9")])
def test_weights_and_averages_are_the_parents(sweep: Path, child: Child, weights: str, file: str) -> None:
    state, checkpoints = begun(child(weights=weights, step=8), sweep)
    there = load_file(checkpoints.path(8) / f"{file}.safetensors")
    assert list(state.emas) == ["0.5"]
    for name, parameter in state.model.named_parameters():
        assert torch.equal(parameter, there[name])
        assert torch.equal(state.emas["0.5"][name], there[name])
        assert state.emas["0.5"][name].data_ptr() != parameter.data_ptr()
    assert state.optimizer.state_dict()["state"] == {}
    assert (state.step, float(state.cells.sum()), state.curricula[0]["steps"]) == (0, 0.0, 0)


def test_carried_averages_are_the_parents_from_the_first_measurement_on(sweep: Path, child: Child) -> None:
    config = child(averages="carried")
    alike = config.model_copy(update={"training": config.training.model_copy(update={"ema_decays": (0.9,)})})
    state, checkpoints = begun(alike, sweep)
    there = load_file(checkpoints.path(9) / "ema_0.9.safetensors")
    raw = load_file(checkpoints.path(9) / "model.safetensors")
    measured = state.average("ema")
    for name, parameter in state.model.named_parameters():
        assert torch.equal(parameter, raw[name])
        assert torch.equal(measured[name], there[name])
    assert any(not torch.equal(there[name], raw[name]) for name in raw)
    with pytest.raises(ValueError, match=r"start.averages: received .carried, with the averages 0.5.*: 0.9, 0.99;"):
        run(config, sweep / config.run_id, progress=False)
    assert not RunFolder(sweep / config.run_id).log.exists()


def test_carried_moments_are_the_parents_and_the_step_size_is_not(sweep: Path, child: Child) -> None:
    state, checkpoints = begun(child(optimizer="carried"), sweep)
    there = load_file(checkpoints.path(9) / "optimizer.safetensors")
    here = {
        f"{name}.{moment}": value
        for name, parameter in state.model.named_parameters()
        for moment, value in state.optimizer.state[parameter].items()
    }
    assert here.keys() == there.keys() != set()
    for name, value in there.items():
        assert torch.equal(here[name], value)
    assert state.optimizer.param_groups[0]["lr"] == 3e-4


def test_the_run_records_where_it_came_from_and_leaves_the_parent_alone(sweep: Path, child: Child) -> None:
    config = child(weights="ema")
    files = {p: p.read_bytes() for p in sweep.rglob("*") if p.is_file()}
    out = run(config, sweep / config.run_id, progress=False)
    assert {p: p.read_bytes() for p in files} == files
    assert {p for p in sweep.rglob("*") if p.is_file() and out not in p.parents} == set(files)
    attrs, used = read_run(out / "run.nc").attrs, "checkpoints/step_00000009/ema_0.9.safetensors"
    assert attrs["started_from_step"] == 9
    assert attrs["started_from_sha256"] == hashlib.sha256((sweep / config.start.run / used).read_bytes()).hexdigest()
    tree = read_run(out / "run.nc")
    assert tree["training"].step.values.tolist() == list(range(1, 13))
    before = read_run(sweep / config.start.run / "run.nc")
    assert "started_from_step" not in before.attrs
    # what was learned is there: the first measured loss is not that of a network that answers 0
    assert float(tree["gaps"].v_error[0].mean()) != pytest.approx(float(tree["gaps"].v_scale[0].mean()), rel=1e-3)


def test_kills_and_a_stop_change_nothing(sweep: Path, child: Child, tmp_path: Path) -> None:
    config = child(optimizer="carried")
    undisturbed = run(config, sweep / config.run_id, progress=False)
    out = sweep / "killed"
    for after in (1, 4, 9):
        ended(forked(partial(killed_run, config, out, after)))
    origin = (out / "start.json").read_bytes()
    # the parent changes after the child has begun: the note still says what the child began with
    shutil.rmtree(sweep / config.start.run)
    run(config, out, progress=False)
    assert (out / "start.json").read_bytes() == origin
    same_results(out, undisturbed)
    names = ("started_from_step", "started_from_sha256")
    attrs = [read_run(folder / "run.nc").attrs for folder in (out, undisturbed)]
    assert [attrs[0][name] for name in names] == [attrs[1][name] for name in names]


def test_a_signal_leaves_a_checkpoint(sweep: Path, child: Child) -> None:
    config = child()
    undisturbed = run(config, sweep / "undisturbed", progress=False)
    out = sweep / config.run_id
    assert ended(forked(partial(killed_run, config, out, 4, signal.SIGUSR2))) == 75
    run(config, out, progress=False)
    same_results(out, undisturbed)


def test_before_its_first_checkpoint_a_run_begins_anew_from_what_is_there(sweep: Path, child: Child) -> None:
    config = child()
    out = sweep / config.run_id
    ended(forked(partial(killed_run, config, out, 3)))
    assert RunFolder(out).checkpoints().steps() == []
    checkpoint = sweep / config.start.run / "checkpoints" / "step_00000009"
    state = json.loads((checkpoint / "state.json").read_text())
    shutil.copy(checkpoint / "ema_0.9.safetensors", checkpoint / "model.safetensors")
    state["sha256"]["model.safetensors"] = state["sha256"]["ema_0.9.safetensors"]
    del state["checksum"]
    (checkpoint / "state.json").write_text(json.dumps(state))
    run(config, out, progress=False)
    assert read_run(out / "run.nc").attrs["started_from_sha256"] == state["sha256"]["model.safetensors"]


def test_what_cannot_be_started_from_is_refused(sweep: Path, child: Child, parent: RunConfig) -> None:
    def refused(config: RunConfig, match: str, error: type[Exception] = ValueError) -> None:
        with pytest.raises(error, match=match):
            run(config, sweep / config.run_id, progress=False)
        assert not RunFolder(sweep / config.run_id).log.exists()

    refused(child(run="0123456789ab"), "start.run: received '0123456789ab'; allowed: the run_id of a finished run")
    refused(child(step=4), r"checkpoint: received 4; allowed: one of \[8, 9\]")
    other = child().model_copy(update={"model": parent.model.model_copy(update={"heads": 4})})
    refused(other, "model.heads: 2 there, 4 asked for")  # the same tensors, another network
    shutil.copytree(sweep / parent.run_id, sweep / "feedfeedfeed")
    refused(child(run="feedfeedfeed"), f"feedfeedfeed, whose folder holds run {parent.run_id}")
    weights = sweep / parent.run_id / "checkpoints" / "step_00000009" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    refused(child(), "step_00000009 is damaged", DamagedCheckpointError)  # and never 8 in its place
    (sweep / parent.run_id / "run.nc").unlink()
    refused(child(), "allowed: the run_id of a finished run beside")


def test_a_run_that_lost_its_note_is_not_continued(sweep: Path, child: Child) -> None:
    out = run(child(), sweep / "out", progress=False)
    (out / "run.nc").unlink()
    (out / "start.json").unlink()
    with pytest.raises(ValueError, match=r"start.json: received .*No such file.*to begin anew"):
        run(child(), out, progress=False)


@pytest.mark.parametrize("change", [{"step": 3}, {"weights": "ema"}, {"optimizer": "carried"}, {"averages": "carried"}])
def test_choices_without_a_run_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"start: received .*{next(iter(change))}.*set start.run"):
        StartOptions.model_validate(change)


def test_through_the_command_line(sweep: Path, parent: RunConfig, child: Child) -> None:
    config = child()
    small = RunConfig.model_validate({**dict(config), "start": StartOptions()})
    (sweep / "small.json").write_text(small.to_json())
    out = sweep / config.run_id
    cli.main(["train", str(sweep / "small.json"), "--out", str(out), "--start.run", parent.run_id])
    assert RunFolder(out).read_config() == config
    assert read_run(out / "run.nc").attrs["started_from_step"] == 9


def test_a_run_in_use_is_an_error_of_its_own(parent: RunConfig, tmp_path: Path) -> None:
    from dynamics.atomic import locked

    with locked(RunFolder(tmp_path).log), pytest.raises(RunInUseError, match="no other process is training"):
        run(parent, tmp_path, progress=False)
