"""The classifier that makes feature spaces, its files, and the extractor of each data set."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dynamics.data import Digits, DigitsMixture, ImageSet, Shape
from dynamics.evaluation import train_classifier as command
from dynamics.features import Extractor, classifier, extractor, trained_extractor
from dynamics.features.classifier import (
    FeatureClassifier,
    TrainedClassifier,
    load_classifier,
    save_classifier,
    train_classifier,
)

DIGITS_WEIGHTS = extractor.WEIGHTS / "digits.safetensors"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def bright_or_dark(name: str = "bright", num_classes: int = 2) -> ImageSet:
    """Forty 3x6x7 images, dark for class 0 and bright for class 1."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % num_classes
    noise = torch.randint(0, 50, (40, 3, 6, 7), generator=random)
    return ImageSet((noise + 150 * labels[:, None, None, None]).to(torch.uint8), labels, 255, num_classes, name, "", "")


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 20, 33), (3, 2, 1)])
def test_shapes(shape: Shape) -> None:
    model = FeatureClassifier(shape, 7, width=8).eval()
    x = torch.randn(3, *shape)
    assert model.features(x).shape == (3, 64)
    assert model(x).shape == (3, 7)
    torch.testing.assert_close(model(x)[:1], model(x[:1]))


def test_bad_classifiers_and_images_are_refused() -> None:
    with pytest.raises(ValueError, match="num_classes: received 1"):
        FeatureClassifier((1, 8, 8), 1)
    with pytest.raises(ValueError, match="width: received 12"):
        FeatureClassifier((1, 8, 8), 2, width=12)
    with pytest.raises(ValueError, match=r"images: received \[2, 3, 8, 8\]"):
        FeatureClassifier((1, 8, 8), 2).features(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match="x, y: received"):
        train_classifier(torch.zeros(20, 1, 8, 8), torch.zeros(19).long())
    with pytest.raises(ValueError, match="N >= 10"):
        train_classifier(torch.zeros(9, 1, 8, 8), torch.zeros(9).long())


def test_training_learns_repeats_and_leaves_the_random_state_alone() -> None:
    x, y = bright_or_dark().reference()
    before = torch.get_rng_state()
    runs = [train_classifier(x, y, seed, num_steps=15, batch_size=16, width=8) for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    assert runs[0].accuracy == 1.0
    weights = [run.model.embed.weight for run in runs]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_accuracy_is_measured_on_images_that_were_not_trained_on() -> None:
    random = torch.Generator().manual_seed(3)
    x = torch.randn(150, 1, 4, 4, generator=random)
    y = torch.randint(0, 5, (150,), generator=random)  # nothing to learn, but enough steps to memorise
    trained = train_classifier(x, y, num_steps=150, batch_size=60, lr=5e-3)
    assert (trained.model(x).argmax(1) == y).double().mean() > 0.45
    assert trained.accuracy < 0.4


def test_augmentation_shifts_whole_images() -> None:
    x = torch.zeros(500, 1, 8, 8)
    x[:, :, 4, 4] = 10
    shifted = classifier._augment(x, torch.Generator().manual_seed(0))
    rows, columns = shifted.flatten(1).argmax(1) // 8, shifted.flatten(1).argmax(1) % 8
    assert sorted(set(zip(rows.tolist(), columns.tolist(), strict=True))) == [
        (i, j) for i in (3, 4, 5) for j in (3, 4, 5)
    ]
    assert (shifted.sort(1).values - shifted.round(decimals=0)).abs().max() < 1


def test_files_round_trip_with_the_same_bytes(tmp_path: Path) -> None:
    data = bright_or_dark()
    x, y = data.reference()
    trained = train_classifier(x, y, num_steps=3, width=8)
    paths = [tmp_path / "a" / name for name in ("one", "two", "three")]
    for path in paths:
        save_classifier(path, trained, data, seed=0)
    assert len({path.read_bytes() for path in paths}) == 1
    model, metadata = load_classifier(paths[0])
    assert torch.equal(model(x), trained.model(x))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    expected = {"data": "bright", "data_sha256": data.sha256, "shape": [3, 6, 7], "num_classes": 2, "seed": 0}
    assert {key: metadata[key] for key in expected} == expected
    assert metadata["held_out_accuracy"] == trained.accuracy


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path, whole = tmp_path / "weights", DIGITS_WEIGHTS.read_bytes()
    changed = bytearray(whole)
    changed[-100] ^= 1
    for content, message in [
        (b"", "readable safetensors"),
        (whole[:1000], "readable safetensors"),
        (bytes(changed), "changed weights"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_classifier(path)
    save_file(load_file(DIGITS_WEIGHTS), path, metadata={"classifier": json.dumps({"format": "another"})})
    with pytest.raises(ValueError, match="of format another"):
        load_classifier(path)
    with pytest.raises(ValueError, match="none"):
        load_classifier(tmp_path / "none")


def test_committed_weights_classify_digits_and_the_mixture() -> None:
    digits, mixture = Digits().load(), DigitsMixture().load()
    features = digits.features()
    _, metadata = load_classifier(DIGITS_WEIGHTS)
    assert metadata["data_sha256"] == digits.sha256
    assert features.accuracy >= 0.98
    assert DIGITS_WEIGHTS.stat().st_size < 1e6
    assert mixture.features().sha256 == features.sha256
    assert mixture.features().name == features.name == "digits"
    for x, y in (digits.reference(), mixture.batch(0, 0, 2000)):
        assert (features.classify(x) == y).double().mean() > 0.97


def test_extractor_does_not_depend_on_its_batches() -> None:
    x, _ = Digits().load().reference()
    whole = Digits().load().features()
    small = Extractor("digits", whole.sha256, whole.accuracy, whole.model, batch_size=7)
    found = whole.features(x[:50].requires_grad_())
    assert (found.dtype, found.shape, found.requires_grad) == (torch.float64, (50, 64), False)
    torch.testing.assert_close(found, small.features(x[:50]), rtol=1e-4, atol=1e-4)
    assert torch.equal(whole.classify(x[:50]), small.classify(x[:50]))


def test_committed_weights_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bright_or_dark()
    other = tmp_path / "digits.safetensors"
    save_classifier(other, TrainedClassifier(FeatureClassifier((1, 8, 8), 10), 0.5), data, seed=0)
    monkeypatch.setattr(extractor, "WEIGHTS", tmp_path)
    with pytest.raises(ValueError, match="install the package again"):
        Digits().load().features()


def test_other_data_get_a_classifier_of_their_own_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings = []

    def quick(x: torch.Tensor, y: torch.Tensor, num_classes: int) -> TrainedClassifier:
        trainings.append(len(x))
        return train_classifier(x, y, num_classes=num_classes, num_steps=2, width=8)

    monkeypatch.setattr(extractor, "train_classifier", quick)
    data = bright_or_dark("npz-my-set")
    first, second = trained_extractor(data, tmp_path), trained_extractor(data, tmp_path)
    assert (len(trainings), first.name, first.sha256) == (1, "npz_my_set", second.sha256)
    x, _ = data.reference()
    assert torch.equal(first.features(x), second.features(x))
    assert [path.stem for path in (tmp_path / "classifiers").iterdir()] == [data.sha256]
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path))
    assert data.features().sha256 == first.sha256
    bright_or_dark("digits").features()  # a name alone does not make digits
    assert len(trainings) == 1


def test_data_without_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="with one class"):
        trained_extractor(bright_or_dark(num_classes=1), tmp_path)
    assert bright_or_dark(num_classes=1).features() is None


def test_command_trains_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "digits.safetensors"
    command.main(["--data", "digits", "--out", str(out), "--num-steps", "3"])
    assert "held-out accuracy" in capsys.readouterr().out
    assert load_classifier(out)[1]["data"] == "digits"
