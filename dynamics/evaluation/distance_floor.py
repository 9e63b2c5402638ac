"""The Frechet distance that a population's own samples have to the reference, below which no network can come."""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor

from dynamics.atomic import replacing
from dynamics.data.cache import cache_folder
from dynamics.data.population import Population
from dynamics.evaluation.distances import frechet_distance
from dynamics.features import Extractor
from dynamics.rng import generator

NUM_DRAWS = 8
"""One draw of 10,000 samples of digits-mixture is off by a fifth."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DistanceFloor:
    """Frechet distance of a population's own samples, over `NUM_DRAWS` draws."""

    mean: float
    std: float
    """Of one draw: what two distances must differ by before they can be told apart."""


def distance_floor(
    data: Population,
    extractor: Extractor,
    reference: Tensor,
    num_samples: int,
    label_mode: Literal["uniform", "balanced"],
) -> DistanceFloor:
    """Return the distance of fresh samples, whose labels follow the law that a network is asked by; kept on disk.

    Args:
        data: The population.
        extractor: Its features.
        reference: Features of its reference, [N, D] float64.
        num_samples: Samples of each draw.
        label_mode: Law of the labels.
    """
    asked = [data.sha256, extractor.sha256, len(reference), num_samples, label_mode, NUM_DRAWS]
    path = cache_folder() / "floors" / f"{hashlib.sha256(json.dumps(asked).encode()).hexdigest()}.json"
    if path.is_file():
        try:
            return DistanceFloor(**json.loads(path.read_text()))
        except (ValueError, TypeError):
            _log.warning("%s is damaged; measuring anew", path)
    found = []
    for draw in range(NUM_DRAWS):
        labels = data.condition.draw(num_samples, label_mode, generator(draw, "floor labels"))
        x = data.quantise(samples_of(data, labels, generator(draw, "floor samples")))
        found.append(frechet_distance(reference, extractor.features(x)))
    values = torch.tensor(found, dtype=torch.float64)
    floor = DistanceFloor(float(values.mean()), float(values.std()))
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(asdict(floor)))
    return floor


def samples_of(data: Population, labels: Tensor, random: torch.Generator) -> Tensor:
    """Return a sample of p(x | y) for each label, x [B, C, H, W].

    Samples of p(x, y) are drawn until there are enough of each class, and dealt out in the order of their drawing.
    """
    out = torch.empty(len(labels), *data.shape)
    open_rows = {y: (labels == y).nonzero().flatten() for y in set(labels.tolist())}
    while open_rows:
        x, y = data.sample(len(labels), random)
        for label, rows in list(open_rows.items()):
            own = x[y == label][: len(rows)]
            out[rows[: len(own)]] = own
            open_rows[label] = rows[len(own) :]
            if len(own) == len(rows):
                del open_rows[label]
    return out
