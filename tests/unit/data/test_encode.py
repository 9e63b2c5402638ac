"""Encoding with a tiny autoencoder of the real class: what it makes, whatever the order and however often it is cut."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoding import CLASSES, NUM_IMAGES, SIDE, made, options
from PIL import Image
from torch import Tensor

from dynamics.data import DataOptions, Latents
from dynamics.data.encode import EncodeOptions, centre_crop, encode
from dynamics.data.image_files import read_image
from dynamics.data.latent_files import shard_path, verify
from dynamics.data.vae import WEIGHTS, Vae, load_vae

CPU = torch.device("cpu")


def of(out: Path, vae: str = "tiny-vae") -> DataOptions:
    return Latents(path=out, vae=vae, image_size=SIDE)


def cropped(path: Path) -> Tensor:
    return torch.from_numpy(np.array(centre_crop(Image.open(path), SIDE))).permute(2, 0, 1)


def test_latents_are_the_autoencoders_own_moments_of_image_and_flip(
    tmp_path: Path, images: Path, vae_folder: Path, vae: Vae
) -> None:
    assert encode(images, tmp_path / "out", options(vae_folder), CPU, progress=False) == 0
    data = of(tmp_path / "out").load()
    files = sorted(images.rglob("*.png"))
    pixels = torch.stack([cropped(path) for path in files])
    for flip, seen in enumerate((pixels, pixels.flip(3))):
        with torch.no_grad():
            law = vae.network.encode(seen.float() / 127.5 - 1).latent_dist
        rows = torch.arange(NUM_IMAGES)
        mean, std = data.moments(rows, torch.full_like(rows, flip)).float().unbind(1)
        torch.testing.assert_close(mean, law.mean, rtol=2**-11, atol=1e-6)
        torch.testing.assert_close(std, law.std, rtol=2**-11, atol=1e-6)
    assert not torch.allclose(law.mean, vae.network.encode(pixels.float() / 127.5 - 1).latent_dist.mean, atol=1e-3)
    assert data.reference()[1].tolist() == [0] * 4 + [1] * 5
    assert (data.shape, data.record.classes) == ((4, 4, 4), CLASSES)
    assert (data.record.vae, data.record.vae_sha256, data.record.scale) == ("tiny-vae", vae.sha256, 0.18215)


def test_shards_and_interruptions_change_nothing(
    tmp_path: Path, images: Path, vae_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    encode(images, whole, options(vae_folder), CPU, progress=False)
    calls = 0
    moments = Vae.moments

    def interrupted(self: Vae, pixels: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 7:  # in the second file of this process: the first has two batches, each in both directions
            raise KeyboardInterrupt
        return moments(self, pixels)

    monkeypatch.setattr(Vae, "moments", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode(images, parts, options(vae_folder, shard="0/2"), CPU, progress=False)
    monkeypatch.setattr(Vae, "moments", moments)
    assert sorted(made(parts)) == ["shards/00000.f16", "shards/00000.json"]
    assert list(parts.rglob("*.tmp")) == []
    with pytest.raises(ValueError, match=r"1 files of latents and no record\.json.*repeat the command"):
        of(parts).load()
    before = shard_path(parts, 0).stat().st_mtime_ns
    left_by_a_kill = parts / "shards" / ".00002.f16.0123.tmp"
    left_by_a_kill.write_bytes(b"half")
    assert encode(images, parts, options(vae_folder, shard="0/2"), CPU, progress=False) == 1
    assert shard_path(parts, 0).stat().st_mtime_ns == before
    assert not left_by_a_kill.exists()
    assert encode(images, parts, options(vae_folder, shard="1/2"), CPU, progress=False) == 0
    assert made(parts) == made(whole)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-2]),
        lambda path: path.with_suffix(".json").write_text("{"),
    ],
)
def test_what_is_lost_or_truncated_is_made_again(
    tmp_path: Path, images: Path, vae_folder: Path, damage: Callable[[Path], object]
) -> None:
    encode(images, tmp_path / "out", options(vae_folder), CPU, progress=False)
    whole = made(tmp_path / "out")
    damage(shard_path(tmp_path / "out", 1))
    assert encode(images, tmp_path / "out", options(vae_folder), CPU, progress=False) == 0
    assert made(tmp_path / "out") == whole


def test_encoding_ends_with_a_look_at_all_files(tmp_path: Path, images: Path, vae_folder: Path) -> None:
    out = tmp_path / "out"
    encode(images, out, options(vae_folder, shard="0/2"), CPU, progress=False)
    content = bytearray(shard_path(out, 0).read_bytes())
    content[5] ^= 1
    shard_path(out, 0).write_bytes(content)
    with pytest.raises(ValueError, match=r"00000\.f16 has sha256.*remove that file"):
        encode(images, out, options(vae_folder, shard="1/2"), CPU, progress=False)
    assert not (out / "record.json").exists()
    shard_path(out, 0).unlink()
    assert encode(images, out, options(vae_folder), CPU, progress=False) == 0
    verify(out)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vae_name": "other"}, r"vae: received 'other'; allowed: tiny-vae, of which"),
        ({"scale": 1.0}, r"scale: received 1\.0; allowed: 0\.18215"),
        ({"image_size": 20}, "image_size: received 20; allowed: 16"),
        ({"images_per_file": 4}, "images: received '4 files"),
        ({"images_per_file": 9}, r"00001\.f16, where these images make 1 files"),
    ],
)
def test_a_folder_of_another_encoding_is_refused_before_work_begins(
    tmp_path: Path, images: Path, vae_folder: Path, changes: dict[str, Any], message: str
) -> None:
    encode(images, tmp_path / "out", options(vae_folder), CPU, progress=False)
    before = made(tmp_path / "out")
    with pytest.raises(ValueError, match=message):
        encode(images, tmp_path / "out", options(vae_folder, **changes), CPU, progress=False)
    assert made(tmp_path / "out") == before


def test_another_image_is_noticed(tmp_path: Path, images: Path, vae_folder: Path) -> None:
    encode(images, tmp_path / "out", options(vae_folder, shard="0/3"), CPU, progress=False)
    shutil.copy(images / "ant" / "0.png", images / "ant" / "00.png")
    with pytest.raises(ValueError, match="choose another --out"):
        encode(images, tmp_path / "out", options(vae_folder), CPU, progress=False)


def test_a_corrupt_image_is_named(tmp_path: Path, images: Path, vae_folder: Path) -> None:
    path = images / "bee" / "5.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"bee/5\.png.*a readable image"):
        encode(images, tmp_path / "out", options(vae_folder), CPU, progress=False)
    Image.fromarray(np.zeros((30, 30), dtype=np.uint16)).save(path)
    with pytest.raises(ValueError, match=r"bee/5\.png of mode I;16"):
        encode(images, tmp_path / "out", options(vae_folder), CPU, progress=False)


def test_latents_that_float16_cannot_hold_are_refused(
    tmp_path: Path, images: Path, vae_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = Vae.moments
    monkeypatch.setattr(Vae, "moments", lambda self, pixels: 1e6 * moments(self, pixels))
    with pytest.raises(ValueError, match=r"beyond what float16 holds, for .*0\.png"):
        encode(images, tmp_path / "out", options(vae_folder), CPU, progress=False)


def packed(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return path


def test_tar_files_with_classes_as_folders(tmp_path: Path, images: Path, vae_folder: Path) -> None:
    files = sorted(images.rglob("*.png"))
    for name, some in (("0.tar", files[:3]), ("1.tar", files[3:])):
        members = {f"train/{path.parent.name}/{path.name}": path.read_bytes() for path in some}
        packed(tmp_path / "tars" / name, members | {"README.txt": b"no image"})
    assert encode(tmp_path / "tars", tmp_path / "packed", options(vae_folder), CPU, progress=False) == 0
    encode(images, tmp_path / "out", options(vae_folder), CPU, progress=False)
    packed_set, plain = of(tmp_path / "packed").load(), of(tmp_path / "out").load()
    assert packed_set.record.classes == CLASSES
    assert [shard.count for shard in packed_set.record.shards] == [3, 6]
    torch.testing.assert_close(packed_set.reference(), plain.reference(), rtol=2e-3, atol=1e-4)


def test_tar_files_with_numbers_as_classes(tmp_path: Path, images: Path, vae_folder: Path) -> None:
    content = (images / "ant" / "0.png").read_bytes()
    numbers = {"a": b"10\n", "b": b"2", "c": b"0"}
    members = {f"{key}.{end}": x for key, number in numbers.items() for end, x in (("png", content), ("cls", number))}
    tar = packed(tmp_path / "one.tar", members)
    with pytest.warns(UserWarning, match=r"8 of 11 classes have no images: 1, 3, 4"):
        encode(tar, tmp_path / "out", options(vae_folder), CPU, progress=False)
    data = of(tmp_path / "out").load()
    assert data.reference()[1].tolist() == [10, 2, 0]
    assert data.record.classes == tuple(map(str, range(11)))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a.png",), r"label: received \"'' of .*bad\.tar:a\.png"),
        (("a.png", "a.cls"), r"label: received .*bad\.tar:a\.png"),
        (("x/a.png", "b.png", "b.cls=3"), "only some of whose images have a .cls file"),
        (("a.txt",), "which has no images"),
    ],
)
def test_tar_files_without_classes_are_refused(
    tmp_path: Path, images: Path, vae_folder: Path, names: tuple[str, ...], message: str
) -> None:
    content = (images / "ant" / "0.png").read_bytes()
    members = {}
    for name in names:
        path, _, number = name.partition("=")
        members[path] = number.encode() if number else content if path.endswith("png") else b"three"
    tar = packed(tmp_path / "bad.tar", members)
    with pytest.raises(ValueError, match=message):
        encode(tar, tmp_path / "out", options(vae_folder), CPU, progress=False)


def test_a_truncated_tar_file_is_named(tmp_path: Path, images: Path, vae_folder: Path) -> None:
    path = packed(tmp_path / "cut.tar", {f"a/{i}.png": (images / "ant" / "0.png").read_bytes() for i in range(4)})
    path.write_bytes(path.read_bytes()[:7000])
    with pytest.raises(ValueError, match=r"cut\.tar \(unexpected end of data\)"):
        encode(path, tmp_path / "out", options(vae_folder), CPU, progress=False)
    path.write_bytes(b"no tar at all")
    with pytest.raises(ValueError, match=r"cut\.tar.*a readable tar file"):
        encode(path, tmp_path / "out", options(vae_folder), CPU, progress=False)


def test_the_crop_halves_by_averaging_and_cuts_the_middle() -> None:
    random = np.random.default_rng(0)
    large = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    means = large.reshape(8, 4, 8, 4, 3).mean((1, 3))  # halved twice; nothing is left to interpolate
    assert np.abs(np.array(centre_crop(Image.fromarray(large), 8)) - means).max() <= 2  # rounded four times
    wide = Image.fromarray(random.integers(0, 256, (8, 13, 3), dtype=np.uint8))
    assert np.array_equal(np.array(centre_crop(wide, 8)), np.array(wide)[:, 2:10])
    tall = Image.fromarray(random.integers(0, 256, (14, 8, 3), dtype=np.uint8))
    assert np.array_equal(np.array(centre_crop(tall, 8)), np.array(tall)[3:11])
    assert centre_crop(Image.new("RGB", (30, 21)), 16).size == (16, 16)
    ramp = Image.fromarray(np.arange(0, 240, 8, dtype=np.uint8)[None, :, None].repeat(20, 0).repeat(3, 2))
    own = ramp.resize((24, 16), Image.Resampling.BICUBIC).crop((4, 0, 20, 16))
    assert np.array_equal(np.array(centre_crop(ramp, 16)), np.array(own))


def test_grey_images_become_coloured(tmp_path: Path, images: Path, vae_folder: Path) -> None:
    path = images / "ant" / "0.png"
    Image.open(path).convert("L").save(path)
    assert read_image(path, None).shape[2] == 1
    assert encode(images, tmp_path / "out", options(vae_folder), CPU, progress=False) == 0


def test_decoding_returns_images(vae: Vae) -> None:
    pixels = torch.randint(256, (2, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    mean = vae.moments(pixels)[:, 0]
    images = vae.decode(0.5 * mean, scale=0.5)
    assert (images.shape, images.dtype) == (pixels.shape, torch.uint8)
    with torch.no_grad():
        expected = vae.network.decode(mean).sample
    torch.testing.assert_close(images.float(), ((expected + 1) * 127.5).clamp(0, 255), rtol=0, atol=0.51)
    assert not torch.equal(images, vae.decode(0.5 * mean, scale=1.0))


def test_names_of_an_autoencoder(vae_folder: Path, tmp_path: Path, vae: Vae) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(vae_folder, copy)
    assert load_vae(copy, CPU).name == "copy"
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"_name_or_path": "/home/somebody/vae"}))
    assert load_vae(copy, CPU).name == "copy"
    (copy / "config.json").write_text(json.dumps(config | {"_name_or_path": "owner/model"}))
    assert load_vae(copy, CPU).name == "owner/model"
    assert load_vae(copy, CPU, "mine").name == "mine"
    assert load_vae(copy, CPU).sha256 == vae.sha256


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin"), "without diffusion_pytorch"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"half"), "a readable AutoencoderKL"),
        (lambda folder: (folder / "config.json").write_text('{"_class_name": "VQModel"}'), "a VQModel"),
        (shutil.rmtree, "an existing folder, or a name on the hub"),
    ],
)
def test_folders_that_are_no_autoencoder_are_refused(
    vae_folder: Path, tmp_path: Path, break_it: Callable[[Path], object], message: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(vae_folder, copy)
    break_it(copy)
    with pytest.raises(ValueError, match=message):
        load_vae(copy, CPU)


@pytest.mark.parametrize("shard", ["1", "2/2", "-1/2", "a/b", "0/0"])
def test_bad_shards_are_refused(shard: str) -> None:
    with pytest.raises(ValueError, match="0 <= i < n"):
        EncodeOptions(vae="x", shard=shard)


def test_a_size_that_the_encoder_cannot_halve_is_refused(tmp_path: Path, images: Path, vae_folder: Path) -> None:
    with pytest.raises(ValueError, match="image_size: received 18; allowed: a multiple of 4"):
        encode(images, tmp_path / "out", options(vae_folder, image_size=18), CPU, progress=False)
    assert not (tmp_path / "out").exists()
