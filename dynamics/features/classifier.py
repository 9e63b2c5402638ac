"""A small classifier whose penultimate layer serves as the feature space of distances."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dynamics.atomic import replacing
from dynamics.flow.path import Shape
from dynamics.options import invalid
from dynamics.rng import batch_indices, generator

NUM_FEATURES = 64
FORMAT = "dynamics classifier 1"
_HELD_OUT = 0.2
_GRID = 4
_log = logging.getLogger(__name__)


class LabelledImages(Protocol):
    """What a classifier needs of the data that it learns from."""

    @property
    def name(self) -> str:
        """What results call the data."""

    @property
    def sha256(self) -> str:
        """Hash of the images and labels."""

    @property
    def shape(self) -> Shape:
        """(C, H, W) of one image."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""

    def reference(self) -> tuple[Tensor, Tensor]:
        """Return images [N, C, H, W] and labels [N]."""


class FeatureClassifier(nn.Module):
    """Convolutions down to a 4x4 grid, 64 linear features, and one layer of logits.

    Args:
        shape: (C, H, W) of the images.
        num_classes: Number of classes, >= 2.
        width: Channels at full resolution, a multiple of 8; twice as many below.

    Example:
        >>> model = FeatureClassifier((3, 12, 20), num_classes=5)
        >>> x = torch.zeros(2, 3, 12, 20)
        >>> model.features(x).shape, model(x).shape
        (torch.Size([2, 64]), torch.Size([2, 5]))
    """

    def __init__(self, shape: Shape, num_classes: int, width: int = 32) -> None:
        super().__init__()
        if num_classes < 2:
            raise invalid("num_classes", num_classes, "num_classes >= 2", "label the images: one class teaches nothing")
        if width < 8 or width % 8:
            raise invalid("width", width, "a multiple of 8", "pass 32")
        self.shape, self.num_classes, self.width = shape, num_classes, width
        layers = _block(shape[0], width, stride=1)
        size, channels = max(shape[1:]), width
        while size > _GRID:
            layers += _block(channels, 2 * width, stride=2)
            size, channels = (size + 1) // 2, 2 * width
        layers += _block(channels, 2 * width, stride=1)
        self.body = nn.Sequential(*layers)
        self.embed = nn.Linear(2 * width * _GRID * _GRID, NUM_FEATURES)
        self.head = nn.Linear(NUM_FEATURES, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Return the penultimate, linear layer [B, 64] of images x [B, C, H, W]."""
        if x.shape[1:] != self.shape:
            received = list(x.shape)
            raise invalid("images", received, f"[B, *{list(self.shape)}]", "use the extractor of the same data")
        embedded: Tensor = self.embed(F.adaptive_avg_pool2d(self.body(x), _GRID).flatten(1))
        return embedded

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, num_classes] of images x [B, C, H, W]."""
        logits: Tensor = self.head(F.silu(self.features(x)))
        return logits


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier in evaluation mode and its accuracy on the 20% of the images that it was not trained on."""

    model: FeatureClassifier
    accuracy: float


def train_classifier(
    x: Tensor,
    y: Tensor,
    seed: int = 0,
    *,
    num_classes: int | None = None,
    num_steps: int = 1000,
    batch_size: int = 128,
    lr: float = 2e-3,
    width: int = 32,
) -> TrainedClassifier:
    """Train with AdamW on 80% of the images, shifted by a pixel or more and with light noise.

    A pure function of its arguments: the global random state is neither read nor changed.

    Args:
        x: Images [N, C, H, W] in [-1, 1], N >= 10.
        y: Classes [N] long.
        seed: Decides the split, the initial weights, the order and the augmentation.
        num_classes: Number of classes, by default the largest label + 1.
        num_steps: Number of steps; the learning rate falls to 0 along a cosine.
        batch_size: Rows per step.
        lr: First learning rate.
        width: Width of `FeatureClassifier`.

    Returns:
        The model and its held-out accuracy.

    Raises:
        ValueError: Fewer than 10 images, fewer than 2 classes, or other shapes.
    """
    if x.ndim != 4 or len(x) < 10 or y.shape != (len(x),):
        raise invalid("x, y", [list(x.shape), list(y.shape)], "[N, C, H, W] and [N], N >= 10", "pass more images")
    x, y = x.float(), y.long()
    order = torch.randperm(len(x), generator=generator(seed, "held out"))
    num_held_out = max(1, round(_HELD_OUT * len(x)))
    held_out, kept = order[:num_held_out], order[num_held_out:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "classifier").initial_seed())
        _, channels, height, width_px = x.shape
        model = FeatureClassifier((channels, height, width_px), num_classes or int(y.max()) + 1, width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    with torch.enable_grad():
        for step in range(num_steps):
            rows = kept[batch_indices(len(kept), seed, step, batch_size)]
            loss = F.cross_entropy(model(_augment(x[rows], generator(seed, "augment", step))), y[rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            if step % 100 == 99:
                _log.info("classifier step %d of %d: loss %.4f", step + 1, num_steps, loss.item())
    model.eval().requires_grad_(False)
    with torch.no_grad():
        found = torch.cat([model(x[held_out[i : i + 256]]).argmax(1) for i in range(0, num_held_out, 256)])
    return TrainedClassifier(model, (found == y[held_out]).double().mean().item())


def save_classifier(path: Path, trained: TrainedClassifier, data: LabelledImages, seed: int) -> None:
    """Write the weights as safetensors, atomically, with what they were trained on as metadata."""
    model = trained.model
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "data": data.name,
        "data_sha256": data.sha256,
        "shape": list(model.shape),
        "num_classes": model.num_classes,
        "width": model.width,
        "seed": seed,
        "held_out_accuracy": trained.accuracy,
        "tensors_sha256": _tensors_sha256(tensors),
        "torch": str(torch.__version__),
    }
    # one JSON entry, because safetensors writes several in random order and the file's hash would change
    text = {"classifier": json.dumps(metadata, sort_keys=True)}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=text)


def load_classifier(path: Path) -> tuple[FeatureClassifier, dict[str, object]]:
    """Read what `save_classifier` wrote.

    Args:
        path: The safetensors file.

    Returns:
        The model in evaluation mode, without gradients, and the metadata: format, data, data_sha256, shape,
        num_classes, width, seed, held_out_accuracy, tensors_sha256 and torch.

    Raises:
        ValueError: The file is missing or damaged, or is no classifier of this format.
    """
    remedy = "delete the file and train again: python -m dynamics.evaluation.train_classifier --out FILE"
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata: dict[str, object] = json.loads((file.metadata() or {}).get("classifier", "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        raise invalid("classifier", f"{path} ({error})", "a readable safetensors file", remedy) from error
    if metadata.get("format") != FORMAT:
        raise invalid("classifier", f"{path} of format {metadata.get('format')}", FORMAT, remedy)
    if _tensors_sha256(tensors) != metadata["tensors_sha256"]:
        raise invalid("classifier", f"{path} with changed weights", "weights that match their hash", remedy)
    shape, num_classes, width = metadata["shape"], metadata["num_classes"], metadata["width"]
    assert isinstance(shape, list), "our own metadata"
    assert isinstance(num_classes, int), "our own metadata"
    assert isinstance(width, int), "our own metadata"
    channels, height, width_px = shape
    with torch.random.fork_rng(devices=[]):
        model = FeatureClassifier((channels, height, width_px), num_classes, width)
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False), metadata


def _block(channels: int, out: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, 3, stride=stride, padding=1), nn.GroupNorm(8, out), nn.SiLU()]


def _augment(x: Tensor, random: torch.Generator) -> Tensor:
    """Shift every image by up to a pixel in twelve (at least one), repeating the border, and add noise of 0.1."""
    num_rows, _, height, width = x.shape
    margin = max(1, max(height, width) // 12)
    padded = F.pad(x, (margin,) * 4, mode="replicate")
    shift = torch.randint(2 * margin + 1, (2, num_rows, 1, 1, 1), generator=random)
    rows = torch.arange(height).view(1, 1, -1, 1) + shift[0]
    columns = torch.arange(width).view(1, 1, 1, -1) + shift[1]
    images = torch.arange(num_rows).view(-1, 1, 1, 1)
    shifted = padded[images, torch.arange(x.shape[1]).view(1, -1, 1, 1), rows, columns]
    return shifted + 0.1 * torch.randn(x.shape, generator=random)


def _tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(f"{key} {list(tensors[key].shape)} ".encode())
        digest.update(tensors[key].numpy().astype("<f4").tobytes())
    return digest.hexdigest()
