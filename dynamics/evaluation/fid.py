"""FID and its companions: many decoded samples through Inception, on any number of ranks, resumable."""

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dynamics.atomic import replacing
from dynamics.data.imageset import to_pixels
from dynamics.evaluation.distances import frechet_from_moments, kernel_distance, precision_recall
from dynamics.evaluation.inception import SPLITS, Inception, inception_score
from dynamics.evaluation.moments import Moments, Statistics
from dynamics.evaluation.sample_quality import (
    EvaluationOptions,
    check_settings,
    draw_conditions,
    draw_samples,
    on_device,
    sampled_as,
)
from dynamics.flow.condition import Condition
from dynamics.flow.path import Shape, Velocity
from dynamics.options import invalid
from dynamics.progress_bar import ProgressBar
from dynamics.rng import generator, normal_rows
from dynamics.training import on_all, on_first, world

KERNEL_ROWS = 10_000
"""From so many rows on, the kernel distance is a mean over subsets instead of over all pairs."""
KERNEL_SUBSET = 1000
PICTURE_CLASSES = 10
"""Most classes, evenly spread, of which there are pictures."""
PICTURE_ROWS = 3
"""Pictures of each class."""


class FidOptions(EvaluationOptions):
    """What to sample for FID; every number of evaluations starts from the same noise and labels."""

    nfe: tuple[int, ...] = (1, 2)
    """Numbers of network evaluations per sample."""
    num_samples: int = Field(default=50_000, ge=SPLITS)
    """Samples per setting; published values are of 50000."""
    batch_size: int = Field(default=64, gt=0)
    """Samples per pass of the network, the decoder and Inception."""
    neighbour_rows: int = Field(default=10_000, gt=3)
    """Most rows of either set that precision and recall compare: their cost grows with its square."""


def pixels_to_images(x: Tensor) -> Tensor:
    """Return images uint8 [B, 3, H, W] of x [B, C, H, W], C = 1 or 3, [-1, 1] being the pixel range."""
    return to_pixels(x).expand(-1, 3, -1, -1)


@dataclass(frozen=True)
class ImageSource:
    """What makes images of noise and conditions.

    Args:
        u: The network, u(z, t, r, y).
        shape: (C, H, W) of its samples.
        condition: What its samples are asked for.
        device: Where it computes.
        decode: Maps samples float32 [B, C, H, W] to images uint8 [B, 3, height, width].
    """

    u: Velocity
    shape: Shape
    condition: Condition
    device: torch.device
    decode: Callable[[Tensor], Tensor] = pixels_to_images

    def images(self, first: int, c: Any, options: FidOptions) -> dict[int, Tensor]:
        """Return each setting's images of the samples first, first + 1, ..., one for each row of c.

        The noise of a sample is a stream of its own, so that neither ranks nor batches change it.
        """
        rows = range(first, first + len(c))
        e = normal_rows(rows, self.shape, options.seed, "fid noise").to(self.device)
        c = on_device(c, self.device)
        return {nfe: self._decoded(draw_samples(self.u, e, c, nfe, options).float(), nfe) for nfe in options.nfe}

    @torch.no_grad()
    def _decoded(self, samples: Tensor, nfe: int) -> Tensor:
        if not bool(torch.isfinite(samples).all()):  # an integer would not show it
            raise invalid("samples", f"nan or inf at nfe {nfe}", "finite numbers", "choose an earlier checkpoint")
        return self.decode(samples)


@dataclass(frozen=True)
class Parts:
    """The features of the batches that are done: one file a batch, so that any number of ranks can go on.

    Args:
        folder: Of one network and one set of options.
    """

    folder: Path

    def path(self, index: int) -> Path:
        """Return the file of a batch."""
        return self.folder / f"part_{index:06d}.safetensors"

    def write(self, index: int, features: dict[int, Tensor]) -> None:
        """Keep the features [B, D] of a batch, by number of evaluations."""
        named = {str(nfe): tensor.contiguous() for nfe, tensor in features.items()}
        with replacing(self.path(index)) as temporary:
            save_file(named, temporary, metadata={"sha256": _digest(named)})

    def read(self, index: int, nfe: Collection[int]) -> dict[int, Tensor] | None:
        """Return what is kept of a batch; None if it is not there, damaged (with a warning), or lacks a setting."""
        try:
            with safe_open(self.path(index), framework="pt") as file:
                named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
                intact = (file.metadata() or {}).get("sha256") == _digest(named)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError):
            intact = False
        if not intact:
            warnings.warn(f"{self.path(index)} is damaged; its samples are drawn again", stacklevel=2)
            return None
        return {n: named[str(n)] for n in nfe} if {str(n) for n in nfe} <= named.keys() else None

    def drop(self) -> None:
        """Remove all files, and the folder around them if nothing else is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.parent.is_dir() and not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps([[name, list(tensors[name].shape)] for name in sorted(tensors)]).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].numpy().data)
    return digest.hexdigest()


def evaluate_fid(
    source: ImageSource,
    options: FidOptions,
    inception: Inception,
    reference: Statistics,
    parts: Parts,
    progress: bool = False,
) -> xr.Dataset:
    """Measure FID, Inception score, and, where the reference has features, kernel distance, precision and recall.

    All ranks call it together and share a file system. What was done before an interruption is taken from `parts`. The
    first rank measures, batch after batch in order: the numbers do not depend on the number of ranks.

    Args:
        source: What makes the images.
        options: How many, and how.
        inception: From `load_inception`.
        reference: From `load_statistics`.
        parts: Where features are kept; the caller drops them when the result is safe.
        progress: Show a bar on the first rank.

    Returns:
        Dimensions field (one value) and nfe; the same on every rank. `samples` are pictures
        [field, nfe, class, row, channel, height, width], uint8, of up to ten classes; they count for nothing else.

    Raises:
        ValueError: Numbers of evaluations that the sampler cannot spend, or samples that are not finite.
    """
    check_settings(options)
    on_all(lambda: _draw(source, options, inception, parts, progress))

    def measure() -> xr.Dataset:
        rows, pictures = _measured(options, inception, reference, parts), _pictures(source, options)
        return _labelled(rows, pictures, options, inception, reference)

    return on_first(measure)


def _draw(source: ImageSource, options: FidOptions, inception: Inception, parts: Parts, progress: bool) -> None:
    """Keep the features of this rank's batches: every K-th of those that are not there yet."""
    here = world()
    c = draw_conditions(options, source.condition)
    own = range(here.rank, -(-options.num_samples // options.batch_size), here.size)
    missing = [index for index in own if parts.read(index, options.nfe) is None]
    name, show = f"fid {options.field}, nfe {' '.join(map(str, options.nfe))}", progress and here.first
    with ProgressBar(name, len(own), "batch", len(own) - len(missing), show) as bar:
        for index in missing:
            first = index * options.batch_size
            images = source.images(first, c[first : first + options.batch_size], options)
            parts.write(index, {nfe: inception.features(batch) for nfe, batch in images.items()})
            bar.update()


def _pictures(source: ImageSource, options: FidOptions) -> dict[int, NDArray[np.uint8]]:
    """Draw some images to look at [class, row, 3, H, W], by number of evaluations."""
    c = source.condition.pictured(PICTURE_ROWS)
    count = len(c) // PICTURE_ROWS
    num_classes = min(count, PICTURE_CLASSES)
    shown = torch.arange(num_classes) * count // num_classes * PICTURE_ROWS
    c = c[(shown[:, None] + torch.arange(PICTURE_ROWS)).flatten()]
    batches, noise = [], options.num_samples  # noise that no other sample has
    for first in range(0, len(c), options.batch_size):
        some = c[first : first + options.batch_size]
        batches.append(source.images(noise + first, some, options))
    joined = {nfe: torch.cat([batch[nfe].cpu() for batch in batches]) for nfe in options.nfe}
    return {nfe: images.view(num_classes, PICTURE_ROWS, *images.shape[1:]).numpy() for nfe, images in joined.items()}


def _measured(options: FidOptions, inception: Inception, reference: Statistics, parts: Parts) -> list[dict[str, float]]:
    """Return each setting's numbers."""
    real = None if reference.features is None else reference.features.double()
    # the same tensors for every setting: what distances need of a reference is computed once for one tensor
    near = None if real is None else _some(real, _neighbour_rows(options, reference), "real")
    rows = []
    for nfe in options.nfe:
        batches = _gathered(nfe, options, parts)
        row = _own_row(batches, inception, reference)
        if real is not None and near is not None:
            row |= _row_against(real, near, torch.cat(batches).double())
        rows.append(row)
    return rows


def _gathered(nfe: int, options: FidOptions, parts: Parts) -> list[Tensor]:
    read = [parts.read(index, [nfe]) for index in range(-(-options.num_samples // options.batch_size))]
    there = [part[nfe] for part in read if part is not None]
    if len(there) < len(read):
        received = f"{len(there)} of {len(read)} files"
        remedy = "let all ranks see the same folder, and start again"
        raise invalid(str(parts.folder), received, "the features of every batch", remedy)
    return there


def _own_row(batches: list[Tensor], inception: Inception, reference: Statistics) -> dict[str, float]:
    moments = Moments.of(batches[0])
    for batch in batches[1:]:
        moments = moments.merged(Moments.of(batch))
    fid = frechet_from_moments(moments.mean, moments.covariance, reference.mu, reference.sigma)
    score, spread = inception_score(torch.cat([inception.logits(batch) for batch in batches]))
    return {"fid_inception": fid, "is_inception": score, "is_inception_std": spread}


def _row_against(real: Tensor, near: Tensor, fake: Tensor) -> dict[str, float]:
    kernel = kernel_distance(real, fake, _kernel_subset(len(real), len(fake)))
    inside = precision_recall(near, _some(fake, len(near), "fake"))
    return {
        "kd_inception": kernel.value,
        "kd_inception_sem": kernel.standard_error,
        "precision_inception": inside.precision,
        "recall_inception": inside.recall,
    }


def _kernel_subset(*rows: int) -> int | None:
    return KERNEL_SUBSET if min(rows) >= KERNEL_ROWS else None


def _neighbour_rows(options: FidOptions, reference: Statistics) -> int:
    return (
        0 if reference.features is None else min(len(reference.features), options.num_samples, options.neighbour_rows)
    )


def _some(features: Tensor, rows: int, which: str) -> Tensor:
    """Return rows of the set at random: references are often sorted by class."""
    return features[torch.randperm(len(features), generator=generator(0, "neighbour rows", which))[:rows]]


_NAMES = {
    "fid_inception": ("squared feature", "Frechet distance of Inception features to the reference statistics"),
    "is_inception": ("1", "Inception score, mean over splits"),
    "is_inception_std": ("1", "Inception score, standard deviation over splits"),
    "kd_inception": ("1", "kernel distance of Inception features to the reference images"),
    "kd_inception_sem": ("1", "kernel distance of Inception features to the reference images, standard error"),
    "precision_inception": ("1", "share of samples inside the reference's neighbourhoods, Inception features"),
    "recall_inception": ("1", "share of reference images inside the samples' neighbourhoods, Inception features"),
}


def _labelled(
    rows: list[dict[str, float]],
    pictures: dict[int, NDArray[np.uint8]],
    options: FidOptions,
    inception: Inception,
    reference: Statistics,
) -> xr.Dataset:
    variables: dict[str, Any] = {
        name: (
            ("field", "nfe"),
            [[row[name] for row in rows]],
            {"units": _NAMES[name][0], "long_name": _NAMES[name][1]},
        )
        for name in rows[0]
    }
    variables["samples"] = (
        ("field", "nfe", "class", "row", "channel", "height", "width"),
        np.stack([pictures[nfe] for nfe in options.nfe])[None],
        {"units": "1", "long_name": "pictures, pixel levels 0..255"},
    )
    coords = {
        "nfe": ("nfe", list(options.nfe), {"units": "1", "long_name": "network evaluations per sample"}),
        "field": ("field", [options.field], {"units": "1", "long_name": "velocity that was sampled"}),
    }
    return xr.Dataset(variables, coords=coords, attrs=protocol(options, inception, reference))


def protocol(options: FidOptions, inception: Inception, reference: Statistics) -> dict[str, str | int | float]:
    """Return how the numbers are made, apart from field and nfe: only results that agree in all of it compare."""
    left_out = (
        "" if reference.features is not None else "kernel distance, precision and recall need a reference with features"
    )
    return {
        **sampled_as(options),
        "rounding": "to the nearest of 256 levels",
        "resize": "bilinear as in TensorFlow 1, to 299 x 299, by the network",
        "inception": inception.name,
        "inception_sha256": inception.sha256,
        "reference": reference.name,
        "reference_sha256": reference.sha256,
        "num_reference": reference.num_images,
        "is_splits": SPLITS,
        "kernel_subset": 0
        if reference.features is None
        else _kernel_subset(len(reference.features), options.num_samples) or 0,
        "neighbour_rows": _neighbour_rows(options, reference),
        "left_out": left_out,
    }
