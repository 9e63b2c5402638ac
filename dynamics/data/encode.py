"""From images to latents: resumable, and by any number of processes that need not know of each other."""

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Self

import numpy as np
import torch
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from dynamics.atomic import locked, replacing
from dynamics.data.image_files import FORMATS, IMAGE_SUFFIXES, class_folders, open_image
from dynamics.data.imageset import num_classes_of
from dynamics.data.latent_files import LABELS, RECORD, Record, Shard, check_files, shard_bytes, shard_path
from dynamics.data.latents import SD_SCALE
from dynamics.data.vae import Vae, load_vae
from dynamics.options import Options, invalid
from dynamics.progress_bar import ProgressBar
from dynamics.strict_json import seal, unseal

LARGEST_IMAGE, LARGEST_LABEL = 2**28, 64
"""Bytes of a member of a tar file."""
READERS = 8
"""Threads that read and resize images."""


class EncodeOptions(Options):
    """How images become latents."""

    vae: str
    """The autoencoder: a folder, or a name on the hub."""
    vae_name: str | None = None
    """What the record calls it; by default its name on the hub, where known, or else the folder's name."""
    scale: float = Field(default=SD_SCALE, gt=0)
    """What latents will be multiplied by; it goes into the record only."""
    image_size: int = Field(default=256, gt=0)
    """Side in pixels that images are resized and cropped to."""
    batch_size: int = Field(default=32, gt=0)
    """Images per pass of the encoder."""
    images_per_file: int = Field(default=4096, gt=0)
    """Images in a file of latents, of a folder of images; a tar file becomes one file."""
    shard: str = "0/1"
    """Which part of the work is this process's: i/n, i = 0..n-1. Other processes do the others."""

    @model_validator(mode="after")
    def _part(self) -> Self:
        index, _, count = self.shard.partition("/")
        if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
            raise invalid("shard", self.shard, "i/n with 0 <= i < n", "pass $SLURM_ARRAY_TASK_ID/8 in an array 0-7")
        return self


@dataclass(frozen=True)
class Picture:
    """An image that is still to be decoded."""

    place: str
    """What errors call it."""
    label: str
    """Name of its class, or the number of it in decimal digits."""
    numbered: bool
    content: bytes

    def __post_init__(self) -> None:
        if not (self.label.isdecimal() if self.numbered else self.label):
            allowed = "a whole number >= 0 in a .cls file beside the image, or a folder around it"
            raise invalid("label", f"{self.label!r} of {self.place}", allowed, "pack the images anew")


class Settings(Options):
    """What must be the same for all files of a folder of latents."""

    vae: str
    vae_sha256: str
    scale: float
    image_size: int


class Part(Options):
    """What a file of latents holds and what it was made from; the file is complete once this lies beside it."""

    made_from: str
    settings: Settings
    shard: Shard
    labels: tuple[str, ...]
    numbered: bool
    """Whether labels are numbers of classes, not names."""


@dataclass(frozen=True)
class FolderSource:
    """Some images of a folder."""

    files: tuple[tuple[str, Path], ...]
    """(class, path) of each."""

    @cached_property
    def identity(self) -> str:
        names = json.dumps([(label, path.name) for label, path in self.files])
        return f"{len(self.files)} files, names {hashlib.sha256(names.encode()).hexdigest()[:16]}"

    def pictures(self) -> Iterator[Picture]:
        for label, path in self.files:
            yield Picture(str(path), label, False, path.read_bytes())


@dataclass(frozen=True)
class TarSource:
    """All images of a tar file: members KEY.jpg with the number of the class in KEY.cls, or CLASS/NAME.jpg."""

    path: Path

    @cached_property
    def identity(self) -> str:
        return f"{self.path.name}, {self.path.stat().st_size} bytes"

    def pictures(self) -> Iterator[Picture]:
        try:
            with tarfile.open(self.path) as tar:
                members = {member.name: member for member in tar if member.isfile()}
                for name, member in members.items():
                    path = PurePosixPath(name)
                    if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
                        number = members.get(str(path.with_suffix(".cls")))
                        image, label = _content(tar, member, LARGEST_IMAGE), path.parent.name
                        if number is not None:
                            label = _content(tar, number, LARGEST_LABEL).decode().strip()
                        yield Picture(f"{self.path}:{name}", label, number is not None, image)
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise invalid("images", f"{self.path} ({error})", "a readable tar file", "copy the file again") from error


Source = FolderSource | TarSource


def encode(images: Path, out: Path, options: EncodeOptions, device: torch.device, progress: bool = True) -> int:
    """Encode images, and their horizontal flips, into a folder of latents that `load_latents` reads.

    Each file of latents is made at once or not at all, and files that are there are not made again: to go on after an
    interruption, repeat the command. Whoever finds all files complete checks them and writes the record.

    Args:
        images: A folder with one subfolder of images per class, or with tar files, see `TarSource`; or a tar file.
        out: The folder of the latents; made if missing.
        options: How.
        device: Where the autoencoder computes.
        progress: Show a bar.

    Returns:
        Number of files of latents that other processes have still to make; 0 once the record is written.

    Raises:
        ValueError: Images that are missing or damaged, an autoencoder that cannot be loaded or does not fit, files in
            `out` that were made otherwise, or that are not any more as they were made.
    """
    out = out.expanduser()
    sources = find_sources(images.expanduser(), options.images_per_file)
    vae = load_vae(options.vae, device, options.vae_name)
    shape = vae.latent_shape(options.image_size)
    settings = Settings(vae=vae.name, vae_sha256=vae.sha256, scale=options.scale, image_size=options.image_size)
    paths = [shard_path(out, i) for i in range(len(sources))]
    _check_folder(out, paths)
    for path, source in zip(paths, sources, strict=True):
        complete(path, source, settings, shape)  # what was made otherwise is refused before work begins
    index, count = map(int, options.shard.split("/"))
    with ProgressBar(f"encode {options.shard}", None, "image", show=progress) as bar:
        for path, source in list(zip(paths, sources, strict=True))[index::count]:
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path):
                if complete(path, source, settings, shape) is None:
                    _encode_file(path, source, vae, options, settings, bar)
    parts = [complete(path, source, settings, shape) for path, source in zip(paths, sources, strict=True)]
    done = [part for part in parts if part is not None]
    if len(done) == len(parts):
        _finish(out, settings, shape, done)
    return len(parts) - len(done)


def find_sources(images: Path, images_per_file: int) -> Sequence[Source]:
    """Return what each file of latents is made from.

    Raises:
        ValueError: There are neither class folders nor tar files.
    """
    tars = [images] if images.is_file() else sorted(images.glob("*.tar"))
    if not tars:
        files = [(label, path) for label, paths in class_folders(images).items() for path in paths]
        return [FolderSource(tuple(files[i : i + images_per_file])) for i in range(0, len(files), images_per_file)]
    return [TarSource(tar) for tar in tars]


def complete(path: Path, source: Source, settings: Settings, shape: tuple[int, int, int]) -> Part | None:
    """Return what is known of a complete file of latents; None if it is still to be made.

    Raises:
        ValueError: It was made from other images or otherwise.
    """
    about = path.with_suffix(".json")
    if not about.is_file() or not path.is_file():
        return None
    try:
        part = Part.model_validate(unseal(about.read_bytes()))
    except ValueError:
        return None
    for name, there, asked in (
        ("images", part.made_from, source.identity),
        *((name, value, getattr(settings, name)) for name, value in part.settings),
    ):
        if there != asked:
            remedy = "repeat the command that began it, or choose another --out"
            raise invalid(name, asked, f"{there}, of which {path} was made", remedy)
    return part if path.stat().st_size == shard_bytes(part.shard.count, shape) else None


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Resize so that the short side fits, and cut the centred square (Dhariwal and Nichol 2021, 2105.05233).

    The sides are halved by averaging while both are at least twice the size, the rest is done by bicubic interpolation.

    Example:
        >>> centre_crop(Image.new("RGB", (500, 375)), 256).size
        (256, 256)
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    ratio = size / min(image.size)
    image = image.resize((round(image.width * ratio), round(image.height * ratio)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def pixels_of(picture: Picture, size: int) -> Tensor:
    """Return the pixels uint8 [3, size, size] of an image; its EXIF orientation is ignored, as ADM and DiT do.

    Raises:
        ValueError: It cannot be decoded, or has more than 8 bits.
    """
    try:
        with open_image(io.BytesIO(picture.content)) as file:
            mode, image = file.mode, file.convert("RGB")
    except Exception as error:  # a damaged file can raise nearly anything
        received = f"{picture.place} ({type(error).__name__}: {error})"
        allowed = f"a readable image ({', '.join(FORMATS)})"
        raise invalid("image", received, allowed, "replace or remove the file") from error
    if mode[0] in "IF":
        raise invalid("image", f"{picture.place} of mode {mode}", "8 bits per channel", "convert it to 8 bits")
    return torch.from_numpy(np.array(centre_crop(image, size))).permute(2, 0, 1)


def _encode_file(
    path: Path,
    source: Source,
    vae: Vae,
    options: EncodeOptions,
    settings: Settings,
    bar: ProgressBar,
) -> None:
    """Make a file of latents, and then write down what it holds."""
    about = path.with_suffix(".json")
    about.unlink(missing_ok=True)  # it speaks of a file that was damaged
    labels: list[str] = []
    numbered: set[bool] = set()
    digest = hashlib.sha256()
    pictures = source.pictures()
    with replacing(path) as temporary, temporary.open("wb") as file, ThreadPoolExecutor(READERS) as readers:
        while batch := list(islice(pictures, options.batch_size)):
            pixels = torch.stack(list(readers.map(lambda picture: pixels_of(picture, options.image_size), batch)))
            laws = torch.stack([vae.moments(pixels), vae.moments(pixels.flip(-1))], 1).half()
            for picture, finite in zip(batch, laws.isfinite().flatten(1).all(1).tolist(), strict=True):
                if not finite:
                    received = f"nan, or beyond what float16 holds, for {picture.place}"
                    raise invalid("latents", received, "finite numbers", "check the autoencoder's weights")
            content = laws.numpy().tobytes()
            file.write(content)
            digest.update(content)
            labels += [picture.label for picture in batch]
            numbered |= {picture.numbered for picture in batch}
            bar.update(len(batch))
        if len(numbered) != 1:
            problem = "only some of whose images have a .cls file" if labels else "which has no images"
            raise invalid("images", f"{source.identity}, {problem}", "all with .cls or none", "pack the images anew")
    part = Part(
        made_from=source.identity,
        settings=settings,
        shard=Shard(count=len(labels), sha256=digest.hexdigest()),
        labels=tuple(labels),
        numbered=numbered.pop(),
    )
    with replacing(about) as temporary:
        temporary.write_text(seal(part.model_dump(mode="json")))


def _finish(out: Path, settings: Settings, shape: tuple[int, int, int], parts: list[Part]) -> None:
    """Write labels and record, the same whoever does it, after all files have been read once more."""
    names = {label for part in parts for label in part.labels}
    if len({part.numbered for part in parts}) > 1:
        raise invalid("images", "tar files with .cls files, and others", "all with them, or none", "pack them anew")
    numbered = parts[0].numbered
    index = {name: int(name) if numbered else i for i, name in enumerate(sorted(names))}
    labels = [index[label] for part in parts for label in part.labels]
    num_classes = num_classes_of(labels, "class numbers in the .cls files")
    classes = map(str, range(num_classes)) if numbered else sorted(names)
    content = io.BytesIO()
    np.save(content, np.array(labels, dtype=np.int32))
    record = Record(
        **settings.model_dump(),
        latent_shape=shape,
        num_images=sum(part.shard.count for part in parts),
        classes=tuple(classes),
        labels_sha256=hashlib.sha256(content.getvalue()).hexdigest(),
        shards=tuple(part.shard for part in parts),
    )
    with replacing(out / LABELS) as temporary:
        temporary.write_bytes(content.getvalue())
    check_files(out, record)
    with replacing(out / RECORD) as temporary:
        temporary.write_text(seal(record.model_dump(mode="json")))


def _check_folder(out: Path, paths: list[Path]) -> None:
    """Refuse files of latents that nothing among the images would become."""
    known = {path.name for path in paths}
    if extra := sorted(path for path in shard_path(out, 0).parent.glob("*.f16") if path.name not in known):
        received = f"{out} with {extra[0].name}, where these images make {len(paths)} files"
        raise invalid("out", received, "an empty folder, or latents of the same images", "choose another --out")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, most: int) -> bytes:
    if member.issparse() or member.size > most:
        received = f"{member.size:,} bytes{', sparse' * member.issparse()}, of {member.name} in {tar.name!r}"
        raise invalid("images", received, f"up to {most:,} bytes, not sparse", "pack the images anew")
    file = tar.extractfile(member)
    assert file is not None, "a regular file"
    return file.read()
