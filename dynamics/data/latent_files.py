"""What a folder of latents holds, and whether it is as it was made."""

from contextlib import ExitStack, suppress
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from dynamics.atomic import file_sha256, locked, replacing
from dynamics.flow.path import Shape
from dynamics.options import Options, invalid
from dynamics.strict_json import seal, unseal

RECORD, LABELS, SHARDS = "record.json", "labels.npy", "shards"
SEEN = ".seen.json"
"""Beside the record, where that can be written: size, time and hash of each file when its content was last read."""
REMAKE = "remove that file and repeat the command `dynamics encode` that made it: it makes only what is missing"


class Shard(Options):
    """One file of latents: float16 [count, 2 (as it is, flipped), 2 (mean, standard deviation), C, h, w]."""

    count: int = Field(gt=0)
    """Number of images."""
    sha256: str
    """Hash of the file."""


class Record(Options):
    """What a folder of latents holds, and what made it.

    float16 rounds a mean of size |m| by at most |m| / 2048, and a standard deviation likewise or, below 6e-5, by 3e-8.
    bfloat16 would be 8 times as coarse; the logarithm of the variance, which other caches hold, needs an exponential of
    every number at every step and is no more exact where it counts.
    """

    format: Literal[1] = 1
    """Version of the layout."""
    vae: str
    """Name of the autoencoder."""
    vae_sha256: str
    """Hash of its weights file, which identifies it."""
    scale: float = Field(gt=0)
    """What a latent is multiplied by before training sees it."""
    latent_shape: tuple[int, int, int]
    """(C, h, w) of one latent."""
    image_size: int
    """Side in pixels of the images."""
    num_images: int = Field(gt=0)
    """Number of images."""
    classes: tuple[str, ...]
    """Names of the classes; labels are positions in this list."""
    labels_sha256: str
    """Hash of the file of labels."""
    shards: tuple[Shard, ...]
    """The files of latents, in order."""


def shard_path(folder: Path, index: int) -> Path:
    """Return where a file of latents lies; beside it, with the ending .json, lies what made it."""
    return folder / SHARDS / f"{index:05d}.f16"


def shard_bytes(count: int, shape: Shape) -> int:
    """Return the size of a file of latents."""
    return count * 4 * prod(shape) * torch.float16.itemsize


def read_record(folder: Path) -> Record:
    """Read what a folder of latents says about itself.

    Raises:
        ValueError: There is none, because this is another folder or the encoding is not complete, or it is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        done = len(list((folder / SHARDS).glob("*.json")))
        received = f"{folder} with {done} files of latents and no {RECORD}" if done else f"{folder} without {RECORD}"
        remedy = "repeat the command `dynamics encode`: it completes what is there" if done else "check the path"
        raise invalid("latents", received, "a folder that `dynamics encode` has completed", remedy)
    try:
        record = Record.model_validate(unseal(path.read_bytes()))
    except ValueError as error:
        remedy = "repeat the command `dynamics encode` that made it, with the version of this package that you use now"
        raise invalid("latents", f"{path} ({error})", "a record of format 1", remedy) from error
    if record.num_images != sum(shard.count for shard in record.shards):
        raise invalid("latents", f"{path} with another sum of counts than num_images", "an intact record", REMAKE)
    return record


def verify(folder: Path) -> None:
    """Read all files of a folder of latents and compare their hashes with its record.

    Raises:
        ValueError: Naming every file that is missing or damaged.
    """
    check_files(folder, read_record(folder))


def check_files(folder: Path, record: Record, remembered: bool = False) -> None:
    """Check the files of a folder against a record, as `verify` does, and remember those that are as they should be.

    Args:
        folder: The folder.
        record: What must be in it.
        remembered: Do not read a file again that has the size and the time that it had when it was read before.
    """
    with ExitStack() as until_the_end:
        with suppress(OSError):  # of several ranks one reads, and the others find what it remembers
            until_the_end.enter_context(locked(folder / SEEN))
        seen, problems = (_seen(folder) if remembered else {}), []
        sizes = [shard_bytes(shard.count, record.latent_shape) for shard in record.shards]
        expected = {f"{SHARDS}/{shard_path(folder, i).name}": shard.sha256 for i, shard in enumerate(record.shards)}
        now = {}
        for (name, sha256), size in zip(
            {**expected, LABELS: record.labels_sha256}.items(), [*sizes, None], strict=True
        ):
            path = folder / name
            if not path.is_file():
                problems.append(f"{path} is missing")
                continue
            there = path.stat()
            if size is not None and there.st_size != size:
                problems.append(f"{path} has {there.st_size} bytes instead of {size}")
                continue
            # a copy has another number and time of change, whatever else it takes along
            now[name] = [there.st_size, there.st_mtime_ns, there.st_ctime_ns, there.st_ino, sha256]
            if seen.get(name) != now[name] and (actual := file_sha256(path)) != sha256:
                problems.append(f"{path} has sha256 {actual[:12]}... instead of {sha256[:12]}...")
                del now[name]
        if now != seen:
            with suppress(OSError), replacing(folder / SEEN) as temporary:
                temporary.write_text(seal(now))
    if problems:
        raise invalid("latents", "; ".join(problems), f"the files that {folder / RECORD} lists", REMAKE)


def _seen(folder: Path) -> dict[str, Any]:
    try:
        return unseal((folder / SEEN).read_bytes())
    except (OSError, ValueError):  # whatever it was, reading all files again does no harm
        return {}
