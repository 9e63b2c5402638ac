"""Sample a trained network, and measure distances, class accuracy and exact velocity errors."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor

from dynamics.data import DataSource
from dynamics.data.imageset import to_pixels
from dynamics.data.population import Population
from dynamics.evaluation.distance_floor import distance_floor
from dynamics.evaluation.distances import energy_distance, frechet_distance, kernel_distance, precision_recall
from dynamics.evaluation.vector_field import vector_field
from dynamics.features import Extractor
from dynamics.flow.condition import ClassLabels, Condition, each
from dynamics.flow.path import Velocity
from dynamics.options import Options, invalid, later
from dynamics.progress_bar import counted
from dynamics.rng import generator
from dynamics.sampling import check_nfe, sample_u, sample_v
from dynamics.training import check_length, weights_name

CPU = torch.device("cpu")
GRID_ROWS = 10
"""Samples per class kept for the picture."""
REAL_CLASSES, REAL_ROWS = 10, 3
"""Classes of the data of which pictures are kept beside the samples, and how many."""
POINT_DIMENSIONS = 3
"""Up to so many numbers a row, samples are points: they are compared and kept as they are."""
NUM_POINTS = 4000
"""Most points that are kept."""


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
    ema_length: float | None = later(None)
    """Sample the average of this length, a share of training, rebuilt from a run's snapshots."""
    guidance_scale: float | None = later(None, gt=0)
    """Guidance scale that a network conditioned on it is asked for; None as the run's config says."""
    guidance_interval: tuple[float, float] | None = later(None)
    """First and last time at which such a network is asked for guidance; None as the run's config says."""
    only_frechet: bool = later(False)
    """Leave out kernel distance, precision and recall, which take longest where there are many samples."""

    @field_validator("ema_length")
    @classmethod
    def _is_a_length(cls, length: float | None) -> float | None:
        if length is not None:
            check_length(length)
        return length

    @field_validator("guidance_interval")
    @classmethod
    def _is_an_interval(cls, interval: tuple[float, float] | None) -> tuple[float, float] | None:
        if interval is not None and not 0 <= interval[0] <= interval[1] <= 1:
            raise invalid("guidance_interval", interval, "two times in order, 0..1", "such as 0.4 0.65")
        return interval


@dataclass(frozen=True)
class Reference:
    """A data set, and its rows as samples are compared with them."""

    data: DataSource
    extractor: Extractor | None
    """The feature space; None where there is none."""
    features: Tensor
    """[N, D] float64, no rows without a feature space."""
    points: Tensor | None
    """[N, d] float64, the rows as they are; None where they are not points of few dimensions."""


@lru_cache(maxsize=1)
def reference_for(data: DataSource) -> Reference:
    """Return the reference that the data set's samples are compared with; runs of one study share it."""
    extractor, few = data.features(), math.prod(data.shape) <= POINT_DIMENSIONS
    x = data.reference()[0] if few or extractor is not None else torch.zeros(0)
    features = torch.zeros(0, 0, dtype=torch.float64) if extractor is None else extractor.features(x)
    return Reference(data, extractor, features, x.flatten(1).double() if few else None)


def evaluate(
    u: Velocity,
    reference: Reference,
    options: EvaluationOptions,
    device: torch.device = CPU,
    progress: bool = False,
) -> xr.Dataset:
    """Measure samples of u at each number of evaluations.

    Args:
        u: The network, u(z, t, r, c).
        reference: From `reference_for`.
        options: What to measure.
        device: Where the network computes; noise is drawn and distances are computed on the CPU.
        progress: Show a bar.

    Returns:
        Dimensions field (one value) and nfe. Of data with features, fd_<extractor> and kd_<extractor> are the Frechet
        and kernel distance and `accuracy` the share of samples that the classifier puts into the class they were asked
        for; of a population floor_fd_<extractor> is the distance that its own samples have (see `distance_floor`). Of
        pictures, `samples` is a grid of uint8 [field, nfe, class, row, C, H, W]. Of points of few dimensions,
        `energy_distance` compares them as they are, `points` [field, nfe, point, axis] and `reference_points`
        [reference_point, axis] keep some of them, and of the plane there is a `vector_field`. Of latents there is none
        of these: their samples have to be decoded first, see `fid`.
    """
    check_settings(options)
    data = reference.data
    c = draw_conditions(options, data.condition)
    rows: list[dict[str, object]] = []
    for nfe in counted(options.nfe, f"evaluate {options.field}", "setting", progress):
        row: dict[str, object] = {"samples": _grid(u, nfe, options, data, device)} if data.pictures else {}
        if reference.extractor is not None or reference.points is not None:
            samples = _samples(u, c, nfe, options, data, device, "evaluation noise")
            row |= _in_features(samples, c, reference, options.only_frechet) | _as_points(samples, reference)
        rows.append(row)
    measured = _labelled(rows, options, reference)
    if data.pictures and isinstance(data.condition, ClassLabels):
        measured["reference_samples"] = _of_the_data(data)
    measured = measured.assign(_floor(reference, options))
    if reference.points is not None:
        measured = measured.merge(_kept(reference, c))
        if data.shape == (2, 1, 1):
            measured = measured.merge(vector_field(u, data, device))
    return measured


def _as_points(samples: Tensor, reference: Reference) -> dict[str, object]:
    if reference.points is None:
        return {}
    points = samples.flatten(1)
    energy = energy_distance(reference.points, points)
    return {
        "energy_distance": energy.value,
        "energy_distance_sem": energy.standard_error,
        "points": points[:NUM_POINTS].numpy(),
    }


def _in_features(samples: Tensor, c: Any, reference: Reference, only_frechet: bool) -> dict[str, object]:
    extractor, real = reference.extractor, reference.features
    if extractor is None:
        return {}
    features = extractor.features(samples)
    labelled = reference.data.num_classes > 0 and isinstance(c, Tensor)
    accuracy = {"accuracy": float((extractor.classify(samples) == c).double().mean())} if labelled else {}
    frechet = {f"fd_{extractor.name}": frechet_distance(real, features)}
    if only_frechet:
        return {**frechet, **accuracy}
    kernel = kernel_distance(real, features)
    inside = precision_recall(real, features)
    return {
        **frechet,
        f"kd_{extractor.name}": kernel.value,
        f"kd_{extractor.name}_sem": kernel.standard_error,
        **accuracy,
        "precision": inside.precision,
        "recall": inside.recall,
    }


def _floor(reference: Reference, options: EvaluationOptions) -> dict[str, xr.Variable]:
    """Return the Frechet distance of as many samples of the population itself; nothing where there is none."""
    data, extractor = reference.data, reference.extractor
    if extractor is None or not isinstance(data, Population):
        return {}
    if len(set(data.parameters[-1].tolist())) < data.num_classes:  # labels that no sample has
        return {}
    floor = distance_floor(data, extractor, reference.features, options.num_samples, options.label_mode)
    text = f"Frechet distance of {extractor.name} features of as many samples of the population itself"
    units = _NAMES["fd"][0]
    return {
        f"floor_fd_{extractor.name}{suffix}": xr.Variable((), value, {"units": units, "long_name": text + more})
        for suffix, value, more in (("", floor.mean, ""), ("_std", floor.std, ", standard deviation over draws"))
    }


def _kept(reference: Reference, c: Any) -> xr.Dataset:
    """Return the points that samples are drawn beside, and the class of either where there are several."""
    x, y = reference.data.reference()
    columns: dict[str, tuple[tuple[str, ...], NDArray[Any], str]] = {
        "reference_points": (("reference_point", "axis"), x[:NUM_POINTS].flatten(1).numpy(), "points of the data"),
    }
    if reference.data.num_classes > 1 and isinstance(c, Tensor):
        columns["class_of_point"] = (("point",), c[:NUM_POINTS].numpy(), "class that a sample was asked for")
        columns["class_of_reference_point"] = (("reference_point",), y[:NUM_POINTS].numpy(), "class of a point")
    content = {
        name: (dims, values, {"units": "1", "long_name": text}) for name, (dims, values, text) in columns.items()
    }
    # numbered, so that runs with more or fewer of them can be merged
    counts = {"point": min(len(c), NUM_POINTS), "reference_point": min(len(x), NUM_POINTS)}
    return xr.Dataset(content, {name: (name, np.arange(count)) for name, count in counts.items()})


def check_settings(options: EvaluationOptions) -> None:
    """Refuse numbers of evaluations that the sampler cannot spend."""
    check_nfe(options.nfe)
    if options.field == "u" and options.method != "euler":
        raise invalid("method", options.method, "euler with field u, whose steps need no integrator", "add --field v")
    if options.field == "v" and options.method == "heun" and any(n % 2 for n in options.nfe):
        raise invalid("nfe", list(options.nfe), "even numbers for Heun", "use even numbers or method euler")


def sampled_as(options: EvaluationOptions) -> dict[str, str | int | float]:
    """Return how samples are drawn apart from field and number of evaluations, as attributes of the result."""
    length = options.ema_length
    names = {"num_samples": "num_samples", "label_mode": "label_mode", "method": "method", "seed": "evaluation_seed"}
    rebuilt = {} if length is None else {"ema_length": length, "weights": weights_name("ema", length)}
    guided = {} if options.guidance_scale is None else {"guidance_scale": options.guidance_scale}
    within = (
        {}
        if options.guidance_interval is None
        else {"guidance_interval": "{:g}-{:g}".format(*options.guidance_interval)}
    )
    return {attribute: getattr(options, name) for name, attribute in names.items()} | rebuilt | guided | within


def draw_conditions(options: EvaluationOptions, condition: Condition) -> Any:
    """Return what is asked of each of `num_samples` samples, the same for every setting."""
    return condition.draw(options.num_samples, options.label_mode, generator(options.seed, "evaluation labels"))


def _samples(
    u: Velocity,
    c: Any,
    nfe: int,
    options: EvaluationOptions,
    data: DataSource,
    device: torch.device,
    purpose: str,
) -> Tensor:
    """Sample one x for each row of c, rounded to the data's levels; noise depends on the seed alone."""
    noise = torch.randn(len(c), *data.shape, generator=generator(options.seed, purpose))
    parts: list[Tensor] = []
    for first in range(0, len(c), options.batch_size):
        some = slice(first, first + options.batch_size)
        parts.append(draw_samples(u, noise[some].to(device), on_device(c[some], device), nfe, options))
    return data.quantise(torch.cat(parts).float().cpu())


def on_device(c: Any, device: torch.device) -> Any:
    """Return a condition on a device."""
    return each(c, lambda column: column.to(device))


def draw_samples(u: Velocity, e: Tensor, c: Any, nfe: int, options: EvaluationOptions) -> Tensor:
    """Return the samples [B, C, H, W] that noise e and a condition c lead to, by the field that the options name."""
    if options.field == "u":
        return sample_u(u, e, c, nfe)
    return sample_v(u, e, c, nfe, options.method)


def _grid(
    u: Velocity, nfe: int, options: EvaluationOptions, data: DataSource, device: torch.device
) -> NDArray[np.uint8]:
    c = data.condition.pictured(GRID_ROWS)
    pictures = _samples(u, c, nfe, options, data, device, "picture noise")
    return to_pixels(pictures).view(-1, GRID_ROWS, *data.shape).numpy()


def _of_the_data(data: DataSource) -> xr.Variable:
    """Return pictures of the data as samples are pictured; black where a class has no more."""
    x, y = data.reference()
    out = torch.zeros(min(REAL_CLASSES, data.num_classes), REAL_ROWS, *data.shape, dtype=torch.uint8)
    for k, row in enumerate(out):
        own = to_pixels(x[y == k][:REAL_ROWS])
        row[: len(own)] = own
    dims = ("reference_class", "reference_row", "channel", "height", "width")
    return xr.Variable(dims, out.numpy(), {"units": "1", "long_name": "pictures of the data, pixel levels 0..255"})


_NAMES = {
    "fd": ("squared feature", "Frechet distance of {} features to the reference images"),
    "kd": ("1", "kernel distance of {} features to the reference images"),
    "energy": ("1", "energy distance of points to the reference points"),
    "accuracy": ("1", "share of samples that the classifier puts into the class asked for"),
    "precision": ("1", "share of samples inside the reference's neighbourhoods"),
    "recall": ("1", "share of reference images inside the samples' neighbourhoods"),
    "samples": ("1", "pictures, pixel levels 0..255"),
    "points": ("1", "samples"),
}
_DIMENSIONS = {"samples": ("class", "row", "channel", "height", "width"), "points": ("point", "axis")}


def _labelled(rows: list[dict[str, object]], options: EvaluationOptions, reference: Reference) -> xr.Dataset:
    extractor, data = reference.extractor, reference.data
    extractor_name, extractor_sha256 = (extractor.name, extractor.sha256) if extractor else ("none", "")
    variables = {}
    for name in rows[0]:
        units, text = _NAMES[name.split("_")[0]]
        text = text.format(extractor_name) + (", standard error" if name.endswith("_sem") else "")
        values = np.stack([np.asarray(row[name]) for row in rows])[None]
        dims = ("field", "nfe", *_DIMENSIONS.get(name, ()))
        variables[name] = (dims, values, {"units": units, "long_name": text})
    coords = {
        "nfe": ("nfe", list(options.nfe), {"units": "1", "long_name": "network evaluations per sample"}),
        "field": ("field", [options.field], {"units": "1", "long_name": "velocity that was sampled"}),
    }
    attrs = {
        **sampled_as(options),
        "num_reference": len(reference.features if reference.points is None else reference.points),
        "extractor": extractor_name,
        "extractor_sha256": extractor_sha256,
        "data": data.name,
        "data_sha256": data.sha256,
    }
    return xr.Dataset(variables, coords=coords, attrs=attrs)
