"""A finite set of labelled images."""

import hashlib
import json
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dynamics.data.cache import cache_folder
from dynamics.data.source import WHOLE
from dynamics.features import Extractor, packaged_extractor, trained_extractor
from dynamics.flow.condition import ClassLabels
from dynamics.flow.path import Shape
from dynamics.options import invalid
from dynamics.oracles import EmpiricalOracle
from dynamics.rng import batch_indices

PLAUSIBLE_CLASSES = 1000
"""A class number below this, or below the number of images, may be meant."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A finite set of labelled images, x = 2 pixels / levels - 1.

    Args:
        pixels: Integer levels 0..levels, uint8 [N, C, H, W].
        labels: Classes 0..num_classes-1, long [N]; all 0 with one class for unlabelled images.
        levels: The pixel value of white: 255, or 16 for digits.
        num_classes: Number of classes K.
        name: What results call the data.
        source: Where the data come from.
        licence: Under which terms they may be used.
        classifier: Classifier of the package whose features compare samples; None trains one on the images.

    Raises:
        ValueError: No images, another dtype or number of axes, pixels above `levels`, another number of labels than
            images, or labels outside 0..K-1.

    Example:
        >>> pixels = torch.tensor([0, 16], dtype=torch.uint8).reshape(2, 1, 1, 1)
        >>> data = ImageSet(pixels, torch.tensor([0, 1]), 16, 2, "two", "made up", "none")
        >>> data.reference()[0].flatten().tolist(), data.shape
        ([-1.0, 1.0], (1, 1, 1))
    """

    pixels: Tensor
    labels: Tensor
    levels: int
    num_classes: int
    name: str
    source: str
    licence: str
    classifier: str | None = None

    pictures = True
    drawn_by_rank = False

    def __post_init__(self) -> None:
        pixels, labels = self.pixels, self.labels
        if pixels.dtype != torch.uint8 or pixels.ndim != 4:
            raise invalid(
                "pixels",
                f"{pixels.dtype} {list(pixels.shape)}",
                "uint8 [N, C, H, W]",
                "convert the images to 8-bit levels and four axes",
            )
        if pixels.numel() == 0:
            raise invalid("pixels", list(pixels.shape), "at least one image", "check where the images are read from")
        if labels.dtype != torch.long or labels.ndim != 1:
            raise invalid("labels", f"{labels.dtype} {list(labels.shape)}", "long [N]", "convert the labels to int64")
        if len(labels) != len(pixels):
            raise invalid(
                "labels",
                f"{len(labels)} labels for {len(pixels)} images",
                "one label per image",
                "check that images and labels belong together",
            )
        if not 1 <= self.levels <= 255 or int(pixels.max()) > self.levels:
            raise invalid(
                "levels",
                f"levels={self.levels} with pixels up to {int(pixels.max())}",
                "1 <= levels <= 255 and pixels <= levels",
                "pass the pixel value of white",
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.num_classes:
            raise invalid(
                "labels",
                f"{low}..{high}",
                f"0..{self.num_classes - 1} for num_classes={self.num_classes}",
                "number the classes from 0",
            )

    @property
    def shape(self) -> Shape:
        """(C, H, W) of one image."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    @property
    def condition(self) -> ClassLabels:
        """Class labels 0..K-1; K itself is the null class."""
        return ClassLabels(self.num_classes)

    @cached_property
    def sha256(self) -> str:
        """Hash of shape, levels, pixels and labels: the same on every machine, whatever file they came from."""
        digest = hashlib.sha256(json.dumps([list(self.pixels.shape), self.levels, self.num_classes]).encode())
        digest.update(self.pixels.contiguous().numpy().data)
        digest.update(self.labels.numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    def batch(self, seed: int, step: int, batch_size: int, share: slice = WHOLE) -> tuple[Tensor, Tensor]:
        """Return the global batch of a step, whatever the share.

        Args:
            seed: The run's seed.
            step: Training step, counted from 0.
            batch_size: Global batch size B, over all ranks and accumulation steps.
            share: Which rows are wanted.

        Returns:
            x [B, C, H, W] float32 in [-1, 1] and y [B] long.
        """
        rows = batch_indices(len(self.pixels), seed, step, batch_size)
        return self._scale(self.pixels[rows]), self.labels[rows]

    def reference(self) -> tuple[Tensor, Tensor]:
        """Return all images [N, C, H, W] in [-1, 1] and their labels [N], in stored order."""
        return self._scale(self.pixels), self.labels.clone()

    def quantise(self, x: Tensor) -> Tensor:
        """Round x [B, C, H, W] to the nearest of the levels + 1 pixel levels, clamped to [-1, 1]."""
        return ((x + 1) * (self.levels / 2)).round().clamp(0, self.levels) * (2 / self.levels) - 1

    def oracle(self) -> EmpiricalOracle:
        """Return the exact velocities of this finite set."""
        return EmpiricalOracle(*self.reference())

    def features(self) -> Extractor | None:
        """Return the features of a classifier; None of unlabelled images, which have nothing to teach it."""
        if self.classifier is not None:
            return packaged_extractor(self.classifier)
        return trained_extractor(self, cache_folder()) if self.num_classes > 1 else None

    def _scale(self, pixels: Tensor) -> Tensor:
        return pixels.float() * (2 / self.levels) - 1


def num_classes_of(labels: Collection[int], name: str) -> int:
    """Return the number of classes that labels speak of, 0 to the largest one; warn of classes without images.

    Args:
        labels: One an image.
        name: What errors call them.

    Raises:
        ValueError: A label is far beyond the number of images. Each class has weights of its own in the network.
    """
    there = set(labels)
    largest = max(there, default=0)
    if largest >= max(PLAUSIBLE_CLASSES, len(labels)):
        allowed = f"class numbers from 0, below {max(PLAUSIBLE_CLASSES, len(labels))} for {len(labels)} images"
        raise invalid(name, largest, allowed, "number the classes 0, 1, 2, ...")
    if missing := [label for label in range(largest) if label not in there]:
        shown = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        warnings.warn(
            f"{name}: {len(missing)} of {largest + 1} classes have no images: {shown}; number them without gaps, "
            "unless this is meant",
            stacklevel=2,
        )
    return largest + 1


def to_pixels(x: Tensor) -> Tensor:
    """Round x [B, C, H, W], [-1, 1] being the pixel range, to the nearest levels uint8 0..255."""
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
