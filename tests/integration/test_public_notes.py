"""What an import leaves out or adds is told and kept with the run; what was trained for no velocity is refused."""

import argparse
from pathlib import Path

import pytest
import torch
from published import alphaflow, checkpoint, held, projectors
from torch import Tensor

import dynamics
from dynamics.config import RunConfig
from dynamics.data import Latents
from dynamics.exchange.conventions import Source
from dynamics.exchange.import_export import config_for, import_run
from dynamics.exchange.translation import Imported
from dynamics.models import DiTOptions
from dynamics.models.dit import SIZES
from dynamics.store import read_run


@pytest.fixture
def preset(tiny: RunConfig) -> RunConfig:
    """A config on digits with the checkpoints' model, and without curricula, for flow matching has none."""
    return tiny.model_copy(update={"model": DiTOptions(dim=16, depth=2, heads=2), "curricula": ()})


def file(path: Path, state: dict[str, Tensor], **trained_with: str) -> Path:
    """Save a training checkpoint."""
    torch.save({"ema": state, "args": argparse.Namespace(**trained_with)}, path)
    return path


def test_what_is_left_out_is_kept_with_the_run(preset: RunConfig, tmp_path: Path) -> None:
    state = checkpoint("repa", dtype=torch.float32, channels=1) | projectors(16)
    made = import_run(file(tmp_path / "a.pt", state), "repa", tmp_path / "repa", preset)
    attrs = read_run(tmp_path / "repa" / "run.nc").attrs
    assert made.notes == ("left out, for no sample needs these tensors: projectors. (6)",)
    assert (attrs["imported_notes"], attrs["imported_from"], attrs["meaning"]) == (*made.notes, "sihyun-yu/REPA", "v")


def test_an_alphaflow_without_a_null_class(preset: RunConfig, tmp_path: Path) -> None:
    state = checkpoint("alphaflow", dtype=torch.float32, channels=1, classes=9)  # ten rows
    path = file(tmp_path / "a.pt", held(state))
    with pytest.raises(ValueError, match=r"allowed: shape \(1, 8, 8\) and 9 classes.*or --num-classes"):
        import_run(path, "alphaflow", tmp_path / "u", preset)
    made = import_run(path, "alphaflow", tmp_path / "u", preset, num_classes=10)
    assert [words in note for words, note in zip(("autoencoder_mean (1)", "no null class"), made.notes, strict=True)]
    z = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    t, r, y = torch.tensor([1.0, 0.5, 0.3, 1.0]), torch.tensor([0.0, 0.5, 0.1, 0.2]), torch.tensor([0, 10, 3, 9])
    theirs = alphaflow(state, 2, z, t, r, y.clamp(max=9)).float()
    torch.testing.assert_close(dynamics.load_model(tmp_path / "u")(z, t, r, y), theirs, rtol=1e-4, atol=1e-4)


def test_alphaflow_has_no_scale_of_latents() -> None:
    network = Imported(SIZES["B/2"], (4, 32, 32), 1000, {})
    with pytest.raises(ValueError, match=r"latent_scale: received 'none'.*statistics of each position.*pass --latent"):
        config_for(network, "alphaflow", None, None, None, "a file")
    config = config_for(network, "alphaflow", None, None, 0.2, "a file")
    assert (config.data, config.objective.kind) == (Latents(image_size=256, latent_scale=0.2), "meanflow")


@pytest.mark.parametrize(
    ("source", "trained_with", "words"),
    [
        ("sit", {"path_type": "GVP", "prediction": "velocity"}, "path_type GVP'; allowed: path_type Linear"),
        ("sit", {"path_type": "Linear", "prediction": "noise"}, "prediction noise'; allowed: prediction velocity"),
        ("repa", {"path_type": "cosine", "prediction": "v"}, "path_type cosine'; allowed: path_type linear"),
        (
            "repa",
            {"path_type": "Linear"},
            "path_type Linear'; allowed: path_type linear",
        ),  # a SiT, whose time is reversed
        ("meanflow-pytorch", {"path_type": "cosine"}, "path_type cosine"),
    ],
)
def test_what_was_trained_for_no_velocity_is_refused(
    source: Source, trained_with: dict[str, str], words: str, preset: RunConfig, tmp_path: Path
) -> None:
    state = checkpoint(source, dtype=torch.float32, channels=1)
    with pytest.raises(ValueError, match=f"trained with {words}"):
        import_run(file(tmp_path / "a.pt", state, **trained_with), source, tmp_path / "run", preset)
    assert not (tmp_path / "run").exists()
    straight = file(tmp_path / "b.pt", state, path_type="Linear" if source == "sit" else "linear")
    assert import_run(straight, source, tmp_path / "run", preset).notes == ()
