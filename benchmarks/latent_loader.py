"""How many rows a second come out of memory-mapped latents, beside what 8 H100s could consume at DiT-B/4?

    python benchmarks/latent_loader.py --out benchmarks/results/latent_loader.json

Writes files of latents of ImageNet's shape (32 kB an image, its flip included) with random content, and reads global
batches in the order of training. `moments` reads rows only. `alone` does all that training does before a step on one
rank: latents, noise and times. `rank of 8` does the share of one rank of eight; the rows counted are those of the whole
batch, since the others work meanwhile on cores of their own. Warm is the second time over the same batches. Cold is the
first time, after the system was asked to forget the files' pages; it may keep some, and the disk of a virtual machine
may have a cache of its own. The demand is that of `dynamics plan`.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from dynamics.atomic import replacing
from dynamics.config import with_values
from dynamics.data import IMAGENET_IMAGES, LatentSet
from dynamics.data.latent_files import LABELS, RECORD, Record, Shard, file_sha256, shard_path
from dynamics.data.latents import load_latents
from dynamics.planning.estimate import estimate
from dynamics.presets import preset
from dynamics.rng import batch_indices, generator
from dynamics.store import provenance
from dynamics.training import World, draw
from dynamics.training import step as training_step

PRESET, GPUS, GPU, UTILISATION = "b4-meanflow", 8, "h100", 0.4
WHAT = ("moments", "alone", "rank of 8")
SHAPE, NUM_CLASSES, IMAGES_PER_FILE = (4, 32, 32), 1000, 4096


def write(folder: Path, num_images: int, seed: int) -> None:
    """Write latents as `dynamics encode` does, with random content: one block, repeated."""
    block = torch.rand(64, 2, 2, *SHAPE, generator=generator(seed, "content")).half().numpy().tobytes()
    row, shards = len(block) // 64, []
    for index, first in enumerate(range(0, num_images, IMAGES_PER_FILE)):
        count = min(IMAGES_PER_FILE, num_images - first)
        path = shard_path(folder, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for start in range(0, count, 64):
                file.write(block[: row * min(64, count - start)])
            os.fsync(file.fileno())  # pages that are not on the disk yet cannot be forgotten
        shards.append(Shard(count=count, sha256=file_sha256(path)))
    np.save(folder / LABELS, (np.arange(num_images) % NUM_CLASSES).astype(np.int32))
    record = Record(
        vae="none",
        vae_sha256="0" * 64,
        scale=0.18215,
        latent_shape=SHAPE,
        image_size=256,
        num_images=num_images,
        classes=tuple(map(str, range(NUM_CLASSES))),
        labels_sha256=file_sha256(folder / LABELS),
        shards=tuple(shards),
    )
    (folder / RECORD).write_text(record.model_dump_json())


def forget(folder: Path) -> None:
    """Ask the system to drop the files' pages from its memory; no file may be mapped meanwhile."""
    for path in folder.rglob("*.f16"):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def opened(folder: Path) -> LatentSet:
    return load_latents(folder, "none", 0.18215, 256)


def rows_per_second(data: LatentSet, what: str, batch_size: int, num_batches: int, seed: int) -> float:
    batch_indices(len(data.labels), seed, 0, 1)  # the permutation is drawn once an epoch and timed by itself
    config, ranks = preset(PRESET), GPUS if what == "rank of 8" else 1
    recipe = with_values(config, {"training.batch_size": batch_size, "seed": seed}).recipe(data)
    plan = recipe.plan(0, [])
    training_step.world = lambda: World(0, ranks)
    began = time.perf_counter()
    for step in range(num_batches):
        if what == "moments":
            rows = batch_indices(len(data.labels), seed, step, batch_size)
            data.moments(rows, rows % 2)
        else:
            draw(recipe, plan, step)
    return batch_size * num_batches / (time.perf_counter() - began)


def permutation_seconds(num_images: int) -> float:
    began = time.perf_counter()
    batch_indices(num_images, seed=1, step=0, batch_size=1)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=65_536, help="images in the files: 32 kB each")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--batches", type=int, default=100, help="batches of a round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the median counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--folder", type=Path, help="where to write the files for a while, by default a temporary folder"
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found: dict[str, list[float]] = {f"{what} {how}": [] for what in WHAT for how in ("cold", "warm")}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        write(folder, args.images, args.seed)
        for index in range(args.rounds):
            for what in WHAT:
                forget(folder)
                data = opened(folder)
                for how in ("cold", "warm"):
                    rate = rows_per_second(data, what, args.batch_size, args.batches, args.seed + index)
                    found[f"{what} {how}"].append(rate)
                del data  # and the mappings with it
    config = preset(PRESET)
    plan = estimate(config, GPUS, GPU, UTILISATION)
    demand = config.training.batch_size / plan.step_seconds
    median = {name: sorted(rates)[len(rates) // 2] for name, rates in found.items()}
    for name, rate in median.items():
        print(f"{name:16} {rate:12,.0f} rows/s, {rate / demand:6.2f} of the demand of {demand:,.0f}")
    settings = {name: value for name, value in vars(args).items() if name not in ("out", "folder")}
    result = {
        **provenance(json.dumps(settings), "latent_loader", args.seed),
        "rows_per_second": median,
        "rounds": found,
        "demand_rows_per_second": demand,
        "over_demand": {name: rate / demand for name, rate in median.items()},
        "demand": {
            "preset": PRESET,
            "devices": f"{GPUS} {GPU}",
            "utilisation": UTILISATION,
            "forward_gflops": plan.forward_gflops,
            "forwards_per_row": plan.forwards_per_row,
        },
        "imagenet_permutation_seconds": permutation_seconds(IMAGENET_IMAGES),
    }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(args.out) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
