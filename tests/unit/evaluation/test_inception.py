"""torch-fidelity's Inception with weights from a file, its score, and a run's way from sampling to its own file."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dynamics.evaluation.fid import FidOptions
from dynamics.evaluation.inception import Inception, import_torchvision, inception_score, load_inception
from dynamics.evaluation.moments import compute_statistics
from dynamics.presets import preset
from dynamics.runner import run
from dynamics.runner.measure.fid_of_run import evaluate_fid_run
from dynamics.store import read_run
from experiments._rehearsal import random_inception

import_torchvision()
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # noqa: E402
from torch_fidelity.metric_isc import isc_features_to_metric  # noqa: E402

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:.*not 6726825d")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights, large enough for features that differ from image to image."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    random_inception(path)
    return path


@pytest.fixture(scope="module")
def inception(weights: Path) -> Inception:
    with pytest.warns(UserWarning, match="not 6726825d"):  # weights that are not the published ones are named
        return load_inception(weights, CPU)


def pictures(count: int, size: int = 8) -> Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=random)


def test_features_and_logits_are_those_of_torch_fidelity(weights: Path, inception: Inception) -> None:
    theirs = FeatureExtractorInceptionV3("theirs", ["2048", "logits_unbiased"], str(weights))
    images = pictures(2)
    features, logits = theirs(images)
    ours = inception.features(images)
    assert torch.equal(ours, features)
    assert torch.equal(inception.logits(ours), logits)
    assert float(features.std(0).mean()) > 1e-3  # else equality says nothing
    assert inception.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (inception.dim, inception.name) == (2048, "other weights")


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_the_file_is_refused_and_not_run(legacy: bool, tmp_path: Path) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    torch.save({"fc.weight": Malicious(trace)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r"inception: received .*weights\.pth .*allowed: a state dict of tensors"):
        load_inception(path, CPU)
    assert not trace.exists()


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    with pytest.raises(ValueError, match="an existing file with Inception's weights"):
        load_inception(path, CPU)
    path.write_bytes(b"hello")
    with pytest.raises(ValueError, match="a state dict of tensors"):
        load_inception(path, CPU)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(ValueError, match="a dictionary of tensors"):
        load_inception(path, CPU)
    torch.save({"fc.weight": torch.zeros(1008, 2048), "extra": torch.zeros(1)}, path)
    with pytest.raises(
        ValueError, match=r"(?s)Missing key.*Mixed_7c.*Unexpected key.*extra.*torch-fidelity's Inception"
    ):
        load_inception(path, CPU)


@pytest.mark.parametrize(("rows", "splits"), [(57, 10), (40, 1)])
def test_inception_score_is_that_of_torch_fidelity(rows: int, splits: int) -> None:
    logits = 4 * torch.randn(rows, 30, generator=torch.Generator().manual_seed(2))
    theirs = isc_features_to_metric(logits, splits)
    score, spread = inception_score(logits, splits)
    assert score > 1.5
    assert score == pytest.approx(theirs["inception_score_mean"], rel=1e-12)
    assert spread == pytest.approx(theirs["inception_score_std"], rel=1e-9, abs=1e-12)


def test_inception_score_at_its_edges() -> None:
    assert inception_score(torch.zeros(20, 7))[0] == pytest.approx(1)
    certain = torch.full((20, 7), -1e4)
    certain[:, 3] = 1e4  # a class that no row can be: 0 log 0
    assert inception_score(certain) == (pytest.approx(1), pytest.approx(0))
    certain[0, 0] = torch.nan
    assert np.isnan(inception_score(certain)[0])
    with pytest.raises(ValueError, match=r"splits: received 10; allowed: 1\.\.9"):
        inception_score(torch.zeros(9, 7))


def test_from_a_run_to_its_file(weights: Path, inception: Inception, tmp_path: Path) -> None:
    config = preset("digits-meanflow")
    training = config.training.model_copy(update={"num_steps": 4, "batch_size": 8, "checkpoint_every": 4})
    small = config.model.model_copy(update={"dim": 16, "depth": 1, "heads": 2})
    config = config.model_copy(update={"training": training, "model": small, "observers": ()})
    out = run(config, tmp_path / "run", progress=False)
    folder, reference = tmp_path / "images", tmp_path / "stats.npz"
    folder.mkdir()
    for i, image in enumerate(pictures(8)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    compute_statistics(folder, inception, reference, keep_features=True, progress=False)
    options = FidOptions(num_samples=10, batch_size=5, neighbour_rows=6, nfe=(2,))

    measured = evaluate_fid_run(out, options, weights, reference, progress=False)

    stored = read_run(out / "run.nc")["fid"].to_dataset()
    assert stored.identical(measured)
    assert (stored.sizes["field"], stored.nfe.values.tolist()) == (1, [2])
    assert stored.samples.shape[2:] == (10, 3, 3, 8, 8)
    assert set(stored.data_vars) == {f"{name}_inception" for name in ("fid", "is", "kd", "precision", "recall")} | {
        "is_inception_std",
        "kd_inception_sem",
        "samples",
    }
    assert bool(np.isfinite(stored.to_dataarray()).all())
    assert bool((stored.fid_inception > 0).all())
    assert stored.attrs["checkpoint"] == 4
    assert stored.attrs["inception_sha256"] == inception.sha256
    assert stored.attrs["reference_sha256"] == hashlib.sha256(reference.read_bytes()).hexdigest()
    assert (stored.attrs["reference"], stored.attrs["num_reference"], stored.attrs["decoder"]) == (
        "stats.npz",
        8,
        "none",
    )
    assert not (out / "evaluation").exists()
    assert "training" in read_run(out / "run.nc").children
