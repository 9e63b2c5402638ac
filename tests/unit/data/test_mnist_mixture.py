"""The mixture fitted to small MNIST: fitted once, kept, and read with care."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dynamics.data import DataOptions, ImageSet, MnistMixture, mnist_mixture
from dynamics.data.mnist_mixture import load_mnist_mixture


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (60, 1, 28, 28), generator=stream).to(torch.uint8)
    images = ImageSet(pixels, torch.arange(60) % 10, 255, 10, "few", "", "")
    monkeypatch.setattr(mnist_mixture, "load_mnist5k", lambda cache: images)
    monkeypatch.setattr(mnist_mixture, "COMPONENTS_PER_CLASS", 2)
    monkeypatch.setattr(mnist_mixture, "RANK", 8)


@pytest.mark.usefixtures("few_images")
def test_it_is_fitted_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_mnist_mixture(tmp_path / "a")
    assert load_mnist_mixture(tmp_path / "b").sha256 == first.sha256
    monkeypatch.delattr(mnist_mixture, "_fit")
    again = load_mnist_mixture(tmp_path / "a")
    assert again.sha256 == first.sha256
    assert (again.shape, again.factors.shape, len(again.weights)) == (MnistMixture().dimensions()[0], (20, 256, 8), 20)
    x, y = again.batch(seed=0, step=3, batch_size=5)
    assert (x.shape, x.dtype, y.dtype) == ((5, 1, 16, 16), torch.float32, torch.long)
    assert torch.equal(x, again.batch(0, 3, 5)[0])
    assert DataOptions.member("mnist-mixture")() == MnistMixture()


@pytest.mark.usefixtures("few_images")
@pytest.mark.parametrize("damage", ["cut", "changed", "another"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    load_mnist_mixture(tmp_path)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    content[len(content) // 3] ^= 255
    if damage == "another":
        with np.load(path) as arrays:
            np.savez(path, **{**arrays, "means": arrays["means"] + 1})
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cached mnist-mixture: .*delete it, it is built again"):
        load_mnist_mixture(tmp_path)
