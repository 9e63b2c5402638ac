"""A small folder of latents as `dynamics encode` makes it, with laws that are known."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynamics.atomic import file_sha256
from dynamics.data.latent_files import LABELS, RECORD, Record, Shard, shard_path

COUNTS, SHAPE, SCALE = (5, 1, 7), (4, 2, 2), 0.5
TOTAL = sum(COUNTS)
OPTIONS: dict[str, Any] = {"name": "latents", "vae": "tiny", "latent_scale": SCALE, "image_size": 16}


def laws() -> Tensor:
    """Mean and standard deviation of each image and its flip, in float16: all differ, and the means are far apart."""
    numbers = torch.arange(TOTAL * 2 * 16).reshape(TOTAL, 2, *SHAPE)
    return torch.stack([4 * (numbers // 16) + numbers % 16 / 16, 0.125 + numbers / 8192], 2).half()


def write_latents(path: Path) -> Path:
    """Write the folder and return it."""
    labels = np.arange(TOTAL, dtype=np.int32) % 3
    shards = []
    for i, part in enumerate(laws().split(COUNTS)):
        file = shard_path(path, i)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(part.numpy().tobytes())
        shards.append(Shard(count=len(part), sha256=file_sha256(file)))
    np.save(path / LABELS, labels)
    record = Record(
        vae="tiny",
        vae_sha256="f" * 64,
        scale=SCALE,
        latent_shape=SHAPE,
        image_size=16,
        num_images=TOTAL,
        classes=("a", "b", "c"),
        labels_sha256=file_sha256(path / LABELS),
        shards=tuple(shards),
    )
    (path / RECORD).write_text(record.model_dump_json(indent=1))
    return path
