"""Encoding after kills and damage, and class numbers that cannot be meant."""

import tarfile
from pathlib import Path

import pytest
import torch
from encoding import made, options

from dynamics.data.encode import encode
from dynamics.data.latent_files import shard_path

CPU = torch.device("cpu")


def test_what_killed_writers_left_goes_away(tmp_path: Path, images: Path, vae_folder: Path) -> None:
    encode(images, tmp_path / "out", options(vae_folder), CPU, progress=False)
    shard_path(tmp_path / "out", 0).unlink()
    left = [
        tmp_path / "out" / name
        for name in ("shards/.00000.f16.1.tmp", "shards/.00000.json.1.tmp", ".labels.npy.1.tmp", ".record.json.1.tmp")
    ]
    for path in left:
        path.write_bytes(b"half")
    encode(images, tmp_path / "out", options(vae_folder), CPU, progress=False)
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_what_is_known_of_a_file_shows_every_change(tmp_path: Path, images: Path, vae_folder: Path) -> None:
    """A file of latents whose labels changed is made again."""
    encode(images, tmp_path / "out", options(vae_folder), CPU, progress=False)
    expected, about = made(tmp_path / "out"), shard_path(tmp_path / "out", 0).with_suffix(".json")
    about.write_text(about.read_text().replace('"ant"', '"bee"', 1))
    encode(images, tmp_path / "out", options(vae_folder), CPU, progress=False)
    assert made(tmp_path / "out") == expected


def test_class_numbers_far_beyond_the_number_of_images_are_refused(
    tmp_path: Path, images: Path, vae_folder: Path
) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(images / "ant" / "0.png", "0.png")
        (tmp_path / "0.cls").write_text("100000000000")
        tar.add(tmp_path / "0.cls", "0.cls")
    with pytest.raises(ValueError, match=r"class numbers in the .cls files: received 100000000000; allowed"):
        encode(tmp_path / "set.tar", tmp_path / "out", options(vae_folder), CPU, progress=False)
