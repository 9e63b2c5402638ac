"""Extractors: the feature spaces that distances are measured in, one per kind of data."""

import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dynamics.features.classifier import (
    FeatureClassifier,
    LabelledImages,
    load_classifier,
    save_classifier,
    train_classifier,
)
from dynamics.options import invalid

WEIGHTS = Path(__file__).parent / "weights"
PACKAGED = {"digits": "25a54f8f7c1b673ccdaccbcb7176f44f40499becc9e82f6af3befd3499aadd2d"}
"""Hashes of the weights that come with the package."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Extractor:
    """A classifier whose penultimate layer is the feature space.

    Args:
        name: Goes into the names of results, as in `fd_digits`; letters, digits and underscores.
        sha256: Hash of the weights file: distances compare only where it is the same.
        accuracy: Held-out accuracy of the classifier on the data it was trained on.
        model: The classifier, in evaluation mode.
        batch_size: Images per forward pass.
    """

    name: str
    sha256: str
    accuracy: float
    model: FeatureClassifier
    batch_size: int = 500

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Return the features [B, 64] float64, on the CPU, of images x [B, C, H, W]."""
        return torch.cat([self.model.features(part).double().cpu() for part in self._parts(x)])

    @torch.no_grad()
    def classify(self, x: Tensor) -> Tensor:
        """Return the most probable classes [B] long, on the CPU, of images x [B, C, H, W]."""
        return torch.cat([self.model(part).argmax(1).cpu() for part in self._parts(x)])

    def _parts(self, x: Tensor) -> list[Tensor]:
        weight = self.model.head.weight
        starts = range(0, len(x), self.batch_size)
        return [x[i : i + self.batch_size].to(weight.device, weight.dtype) for i in starts]


def packaged_extractor(name: str) -> Extractor:
    """Return an extractor whose weights come with the package: digits, which serves their mixture too.

    Raises:
        ValueError: The weights are damaged.

    Example:
        >>> extractor = packaged_extractor("digits")
        >>> extractor.features(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 64])
    """
    return _read(name, WEIGHTS / f"{name}.safetensors", PACKAGED[name])


def trained_extractor(data: LabelledImages, cache: Path) -> Extractor:
    """Return a data set's own extractor, trained with seed 0 on first use (minutes) and kept under the data's hash.

    Args:
        data: The data set.
        cache: Folder for trained weights.

    Raises:
        ValueError: The data set has no labels to train on, or the weights are damaged or not those of this data set.
    """
    path = cache / "classifiers" / f"{data.sha256}.safetensors"
    if not path.exists():
        if data.num_classes < 2:
            raise invalid(
                "data",
                f"{data.name} with one class",
                "at least two classes, to train the feature extractor on",
                "label the images, or evaluate without feature distances",
            )
        _log.info("training a classifier on %s, kept as %s", data.name, path)
        x, y = data.reference()
        save_classifier(path, train_classifier(x, y, num_classes=data.num_classes), data, seed=0)
    extractor = _read(re.sub(r"\W", "_", data.name), path)
    if extractor.model.shape != data.shape or extractor.model.num_classes != data.num_classes:
        raise invalid("classifier", str(path), f"one for images {data.shape}", "delete the file, it is trained again")
    return extractor


def _read(name: str, path: Path, expected: str | None = None) -> Extractor:
    model, metadata = load_classifier(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if expected is not None and sha256 != expected:
        raise invalid("classifier", f"{path} with sha256 {sha256}", expected, "install the package again")
    accuracy = metadata["held_out_accuracy"]
    assert isinstance(accuracy, float), "our own metadata"
    return Extractor(name, sha256, accuracy, model)
