"""Files of a checkpoint: what is written comes back, whole or in parts, also from earlier versions."""

import errno
import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dynamics.config import RunConfig
from dynamics.models import build
from dynamics.training import Checkpoints, DamagedCheckpointError, TrainState, start
from dynamics.training import step_folders as room
from dynamics.training.shards import Shards, write


def state_of(config: RunConfig, seed: int, steps: int = 1) -> TrainState:
    """A state with moments and averages of its own, after steps along random gradients."""
    state = start(build(config.model, *config.data.dimensions(), seed), config.training, config.curricula)
    stream = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for parameter in state.model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=stream)
        state.optimizer.step()
        state.step += 1
    for ema in state.emas.values():
        for weight in ema.values():
            weight.normal_(generator=stream)
    return state


def tensors(state: TrainState) -> dict[str, torch.Tensor]:
    out = {f"model.{n}": p.detach().clone() for n, p in state.model.named_parameters()}
    out |= {f"{d}.{n}": w.clone() for d, ema in state.emas.items() for n, w in ema.items()}
    for index, moments in state.optimizer.state_dict()["state"].items():
        out |= {f"{index}.{n}": w.clone() for n, w in moments.items()}
    return out


def assert_same(a: TrainState, b: TrainState) -> None:
    ours, theirs = tensors(a), tensors(b)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert a.step == b.step


def test_written_tensors_come_back_and_the_hash_is_the_files(tmp_path: Path) -> None:
    content = {
        "b": torch.randn(3, 4),
        "a": torch.randn(4, 3).t(),
        "half": torch.randn(5).bfloat16(),
        "count": torch.tensor(7.0),
        "none": torch.empty(0, 2),
    }
    path = tmp_path / "x.safetensors"
    assert write(path, content) == hashlib.sha256(path.read_bytes()).hexdigest()
    back = load_file(path)  # by the format's own reader
    assert back.keys() == content.keys()
    assert all(torch.equal(back[name], content[name]) and back[name].dtype == content[name].dtype for name in content)
    assert write(tmp_path / "y", dict(reversed(content.items()))) == write(tmp_path / "z", content)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(0, dtype=torch.float64),
        torch.zeros(0, 3),
        torch.zeros(3, 0),
        torch.tensor([True, False]),
        torch.tensor(True),
        torch.arange(6, dtype=torch.int32).view(2, 3).t(),
        torch.tensor([0.5, 2.0]).half(),
        torch.tensor([1, 255], dtype=torch.uint8),
    ],
    ids=lambda tensor: f"{tensor.dtype} {list(tensor.shape)}",
)
def test_whatever_a_curriculum_remembers_comes_back(tiny: RunConfig, tmp_path: Path, tensor: torch.Tensor) -> None:
    """Of any dtype, also before it has learned anything."""
    saved, other = state_of(tiny, 1), state_of(tiny, 2)
    saved.curricula = [{"seen": tensor, "count": 3}, {"best": None}]
    Checkpoints(tmp_path).save(saved)
    assert Checkpoints(tmp_path).restore(other)
    back = other.curricula[0]["seen"]
    assert back.dtype == tensor.dtype
    assert torch.equal(back, tensor)
    assert (other.curricula[0]["count"], other.curricula[1]) == (3, {"best": None})


def test_tensors_hidden_in_a_curriculums_state_are_named(tiny: RunConfig, tmp_path: Path) -> None:
    state = state_of(tiny, 1)
    state.curricula = [{}, {"means": [torch.zeros(2)]}]
    with pytest.raises(ValueError, match=r"state of curriculum 2: means: .*allowed: JSON values, and tensors"):
        Checkpoints(tmp_path).save(state)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("begin", "end"), [(0, 7), (0, 3), (1, 2), (2, 5), (3, 6), (6, 7)])
def test_any_range_of_rows_is_read_from_any_parts(tmp_path: Path, begin: int, end: int) -> None:
    whole, paths = torch.randn(7, 2), []
    for first, last in ((0, 3), (3, 6), (6, 7)):
        paths.append(tmp_path / f"{first}")
        write(paths[-1], {"x": whole[first:last], "step": torch.tensor(3.0)})
        # what a rank with a split tensor says of it
        text = json.dumps({"x": [first, 7]})
        raw = paths[-1].read_bytes()
        size = int.from_bytes(raw[:8], "little")
        header = json.dumps({**json.loads(raw[8 : 8 + size]), "__metadata__": {"rows": text}}).encode()
        paths[-1].write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + size :])
    shards = Shards.open(reversed(paths))
    assert shards.shapes == {"x": (7, 2), "step": ()}
    assert torch.equal(shards.rows("x", begin, end), whole[begin:end])
    assert torch.equal(shards.whole("x"), whole)
    assert float(shards.whole("step")) == 3


def test_a_state_comes_back_with_moments_and_its_own_settings(tiny: RunConfig, tmp_path: Path) -> None:
    saved, other = state_of(tiny, 1, steps=2), state_of(tiny, 2)
    own = {"lr": 0.5, "betas": (0.3, 0.4), "eps": 1e-3, "weight_decay": 0.7}
    other.optimizer.param_groups[0].update(own)
    saved.cells += 0.1
    Checkpoints(tmp_path).save(saved)
    assert Checkpoints(tmp_path).restore(other)
    assert_same(other, saved)
    assert own.items() <= other.optimizer.param_groups[0].items(), "how to optimise is for the config to say"
    assert torch.equal(other.cells, saved.cells)
    names = {path.name for path in Checkpoints(tmp_path).path(2).iterdir()}
    ours = {"model.safetensors", "ema_0.9.safetensors", "ema_0.99.safetensors", "optimizer.safetensors", "state.json"}
    assert names == ours


def test_tensors_of_curricula_come_back_as_they_were(tiny: RunConfig, tmp_path: Path) -> None:
    """Of every kind of number, without rows or dimensions, beside JSON values, and in the place of their curriculum."""
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
    tables = {str(kind): torch.arange(-2, 4).view(2, 3).to(kind) for kind in [*kinds, torch.int8, torch.uint8]}
    more = {"mask": torch.tensor([True, False, True]), "none": torch.zeros(0, 2), "last": torch.tensor(0.1).double()}
    plain = {"stage": 3, "best": None, "by_name": {"a.b": [0.1, True]}, "turned": tables["torch.int64"].t()}
    saved, other = state_of(tiny, 1), state_of(tiny, 2)
    saved.curricula = [{}, {**tables, **more}, {"dotted.name": torch.ones(2)}, plain]
    checkpoints = Checkpoints(tmp_path)
    folder = checkpoints.save(saved)
    assert checkpoints.restore(other)
    assert [state.keys() for state in other.curricula] == [state.keys() for state in saved.curricula]
    for ours, theirs in zip(other.curricula, saved.curricula, strict=True):
        for name, value in theirs.items():
            if isinstance(value, torch.Tensor):
                assert ours[name].dtype == value.dtype
                assert torch.equal(ours[name], value), name
            else:
                assert ours[name] == value
    assert_same(other, saved)
    file = folder / "curricula.safetensors"
    assert json.loads((folder / "state.json").read_text())["sha256"][file.name] == _sha256(file)
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DamagedCheckpointError, match=r"curricula.safetensors fails its checksum"):
        checkpoints.verify(1)
    file.unlink()
    with pytest.raises(DamagedCheckpointError, match=r"curricula.safetensors"):
        checkpoints.verify(1)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def edited(folder: Path, **changes: object) -> None:
    """Change state.json as a version would have written it that gave it no checksum; None takes a key away."""
    content = json.loads((folder / "state.json").read_text())
    content.pop("checksum", None)
    content |= changes
    (folder / "state.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def old(folder: Path, state: TrainState) -> dict[str, str]:
    """Make a checkpoint one from before there were parts; return its hashes."""
    (folder / "optimizer.safetensors").unlink()
    torch.save(state.optimizer.state_dict(), folder / "optimizer.pt")
    hashes: dict[str, str] = json.loads((folder / "state.json").read_text())["sha256"]
    del hashes["optimizer.safetensors"]
    hashes["optimizer.pt"] = _sha256(folder / "optimizer.pt")
    edited(folder, sha256=hashes, parts=None, log=None)
    return hashes


def test_checkpoints_of_earlier_versions_are_read(tiny: RunConfig, tmp_path: Path) -> None:
    saved, other = state_of(tiny, 1), state_of(tiny, 2)
    checkpoints = Checkpoints(tmp_path)
    folder = checkpoints.save(saved)
    hashes = old(folder, saved)
    assert checkpoints.restore(other)
    assert_same(other, saved)
    assert torch.equal(checkpoints.weights(1, "0.99")[1]["final.bias"], saved.emas["0.99"]["final.bias"])
    for wrong in ({}, {**hashes, "more": "0"}, {"model.safetensors": hashes["model.safetensors"]}):
        edited(folder, sha256=wrong)
        with pytest.raises(DamagedCheckpointError, match=r"state.json: it lists .*"):
            checkpoints.verify(1)
    edited(folder, sha256=hashes)
    (folder / "optimizer.pt").write_bytes(b"")
    with pytest.raises(DamagedCheckpointError, match=r"optimizer.pt fails its checksum"):
        checkpoints.verify(1)


def test_files_that_are_not_listed_are_not_read(tiny: RunConfig, tmp_path: Path) -> None:
    saved, other = state_of(tiny, 1), state_of(tiny, 2)
    checkpoints = Checkpoints(tmp_path)
    folder = checkpoints.save(saved)
    torch.save(state_of(tiny, 3).optimizer.state_dict(), folder / "optimizer.pt")
    write(folder / "curricula.safetensors", {"0.foreign": torch.ones(1)})
    assert checkpoints.restore(other)
    assert_same(other, saved)
    assert other.curricula == saved.curricula


def test_a_checkpoint_in_the_folder_of_another_step_is_refused(tiny: RunConfig, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_of(tiny, 1)).rename(tmp_path / "step_00000009")
    with pytest.raises(DamagedCheckpointError, match=r"step_00000009 is damaged \(state.json: it is of step 1\)"):
        checkpoints.verify(9)


def test_no_change_of_a_character_of_its_state_is_silent(tiny: RunConfig, tmp_path: Path) -> None:
    """Each one is refused, naming the file, or changes nothing that is read."""
    state, checkpoints = state_of(tiny, 1), Checkpoints(tmp_path)
    state.curricula = [{"seen": torch.ones(2), "best": math.inf, "count": 3}, {"worst": -0.25}]
    state.cells = state.cells[:2, :1, :2] + 0.1
    path = checkpoints.save(state, "0123abcd") / "state.json"
    content, before = path.read_bytes(), checkpoints.verify(1)
    assert before["curricula"][0]["best"] == math.inf
    assert b"Infinity" not in content, "a word that JSON does not have"
    harmless, refused = set(), []
    for place in range(len(content)):
        for other in {ord("0") + (content[place] + 1) % 10, ord("x"), content[place] ^ 1} - {content[place]}:
            path.write_bytes(content[:place] + bytes([other]) + content[place + 1 :])
            try:
                assert checkpoints.content(1) == before
                harmless.add(chr(content[place]))
            except DamagedCheckpointError as error:
                refused.append(str(error))
    assert all("state.json" in text for text in refused)
    assert not harmless & set("0123456789abcdef"), "every digit counts"
    path.write_text("[" * 100_000)
    with pytest.raises(DamagedCheckpointError, match=r"state.json: nested too deep"):
        checkpoints.verify(1)


def test_what_cannot_be_read_for_now_is_not_called_damaged(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_of(tiny, 1))

    def stale(path: Path) -> str:
        raise OSError(errno.ESTALE, "stale file handle")

    monkeypatch.setattr(room, "file_sha256", stale)
    with pytest.raises(OSError, match="stale"):
        checkpoints.verify(1)


def test_a_save_that_fails_leaves_what_was_there(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, checkpoints = state_of(tiny, 1), Checkpoints(tmp_path)
    checkpoints.save(state)
    state.step = 2

    def full(path: Path, content: dict[str, torch.Tensor]) -> str:
        if path.name.startswith("optimizer"):
            raise OSError(28, "no space left on device")
        return write(path, content)

    monkeypatch.setattr(room, "write", full)
    with pytest.raises(OSError, match="no space left"):
        checkpoints.save(state)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    checkpoints.verify(1)


def test_what_killed_writers_left_goes_away(tiny: RunConfig, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    for name in (".step_00000001.77", ".step_00000001.gone"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    checkpoints.tidy()
    assert not list(tmp_path.iterdir())
    (tmp_path / ".step_00000001.77").mkdir()
    checkpoints.save(state_of(tiny, 1))
    checkpoints.save(state_of(tiny, 1, steps=2))
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000002"]


def test_a_checkpoint_is_never_half_removed(tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill while an old one is removed must not leave one that looks damaged."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(state_of(tiny, 1))
    monkeypatch.setattr(room.shutil, "rmtree", lambda path, **_: None if path.name.startswith(".") else 1 / 0)
    checkpoints.save(state_of(tiny, 1, steps=2))
    assert checkpoints.steps() == [2]


def test_a_refused_checkpoint_never_outlives_a_good_one(tiny: RunConfig, tmp_path: Path) -> None:
    checkpoints, state = Checkpoints(tmp_path, keep=1), state_of(tiny, 0)
    checkpoints.save(state)
    (checkpoints.path(1)).rename(checkpoints.path(9))  # damaged: it is of another step
    checkpoints.save(state)
    state.step = 2
    checkpoints.save(state)
    assert checkpoints.steps() == [2, 9]
    with pytest.warns(UserWarning, match="trying the checkpoint before it"):
        assert checkpoints.restore(state_of(tiny, 1))


def test_a_checkpoint_of_another_run_is_refused(tiny: RunConfig, tmp_path: Path) -> None:
    Checkpoints(tmp_path, run_id="ours").save(state_of(tiny, 0))
    assert Checkpoints(tmp_path, run_id="ours").verify(1)["run_id"] == "ours"
    with pytest.raises(
        ValueError, match=r"received 'one of run ours'; allowed: one of run theirs, .*; remedy: put back"
    ):
        Checkpoints(tmp_path, run_id="theirs").restore(state_of(tiny, 1))


def test_tensors_of_no_checkpoint_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"garbage" * 9)
    write(tmp_path / "b.safetensors", {"x": torch.zeros(2)})
    for name in ("a", "b"):
        path = tmp_path / f"{name}.safetensors"
        if name == "b":
            path.write_bytes(path.read_bytes()[:-3])
        with pytest.raises(ValueError, match=f"{name}.safetensors: received .*; remedy: restore it"):
            Shards.open([path])
