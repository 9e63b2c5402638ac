"""Images as an autoencoder sees them: mean and standard deviation of each latent number, memory-mapped."""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from dynamics.data.latent_files import LABELS, REMAKE, Record, check_files, read_record, shard_bytes, shard_path
from dynamics.data.source import SIZED, WHOLE, DataOptions
from dynamics.flow.condition import ClassLabels
from dynamics.flow.path import Shape
from dynamics.options import invalid, later
from dynamics.rng import batch_indices, generator, normal_rows

NUM_REFERENCE = 10_000
SD_VAE, SD_SCALE = "stabilityai/sd-vae-ft-mse", 0.18215
"""The autoencoder of the papers, and what its latents are multiplied by."""
IMAGENET_CLASSES, IMAGENET_IMAGES = 1000, 1_281_167
"""Of the training set."""


class Latents(DataOptions):
    """Latents of images, made by `dynamics encode`."""

    name: Literal["latents"] = "latents"
    path: Path | None = None
    """The folder of the latents."""
    image_size: int | None = None
    """Side in pixels of the images before they became latents."""
    vae: str = later(SD_VAE)
    """Which autoencoder made the latents: its name, or the hash of its weights. Others are refused."""
    latent_scale: float = later(SD_SCALE, gt=0)
    """What latents are multiplied by. Latents whose record says otherwise are refused."""

    @model_validator(mode="after")
    def _has_a_size(self) -> Self:
        if self.image_size is None:
            raise invalid("image_size", None, "the side of the images", "pass what the images were encoded with: 256")
        if self.image_size < 1:
            raise invalid("image_size", self.image_size, SIZED, "pass what the images were encoded with: 256")
        return self

    def load(self) -> "LatentSet":
        return load_latents(self._folder(), self.vae, self.latent_scale, self._side())

    def dimensions(self) -> tuple[Shape, ClassLabels]:
        """Return shape and condition as the record has them; without a path, those of ImageNet, downsampled 8 times.

        Raises:
            ValueError: The record is missing or damaged.

        Example:
            >>> Latents(image_size=256).dimensions()
            ((4, 32, 32), ClassLabels(num_classes=1000))
        """
        if self.path is None:
            return (4, self._side() // 8, self._side() // 8), ClassLabels(IMAGENET_CLASSES)
        record = read_record(self._folder())
        return record.latent_shape, ClassLabels(len(record.classes))

    def latents_bytes(self) -> int:
        """Return the room that the latents take on a disk; without a path, those of ImageNet, as in `dimensions`.

        Example:
            >>> Latents(image_size=256).latents_bytes() / 1e9
            41.981280256
        """
        num_images = IMAGENET_IMAGES if self.path is None else read_record(self._folder()).num_images
        return num_images * shard_bytes(1, self.dimensions()[0])

    def _folder(self) -> Path:
        if self.path is None:  # presets do not know where latents lie
            remedy = "make latents with `dynamics encode` and pass their folder as --data.path"
            raise invalid("data.path", None, "the folder of the latents", remedy)
        return self.path.expanduser()

    def _side(self) -> int:
        assert self.image_size is not None, "checked"
        return self.image_size


def load_latents(folder: Path, vae: str, scale: float, image_size: int) -> "LatentSet":
    """Load latents that were made as asked for; files that have changed since they were last checked are read once.

    Args:
        folder: What `dynamics encode` made.
        vae: Name of the autoencoder, or the hash of its weights.
        scale: What latents are multiplied by.
        image_size: Side in pixels of the images.

    Raises:
        ValueError: The record is missing, damaged, or of other latents; a file is missing, truncated or of other size.
    """
    record = read_record(folder)
    checks = (
        ("vae", vae, record.vae_sha256 if vae == record.vae_sha256 else record.vae),
        ("latent_scale", scale, record.scale),
        ("image_size", image_size, record.image_size),
    )
    for name, asked, made in checks:
        if asked != made:
            allowed = f"{made!r}, which the latents in {folder} were made with"
            remedy = f"encode the images again, or train with --data.{name.replace('_', '-')} {made}"
            raise invalid(f"data.{name}", asked, allowed, remedy)
    check_files(folder, record, remembered=True)
    labels = torch.from_numpy(np.load(folder / LABELS, allow_pickle=False).astype(np.int64))
    if len(labels) != record.num_images or not 0 <= int(labels.min()) <= int(labels.max()) < len(record.classes):
        received = f"{folder / LABELS} with {len(labels)} labels {int(labels.min())}..{int(labels.max())}"
        raise invalid("latents", received, f"{record.num_images} of {len(record.classes)} classes", REMAKE)
    return LatentSet(folder, record, labels)


@dataclass(frozen=True, eq=False)
class LatentSet:
    """A finite set of images as laws of latents: x = scale (mean + std e), drawn at each step, half of them flipped.

    Only the rows that are asked for are read from the files.

    Args:
        folder: Where the files lie.
        record: What is in them.
        labels: Classes 0..K-1, long [N].
    """

    folder: Path
    record: Record
    labels: Tensor

    pictures = False
    drawn_by_rank = True
    licence = "the user's own"

    @property
    def name(self) -> str:
        """What results call the data."""
        return re.sub(r"[^\w-]", "_", f"latents-{self.folder.resolve().name}")

    @property
    def source(self) -> str:
        """The folder, and what made the latents."""
        return f"{self.folder}, latents of {self.record.vae} ({self.record.vae_sha256})"

    @cached_property
    def sha256(self) -> str:
        """Hash of the record, which holds those of the files."""
        return hashlib.sha256(self.record.model_dump_json().encode()).hexdigest()

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.record.classes)

    @property
    def condition(self) -> ClassLabels:
        """Class labels 0..K-1; K itself is the null class."""
        return ClassLabels(self.num_classes)

    @property
    def shape(self) -> Shape:
        """(C, h, w) of one latent."""
        return self.record.latent_shape

    @cached_property
    def _files(self) -> list[Tensor]:
        # torch.from_file keeps no file open once it is mapped, of which a process may have a thousand only
        return [
            torch.from_file(
                str(shard_path(self.folder, i)), shared=False, size=shard.count * 4 * prod(self.shape), dtype=torch.half
            ).view(shard.count, 2, 2, *self.shape)
            for i, shard in enumerate(self.record.shards)
        ]

    @cached_property
    def _ends(self) -> Tensor:
        return torch.tensor(list(accumulate(shard.count for shard in self.record.shards)))

    def moments(self, rows: Tensor, flips: Tensor) -> Tensor:
        """Read the laws of some images; files are read in their order.

        Args:
            rows: Images [B] long, 0..N-1.
            flips: Whether each is to be the flipped image, [B] long, 0 or 1.

        Returns:
            Mean and standard deviation [B, 2, C, h, w] float16, unscaled.
        """
        out = torch.empty(len(rows), 2, *self.shape, dtype=torch.half)
        order = rows.argsort()
        counts = torch.bincount(torch.bucketize(rows, self._ends, right=True), minlength=len(self._ends)).tolist()
        for shard, here in enumerate(torch.split(order, counts)):
            if len(here):
                start = int(self._ends[shard]) - self.record.shards[shard].count
                out[here] = self._files[shard][rows[here] - start, flips[here]]
        return out

    def batch(self, seed: int, step: int, batch_size: int, share: slice = WHOLE) -> tuple[Tensor, Tensor]:
        """Return the global batch of a step: x [B, C, h, w] float32, scaled latents drawn for this step, and y [B].

        Rows outside `share` are NaN, and neither read nor drawn.
        """
        rows = batch_indices(len(self.labels), seed, step, batch_size)
        flips = torch.randint(2, (batch_size,), generator=generator(seed, "flips", step))
        x = torch.full((batch_size, *self.shape), torch.nan)
        e = normal_rows(range(batch_size)[share], self.shape, seed, "latents", step)
        mean, std = self.moments(rows[share].contiguous(), flips[share]).float().unbind(1)
        x[share] = self.record.scale * (mean + std * e)
        return x, self.labels[rows]

    def reference(self) -> tuple[Tensor, Tensor]:
        """Return the scaled means of up to 10,000 images as they are, evenly spaced, and their labels."""
        count = min(len(self.labels), NUM_REFERENCE)
        rows = torch.arange(count) * len(self.labels) // count
        means = self.moments(rows, torch.zeros_like(rows))[:, 0]
        return self.record.scale * means.float(), self.labels[rows]

    def quantise(self, x: Tensor) -> Tensor:
        """Return x as it is: latents have no pixel levels."""
        return x

    def oracle(self) -> None:
        """Latents are each drawn from a law of its own: there are too many to sum over."""

    def features(self) -> None:
        """Samples have to be decoded before anything can look at them."""
