"""Sample a trained network, and measure distances, class accuracy and exact velocity errors."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from dynamics.data import DataSource
from dynamics.data.imageset import to_pixels
from dynamics.evaluation.distances import frechet_distance, kernel_distance, precision_recall
from dynamics.features import Extractor
from dynamics.flow.path import Velocity
from dynamics.options import Options, invalid
from dynamics.rng import generator
from dynamics.sampling import check_nfe, sample_u, sample_v

CPU = torch.device("cpu")
GRID_ROWS = 10
"""Samples per class kept for the picture."""


class EvaluationOptions(Options):
    """What to sample and how to measure it."""

    nfe: tuple[int, ...] = (1, 2, 32)
    """Numbers of network evaluations per sample."""
    num_samples: int = Field(default=2000, gt=1)
    """Samples per setting; distances are biased at small numbers, so compare at equal ones."""
    field: Literal["u", "v"] = "u"
    """Sample by the average velocity u, or integrate the instantaneous velocity v = u(z, t, t)."""
    method: Literal["euler", "heun"] = "euler"
    """Integrator of v."""
    label_mode: Literal["uniform", "balanced"] = "uniform"
    """Labels uniformly at random, or equally many of each class (which can lower a Frechet distance)."""
    seed: int = 0
    """Seed of labels and noise; the same for every setting."""
    batch_size: int = Field(default=500, gt=0)
    """Samples per network pass."""


@dataclass(frozen=True)
class Reference:
    """A data set, and its images as the feature extractor sees them."""

    data: DataSource
    extractor: Extractor | None
    """None where the data have no labels to train one with, or are latents; then there are no distances."""
    features: Tensor
    """[N, 64] float64."""


@lru_cache(maxsize=1)
def reference_for(data: DataSource) -> Reference:
    """Return the reference that the data set's samples are compared with; runs of one study share it."""
    extractor = data.features()
    if extractor is None:
        return Reference(data, None, torch.zeros(0, 64, dtype=torch.float64))
    return Reference(data, extractor, extractor.features(data.reference()[0]))


def evaluate(
    u: Velocity,
    reference: Reference,
    options: EvaluationOptions,
    device: torch.device = CPU,
    progress: bool = False,
) -> xr.Dataset:
    """Measure samples of u at each number of evaluations.

    Args:
        u: The network, u(z, t, r, y).
        reference: From `reference_for`.
        options: What to measure.
        device: Where the network computes; noise is drawn and distances are computed on the CPU.
        progress: Show a bar.

    Returns:
        Dimensions field (one value) and nfe. fd_<extractor> and kd_<extractor> are the Frechet and kernel distance,
        `accuracy` the share of samples that the classifier puts into the class they were asked for, `samples` a
        grid of uint8 pictures [field, nfe, class, row, C, H, W]. Of latents there is none of these: their samples have
        to be decoded first, see `fid`.
    """
    check_settings(options)
    data = reference.data
    labels = draw_labels(options, data.num_classes)
    rows: list[dict[str, object]] = []
    for nfe in tqdm(options.nfe, desc=f"evaluate {options.field}", unit="setting", disable=not progress):
        row: dict[str, object] = {} if not data.pictures else {"samples": _grid(u, nfe, options, data, device)}
        if reference.extractor is not None:
            samples = _samples(u, labels, nfe, options, data, device, "evaluation noise")
            row |= _distances(samples, labels, reference.extractor, reference.features)
        rows.append(row)
    return _labelled(rows, options, reference)


def _distances(samples: Tensor, labels: Tensor, extractor: Extractor, real: Tensor) -> dict[str, object]:
    features = extractor.features(samples)
    kernel = kernel_distance(real, features)
    inside = precision_recall(real, features)
    return {
        f"fd_{extractor.name}": frechet_distance(real, features),
        f"kd_{extractor.name}": kernel.value,
        f"kd_{extractor.name}_sem": kernel.standard_error,
        "accuracy": float((extractor.classify(samples) == labels).double().mean()),
        "precision": inside.precision,
        "recall": inside.recall,
    }


def check_settings(options: EvaluationOptions) -> None:
    """Refuse numbers of evaluations that the sampler cannot spend."""
    check_nfe(options.nfe)
    if options.field == "v" and options.method == "heun" and any(n % 2 for n in options.nfe):
        raise invalid("nfe", list(options.nfe), "even numbers for Heun", "use even numbers or method euler")


def draw_labels(options: EvaluationOptions, num_classes: int) -> Tensor:
    """Return the labels [num_samples] long, the same for every setting."""
    if options.label_mode == "balanced":
        return torch.arange(options.num_samples) % num_classes
    stream = generator(options.seed, "evaluation labels")
    return torch.randint(num_classes, (options.num_samples,), generator=stream)


def _samples(
    u: Velocity,
    labels: Tensor,
    nfe: int,
    options: EvaluationOptions,
    data: DataSource,
    device: torch.device,
    purpose: str,
) -> Tensor:
    """Sample one image per label, rounded to the data's pixel levels; noise depends on the seed alone."""
    noise = torch.randn(len(labels), *data.shape, generator=generator(options.seed, purpose))
    parts: list[Tensor] = []
    pairs = zip(torch.split(noise, options.batch_size), torch.split(labels, options.batch_size), strict=True)
    for e, y in ((e.to(device), y.to(device)) for e, y in pairs):
        parts.append(draw_samples(u, e, y, nfe, options))
    return data.quantise(torch.cat(parts).float().cpu())


def draw_samples(u: Velocity, e: Tensor, y: Tensor, nfe: int, options: EvaluationOptions) -> Tensor:
    """Return the samples [B, C, H, W] that noise e and labels y [B] lead to, by the field that the options name."""
    if options.field == "u":
        return sample_u(u, e, y, nfe)
    return sample_v(u, e, y, nfe, options.method)


def _grid(
    u: Velocity, nfe: int, options: EvaluationOptions, data: DataSource, device: torch.device
) -> NDArray[np.uint8]:
    labels = torch.arange(data.num_classes).repeat_interleave(GRID_ROWS)
    pictures = _samples(u, labels, nfe, options, data, device, "picture noise")
    return to_pixels(pictures).view(data.num_classes, GRID_ROWS, *data.shape).numpy()


_NAMES = {
    "fd": ("squared feature", "Frechet distance of {} features to the reference images"),
    "kd": ("1", "kernel distance of {} features to the reference images"),
    "accuracy": ("1", "share of samples that the classifier puts into the class asked for"),
    "precision": ("1", "share of samples inside the reference's neighbourhoods"),
    "recall": ("1", "share of reference images inside the samples' neighbourhoods"),
    "samples": ("1", "pictures, pixel levels 0..255"),
}


def _labelled(rows: list[dict[str, object]], options: EvaluationOptions, reference: Reference) -> xr.Dataset:
    extractor, data = reference.extractor, reference.data
    extractor_name, extractor_sha256 = (extractor.name, extractor.sha256) if extractor else ("none", "")
    variables = {}
    for name in rows[0]:
        units, text = _NAMES[name.split("_")[0]]
        text = text.format(extractor_name) + (", standard error" if name.endswith("_sem") else "")
        values = np.stack([np.asarray(row[name]) for row in rows])[None]
        dims = ("field", "nfe", "class", "row", "channel", "height", "width")[: values.ndim]
        variables[name] = (dims, values, {"units": units, "long_name": text})
    coords = {
        "nfe": ("nfe", list(options.nfe), {"units": "1", "long_name": "network evaluations per sample"}),
        "field": ("field", [options.field], {"units": "1", "long_name": "velocity that was sampled"}),
    }
    attrs = {
        "num_samples": options.num_samples,
        "num_reference": len(reference.features),
        "label_mode": options.label_mode,
        "method": options.method,
        "evaluation_seed": options.seed,
        "extractor": extractor_name,
        "extractor_sha256": extractor_sha256,
        "data": data.name,
        "data_sha256": data.sha256,
    }
    return xr.Dataset(variables, coords=coords, attrs=attrs)


def accuracy_interval(accuracy: float, num_samples: int) -> tuple[float, float]:
    """Return the 95% Wilson interval of an accuracy measured on num_samples samples.

    Example:
        >>> [round(a, 3) for a in accuracy_interval(0.97, 1000)]
        [0.957, 0.979]
    """
    z, n = 1.96, num_samples
    centre = (accuracy + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(accuracy * (1 - accuracy) / n + z * z / (4 * n * n))
    return centre - half, centre + half
