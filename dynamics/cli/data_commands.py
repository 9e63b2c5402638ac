"""Commands that prepare data, and look whether data and runs are as they were written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class EncodeArgs:
    """Encode images, and their flips, into memory-mapped latents; the same command again makes what is missing."""

    images: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IMAGES")]
    """A folder with one subfolder per class or with tar files, or a tar file."""
    out: Path
    """Folder of the latents."""
    vae: str
    """The autoencoder: a folder, or a name on the hub such as stabilityai/sd-vae-ft-mse."""
    vae_name: str | None = None
    """What the record calls it; by default its name on the hub, where known, or else the folder's name."""
    scale: float = 0.18215
    """What latents will be multiplied by; it goes into the record."""
    image_size: int = 256
    """Side in pixels that images are resized and cropped to."""
    batch_size: int = 32
    """Images per pass of the encoder."""
    shard: str = "0/1"
    """Which part of the work is this process's, i/n; in a Slurm array 0-7: $SLURM_ARRAY_TASK_ID/8."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the autoencoder computes; auto takes the GPU if there is one."""


def encode(args: EncodeArgs) -> None:
    """Encode, and say what is left."""
    from dynamics.data.encode import EncodeOptions
    from dynamics.data.encode import encode as encode_images
    from dynamics.training import TrainingOptions, device_for

    own = ("vae", "vae_name", "scale", "image_size", "batch_size", "shard")
    options = EncodeOptions(**{name: getattr(args, name) for name in own})
    left = encode_images(args.images, args.out, options, device_for(TrainingOptions(device=args.device)))
    if left:
        print(f"{left} files of latents are for other processes (--shard) to make; the last one writes the record")
    else:
        print(f"{args.out / 'record.json'}; next: dynamics train b4-improved --data.path {args.out} --out DIR")


@dataclass(frozen=True)
class VerifyArgs:
    """Compare a run folder, or a folder of latents, with all its checksums; exit code 1 if anything is damaged."""

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]
    """The folder of a run, or of latents. Nothing in it is changed."""


def verify(args: VerifyArgs) -> None:
    """Print a line for each file or checkpoint."""
    from dynamics.runner.integrity import examine_files

    damaged = False
    for checked in examine_files(args.path):
        print(f"DAMAGED {checked.path}: {checked.damage}" if checked.damage else f"ok      {checked.path}", flush=True)
        damaged |= bool(checked.damage)
    if damaged:
        raise SystemExit(1)
