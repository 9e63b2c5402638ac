"""Public checkpoints through the commands: a finished run whose network answers as published, and back to a file."""

import argparse
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from published import State, checkpoint, dit, projectors, shapes, sit, velocity
from safetensors.torch import load_file, save_file
from torch import Tensor

import dynamics
from dynamics import cli
from dynamics.atomic import file_sha256
from dynamics.config import RunConfig
from dynamics.data import Latents
from dynamics.data.latent_files import LABELS, RECORD, Record, Shard, shard_path
from dynamics.exchange import import_export
from dynamics.exchange.conventions import Source, Target
from dynamics.exchange.translation import Imported
from dynamics.flow.condition import ClassLabels
from dynamics.models import DiTOptions
from dynamics.models.dit import SIZES
from dynamics.objectives import MeanFlow
from dynamics.presets import PRESETS
from dynamics.runner import RunFolder, run
from dynamics.store import read_run
from dynamics.training import StartOptions

DIGITS: dict[str, int] = {"channels": 1}
"""Sizes of a checkpoint for the embedded digits."""
Say = Callable[..., tuple[int, str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command; return its exit code and all that it says."""

    def command(*argv: object) -> tuple[int, str]:
        code = 0
        try:
            cli.main([str(word) for word in argv])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return command


@pytest.fixture
def preset(tiny: RunConfig, tmp_path: Path) -> Path:
    """A config on digits with the checkpoints' model; curricula and gaps are left out, for flow matching has none."""
    model = DiTOptions(dim=16, depth=2, heads=2)
    training = tiny.training.model_copy(update={"num_steps": 5, "ema_decays": (0.9,)})
    config = tiny.model_copy(update={"model": model, "training": training, "curricula": ()})
    path = tmp_path / "preset.json"
    path.write_text(config.to_json())
    return path


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    t = torch.tensor([0.0, 1.0, 0.3, 0.8])
    return torch.randn(4, 1, 8, 8, generator=stream), t, t / 3, torch.tensor([0, 10, 3, 9])


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.name != ".run.nc.lock"}


def same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=1e-4, atol=1e-4)


def test_sit_becomes_a_finished_run_that_others_start_from(say: Say, preset: Path, tmp_path: Path) -> None:
    state = checkpoint("sit", dtype=torch.float32, **DIGITS)
    file = saved(tmp_path / "SiT.pt", state)
    code, said = say("import", file, "--from", "sit", "--out", tmp_path / "sit", "--preset", preset)
    assert code == 0, said
    config = RunFolder(tmp_path / "sit").read_config()
    assert all(word in said for word in (config.run_id, "mv ", "many steps", f"--start.run {config.run_id}"))
    assert files(tmp_path / "sit") - files(tmp_path / "sit" / "checkpoints") == {
        tmp_path / "sit" / name for name in ("config.json", "run.nc", "checkpoints")
    }
    assert (config.objective.kind, config.times.gap_share) == ("flow_matching", 0)
    attrs = read_run(tmp_path / "sit" / "run.nc").attrs
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    expected = {"imported_from": "willisma/SiT", "imported_file": "SiT.pt", "imported_sha256": sha256, "meaning": "v"}
    assert {name: attrs[name] for name in expected} == expected
    assert (attrs["run_id"], attrs["config_json"]) == (config.run_id, config.to_json())
    z, t, r, y = inputs()
    for weights in ("ema", "model", "0.9"):
        same(dynamics.load_model(tmp_path / "sit", weights)(z, t, r, y), -sit(state, 2, z, 1 - t, y))

    (tmp_path / "sit").rename(tmp_path / config.run_id)
    child = RunConfig.model_validate_json(preset.read_text()).model_copy(
        update={"start": StartOptions(run=config.run_id, optimizer="carried")}
    )
    out = run(child, tmp_path / "child", progress=False)
    tree = read_run(out / "run.nc")
    assert tree.attrs["started_from_step"] == 5
    assert isinstance(child.objective, MeanFlow)
    weights = load_file(out / "checkpoints" / "step_00000005" / "model.safetensors")
    assert bool(weights["conditioning.gap.out.weight"].any())  # from zero: the gap is being learned
    code, said = say("export", out, tmp_path / "child.safetensors", "--to", "sit")
    assert code == 2
    assert "depends on the gap" in said
    assert not (tmp_path / "child.safetensors").exists()


def test_an_imported_run_can_be_evaluated(say: Say, preset: Path, tmp_path: Path) -> None:
    file = saved(tmp_path / "a.pt", checkpoint("meanflow-pytorch", dtype=torch.float32, **DIGITS))
    out = tmp_path / "u"
    assert say("import", file, "--from", "meanflow-pytorch", "--out", out, "--preset", preset)[0] == 0
    code, said = say("evaluate", out, "--num-samples", "50", "--nfe", "1", "--exact-rows", "4")
    assert code == 0, said
    assert "evaluation" in dynamics.open_results(out).children
    assert read_run(out / "run.nc").attrs["meaning"] == "u"


def test_a_dit_is_only_a_backbone_and_says_so(say: Say, preset: Path, tmp_path: Path) -> None:
    state = checkpoint("dit", dtype=torch.float32, **DIGITS)
    save_file(state, tmp_path / "dit.safetensors")
    out = tmp_path / "dit"
    code, said = say("import", tmp_path / "dit.safetensors", "--from", "dit", "--out", out, "--preset", preset)
    assert code == 0, said
    assert "NOT A VELOCITY" in said
    assert read_run(out / "run.nc").attrs["meaning"] == "backbone"
    z, t, r, y = inputs()
    own = (999 * t).round()
    same(dynamics.load_model(out)(z, own, r, y), dit(state, 2, z, own, y))
    code, said = say("export", out, tmp_path / "x", "--to", "sit")
    assert code == 2
    assert "predicts no velocity" in said


@pytest.mark.parametrize("source", get_args(Target))
def test_a_file_comes_back_from_its_run(source: Target, say: Say, preset: Path, tmp_path: Path) -> None:
    state = checkpoint(source, dtype=torch.float32, sigma=False, **DIGITS)
    first = saved(tmp_path / "a.pth", state | (projectors(16) if source == "repa" else {}))
    code, said = say("import", first, "--from", source, "--out", tmp_path / "run", "--preset", preset)
    assert code == 0, said
    assert ("no sample needs these tensors: projectors. (6)" in said) == (source == "repa")
    code, said = say("export", tmp_path / "run", tmp_path / "v1.5", "--to", source)
    assert code == 0, said
    built_with = {"sit": "learn_sigma=False", "repa": "z_dims=[]", "alphaflow": "net.model"}
    assert [name for name, words in built_with.items() if words in said] == [source] * (source in built_with)
    back = load_file(tmp_path / "v1.5.safetensors")
    assert {name: tuple(t.shape) for name, t in back.items()} == shapes(source, channels=1, sigma=False)
    for name, tensor in state.items():
        torch.testing.assert_close(back[name], tensor, rtol=2e-7, atol=2e-7)
        assert torch.equal(back[name], tensor) or name == "pos_embed" or source == "sit"
    before = (tmp_path / "v1.5.safetensors").read_bytes()
    code, said = say("export", tmp_path / "run", tmp_path / "v1.5", "--to", source, "--weights", "model")
    assert code == 2
    assert "v1.5.safetensors'; allowed: a file that is not there yet" in said
    assert (tmp_path / "v1.5.safetensors").read_bytes() == before
    again = say("import", tmp_path / "v1.5.safetensors", "--from", source, "--out", tmp_path / "2", "--preset", preset)
    assert again[0] == 0, again[1]
    z, t, r, y = inputs()
    same(dynamics.load_model(tmp_path / "2")(z, t, r, y), velocity(source, state, 2, z, t, r, y))
    # other bytes are another run, though they are of one size
    assert RunFolder(tmp_path / "run").read_config().run_id != RunFolder(tmp_path / "2").read_config().run_id


def test_training_checkpoints_have_an_average_and_weights(say: Say, preset: Path, tmp_path: Path) -> None:
    parts: dict[str, State] = {
        name: checkpoint("sit", seed, torch.float32, **DIGITS) for seed, name in enumerate(("ema", "model"))
    }
    content = {
        "model": {f"module.{name}": tensor for name, tensor in parts["model"].items()},
        "ema": parts["ema"],
        "opt": {"state": {0: {"step": torch.ones(())}}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
        "args": argparse.Namespace(model="SiT-XL/2", cfg_scale=4.0),
    }
    z, t, r, y = inputs()
    for given, expected in (([], "ema"), (["--weights", "ema"], "ema"), (["--weights", "model"], "model")):
        out = tmp_path / f"run {given}"
        file = saved(tmp_path / "0400000.pt", content)
        assert say("import", file, "--from", "sit", "--out", out, "--preset", preset, *given)[0] == 0
        same(dynamics.load_model(out)(z, t, r, y), -sit(parts[expected], 2, z, 1 - t, y))
        assert read_run(out / "run.nc").attrs["imported_weights"] == expected
    ids = [RunFolder(tmp_path / f"run {given}").read_config().run_id for given in ([], ["--weights", "model"])]
    assert ids[0] != ids[1]
    del content["ema"]
    file = saved(tmp_path / "raw.pt", content)
    assert say("import", file, "--from", "sit", "--out", tmp_path / "raw", "--preset", preset)[0] == 0
    code, said = say("import", file, "--from", "sit", "--out", tmp_path / "no", "--preset", preset, "--weights", "ema")
    assert code == 2
    assert "which has model" in said


class Executes:
    """What a malicious file holds: reading it without protection makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_is_not_executed(say: Say, preset: Path, tmp_path: Path) -> None:
    mark, state = tmp_path / "executed", checkpoint("sit", dtype=torch.float32, **DIGITS)
    for i, content in enumerate(({"ema": state, "args": Executes(mark)}, {**state, "extra": Executes(mark)})):
        for zipped in (True, False):
            file = tmp_path / f"{i}{zipped}.pt"
            torch.save(content, file, _use_new_zipfile_serialization=zipped)
            code, said = say("import", file, "--from", "sit", "--out", tmp_path / "run", "--preset", preset)
            assert code == 2, said
            assert "which asks for" in said
            assert "mkdir" in said
            assert "nothing in a file is executed" in said
            assert not mark.exists()
            assert not (tmp_path / "run").exists()
    torch.load(file, weights_only=False)
    assert mark.exists()  # where nothing protects from it, the file does what it says


def test_what_is_there_is_not_overwritten(say: Say, preset: Path, tmp_path: Path) -> None:
    file = saved(tmp_path / "a.pt", checkpoint("sit", dtype=torch.float32, **DIGITS))
    out = tmp_path / "run"
    out.mkdir()
    command = ("import", file, "--from", "sit", "--out", out, "--preset", preset)
    assert say(*command)[0] == 0  # an empty folder is nothing
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    code, said = say(*command)
    assert code == 2
    assert "choose another --out" in said
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    for path in ("a.pt", "nothing.pt", "preset.json"):
        code, said = say("import", tmp_path / path, "--from", "sit", "--out", tmp_path / "a.pt")
        assert code == 2


def test_an_import_that_fails_leaves_nothing(
    say: Say, preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved(tmp_path / "a.pt", checkpoint("sit", dtype=torch.float32, **DIGITS))
    before = files(tmp_path)

    def fail(*_: object) -> None:
        raise ValueError("here")

    monkeypatch.setattr(import_export, "write_run", fail)
    code, said = say("import", file, "--from", "sit", "--out", tmp_path / "run", "--preset", preset)
    assert (code, "here" in said) == (2, True)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "sizes", "words"),
    [
        ({"model": {"kind": "dit", "dim": 32, "depth": 2, "heads": 2}}, {}, "model.dim: 32 there, 16 asked for"),
        ({"data": {"name": "mnist5k"}}, {}, "allowed: shape (1, 8, 8) and 10 classes"),
        ({}, {"classes": 9}, "allowed: shape (1, 8, 8) and 9 classes"),
        ({}, {"channels": 3}, "allowed: shape (3, 8, 8) and 10 classes"),
    ],
)
def test_a_preset_must_fit(
    change: dict[str, Any], sizes: dict[str, int], words: str, say: Say, preset: Path, tmp_path: Path
) -> None:
    preset.write_text(json.dumps(json.loads(preset.read_text()) | change))
    file = saved(tmp_path / "a.pt", checkpoint("sit", dtype=torch.float32, **{**DIGITS, **sizes}))
    code, said = say("import", file, "--from", "sit", "--out", tmp_path / "run", "--preset", preset)
    assert code == 2
    assert words in said


def test_without_a_preset_the_size_decides(say: Say, tmp_path: Path) -> None:
    for name, size in SIZES.items():
        network = Imported(size, (4, 32, 32), 1000, {})
        scales: dict[Source, float] = {"sit": 0.18215, "repa": 0.18215, "dit": 0.18215, "meanflow-pytorch": 0.18125}
        for source, scale in scales.items():
            config = import_export.config_for(network, source, None, None, None, "a file")
            paper = PRESETS[f"{name.replace('/', '').lower()}-meanflow"]
            assert (config.model, config.training) == (paper.model, paper.training)
            assert config.data == Latents(image_size=256, latent_scale=scale)
            assert (config.objective.kind == "flow_matching") == (source in ("sit", "repa"))
            assert config.objective.guidance.label_drop_prob == 0.1
    larger = Imported(SIZES["XL/2"], (4, 64, 64), 1000, {})
    assert import_export.config_for(larger, "dit", None, None, 0.2, "a file").data.image_size == 512
    file = saved(tmp_path / "a.pt", checkpoint("sit", dtype=torch.float32))
    for words, options in (("pass --heads", []), ("pass --preset", ["--heads", "2"])):
        code, said = say("import", file, "--from", "sit", "--out", tmp_path / "run", *options)
        assert code == 2
        assert words in said


def latents(folder: Path) -> Path:
    """Latents of two images, of shape (4, 8, 8) and in ten classes."""
    file = shard_path(folder, 0)
    file.parent.mkdir(parents=True)
    file.write_bytes(np.ones((2, 2, 2, 4, 8, 8), np.float16).tobytes())
    np.save(folder / LABELS, np.array([0, 9], np.int32))
    record = Record(
        vae="own",
        vae_sha256="f" * 64,
        scale=0.18215,
        latent_shape=(4, 8, 8),
        image_size=64,
        num_images=2,
        classes=tuple("abcdefghij"),
        labels_sha256=file_sha256(folder / LABELS),
        shards=(Shard(count=2, sha256=file_sha256(file)),),
    )
    (folder / RECORD).write_text(record.model_dump_json())
    return folder


def test_on_latents(say: Say, preset: Path, tmp_path: Path) -> None:
    content = json.loads(preset.read_text()) | {"data": {"name": "latents", "image_size": 64}}
    preset.write_text(json.dumps(content))
    z, t, r, y = inputs()
    z = z.expand(-1, 4, -1, -1).contiguous()
    # without data: ImageNet's classes are taken for granted, and the network loads
    state = checkpoint("sit", dtype=torch.float32, classes=1000)
    file, out = saved(tmp_path / "a.pt", state), tmp_path / "no data"
    assert say("import", file, "--from", "sit", "--out", out, "--preset", preset)[0] == 0
    same(dynamics.load_model(out)(z, t, r, y), -sit(state, 2, z, 1 - t, y))
    # with data: they say what the classes are
    state, where = checkpoint("sit", dtype=torch.float32), latents(tmp_path / "latents")
    file, out = saved(tmp_path / "b.pt", state), tmp_path / "data"
    command = ["import", file, "--from", "sit", "--preset", preset, "--data", where, "--out", out]
    code, said = say(*command, "--latent-scale", "0.18125")
    assert code == 2
    assert "--latent-scale 0.18215" in said
    code, said = say(*command)
    assert code == 0, said
    config = RunFolder(out).read_config()
    assert (config.data.path, config.data.vae, config.data.latent_scale) == (where, "own", 0.18215)
    assert config.data.dimensions() == ((4, 8, 8), ClassLabels(10))
    shard_path(where, 0).unlink()
    same(dynamics.load_model(out)(z, t, r, y), -sit(state, 2, z, 1 - t, y))
    code, said = say(*command[:-1], tmp_path / "again")
    assert code == 2
    assert "is missing" in said
