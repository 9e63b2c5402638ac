"""Image sets from files: npz arrays, IDX pairs, and a folder with one subfolder per class."""

import gzip
import io
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from psutil import virtual_memory
from pydantic import model_validator
from torch import Tensor

from dynamics.data.imageset import ImageSet, num_classes_of
from dynamics.data.source import SIZED, DataOptions
from dynamics.options import invalid

IDX_IMAGES, IDX_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
IDX_IMAGES_MAGIC, IDX_LABELS_MAGIC = 2051, 2049
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What a file may hold, whatever its name says. Pillow would start Ghostscript for others."""
DEFLATE = 1_032
"""By how much deflate can make bytes fewer."""
_DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


class FromFiles(DataOptions):
    """Images in files of one's own."""

    resized: ClassVar[bool] = False
    """Whether images may be brought to one size."""
    path: Path | None = None
    """Where the images lie: a folder with one subfolder per class, an npz file, or a folder with IDX files."""
    image_size: int | None = None
    """Side in pixels that the images of a folder are cropped and resized to."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.path is None:
            raise invalid("path", None, f"a path for name={self.name!r}", "pass where the images lie")
        if self.image_size is not None and (not self.resized or self.image_size < 1):
            raise invalid("image_size", self.image_size, SIZED, "leave image_size out")
        return self

    @property
    def place(self) -> Path:
        """The path, ~ resolved."""
        assert self.path is not None, "checked"
        return self.path.expanduser()


class Folder(FromFiles):
    """A folder with one subfolder of images per class.

    Example:
        >>> Folder(path=Path("faces"), image_size=64).name
        'folder'
    """

    name: Literal["folder"] = "folder"
    resized: ClassVar[bool] = True

    def load(self) -> ImageSet:
        return load_folder(self.place, self.image_size)


class Npz(FromFiles):
    """An npz file with images x and labels y."""

    name: Literal["npz"] = "npz"

    def load(self) -> ImageSet:
        return load_npz(self.place)


class Idx(FromFiles):
    """A folder with the files of MNIST's format."""

    name: Literal["idx"] = "idx"

    def load(self) -> ImageSet:
        return load_idx(self.place)


def load_npz(path: Path) -> ImageSet:
    """Load an npz file with `x`, uint8 [N, H, W, C] or [N, H, W], and optionally `y`, integers [N] from 0.

    Without `y` the images are unlabelled: one class, all labels 0. Nothing is unpickled.

    Args:
        path: The npz file.

    Raises:
        ValueError: The file is missing or damaged, or holds other arrays than these.
    """
    if not path.is_file():
        raise invalid("path", str(path), "an existing npz file", "check the path")
    remedy = "write it with numpy.savez(path, x=images, y=labels)"
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("a single array, not an archive")
        with archive:
            assert archive.zip is not None, "open"
            _check_members(archive.zip)
            arrays = {key: archive[key] for key in ("x", "y") if key in archive}
    except _DAMAGED as error:
        raise invalid("path", f"{path} ({error})", "a readable npz file without pickled objects", remedy) from error
    if "x" not in arrays:
        raise invalid("path", f"{path} without an array x", "arrays x and, optionally, y", remedy)
    x = arrays["x"]
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[-1] not in (1, 3)):
        raise invalid(
            f"x in {path}",
            f"{x.dtype} {list(x.shape)}",
            "uint8 [N, H, W] or [N, H, W, C] with C = 1 or 3",
            "store 8-bit levels 0..255, channels last",
        )
    y = arrays.get("y")
    if y is None:
        y = np.zeros(len(x), dtype=np.int64)
    if y.dtype.kind not in "iu" or y.ndim != 1:
        raise invalid(f"y in {path}", f"{y.dtype} {list(y.shape)}", "integers [N]", "store one class number per image")
    return _image_set(x if x.ndim == 4 else x[..., None], y, f"npz-{path.stem}", path)


def _check_members(archive: zipfile.ZipFile) -> None:
    """Refuse, before it is read, what fills the memory: images are held twice while they are brought into order."""
    memory = virtual_memory().available
    members = [member for member in archive.infolist() if member.filename.removesuffix(".npy") in ("x", "y")]
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise ValueError("compressed by other means than numpy's")
    if (total := sum(member.file_size for member in members)) > memory / 2:
        raise ValueError(f"{total:,} bytes of images, more than half of the {memory:,} of memory that are free")


def load_idx(folder: Path) -> ImageSet:
    """Load the training images and labels of an IDX folder (the format of MNIST), gzipped or not.

    Args:
        folder: Holds `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, each plain or with `.gz`.

    Raises:
        ValueError: A file is missing, damaged, truncated or of another type, or the counts differ.
    """
    images = _read_idx(folder, IDX_IMAGES, IDX_IMAGES_MAGIC)
    labels = _read_idx(folder, IDX_LABELS, IDX_LABELS_MAGIC)
    return _image_set(images[..., None], labels, f"idx-{folder.resolve().name}", folder)


def _read_idx(folder: Path, name: str, magic: int) -> NDArray[np.uint8]:
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    if not found:
        raise invalid("path", str(folder), f"a folder with {name} or {name}.gz", "check the path and the file names")
    path = found[0]
    header = 4 * (1 + (magic & 0xFF))
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(header)
            shape = struct.unpack_from(f">{magic & 0xFF}I", head.ljust(header, b"\0"), 4)
            size = int(np.prod(shape, dtype=object))
            content = file.read(min(size, DEFLATE * path.stat().st_size) + 1)
    except _DAMAGED as error:
        raise invalid("path", f"{path} ({error})", "a readable IDX file", "copy the file again") from error
    received = int.from_bytes(head[:4], "big")
    if received != magic or len(head) < header:
        raise invalid(f"magic number of {path}", received, str(magic), "check that the file is what its name says")
    if len(content) != size:
        length = f"{header + len(content)} bytes{' or more' * (len(content) > size)}"
        raise invalid("path", f"{path} of {length}", f"{header + size} bytes for shape {shape}", "copy the file again")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def load_folder(folder: Path, image_size: int | None = None) -> ImageSet:
    """Load a folder with one subfolder of images per class; classes and files are taken in the order of their names.

    All images become RGB if any file is in colour, else grey. Transparency is dropped. Hidden files and files without
    an image suffix are passed over.

    Args:
        folder: Holds the class folders; images may lie in deeper folders within them.
        image_size: Cut the largest centred square and resize it to this side in pixels. Needed when sizes differ.

    Raises:
        ValueError: No class folders, a class without images, an image that cannot be read or has more than 8 bits, or
            images of different sizes without `image_size`.
    """
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    first = ""
    classes = class_folders(folder)
    for label, files in enumerate(classes.values()):
        for path in files:
            image = read_image(path, image_size)
            first = first or str(path)
            if images and image.shape[:2] != images[0].shape[:2]:
                raise invalid(
                    "image sizes",
                    f"{image.shape[:2]} in {path}, {images[0].shape[:2]} in {first}",
                    "one (height, width), or image_size",
                    "pass image_size to crop and resize all images",
                )
            images.append(image)
            labels.append(label)
    channels = max(image.shape[2] for image in images)
    pixels = np.stack([image if image.shape[2] == channels else image.repeat(channels, axis=2) for image in images])
    return _image_set(pixels, np.array(labels), f"folder-{folder.resolve().name}", folder, len(classes))


def class_folders(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of each subfolder, by its name; both in the order of their names.

    Raises:
        ValueError: No such folder, no subfolders, images outside them, or a subfolder without images.
    """
    if not folder.is_dir():
        raise invalid("path", str(folder), "an existing folder", "check the path")
    remedy = "put the images into one subfolder per class (a single one for unlabelled images)"
    if loose := [path for path in sorted(folder.iterdir()) if _is_image(path)]:
        raise invalid("path", f"{folder} with {loose[0].name} outside any class", "subfolders of images", remedy)
    classes = sorted((p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")), key=lambda p: p.name)
    if not classes:
        raise invalid("path", f"{folder} without subfolders", "subfolders of images", remedy)
    found = {}
    for subfolder in classes:
        files = sorted((p for p in subfolder.rglob("*") if _is_image(p)), key=lambda p: p.as_posix())
        if not files:
            raise invalid("path", f"{subfolder} without images", f"files ending in {', '.join(IMAGE_SUFFIXES)}", remedy)
        found[subfolder.name] = files
    return found


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def open_image(file: Path | io.BytesIO) -> Image.Image:
    """Open an image of one of FORMATS."""
    return Image.open(file, formats=FORMATS)


def read_image(path: Path, image_size: int | None) -> NDArray[np.uint8]:
    """Return uint8 [H, W, C], C = 1 for a grey file and 3 for any other."""
    try:
        with open_image(path) as file:
            mode = file.mode
            image = ImageOps.exif_transpose(file).convert("L" if mode in ("1", "L", "LA", "La") else "RGB")
    except (Image.DecompressionBombError, SyntaxError, *_DAMAGED) as error:
        allowed = f"a readable image ({', '.join(FORMATS)})"
        raise invalid("path", f"{path} ({error})", allowed, "replace or remove the file") from error
    if mode[0] in "IF":
        raise invalid("path", f"{path} of mode {mode}", "8 bits per channel", "convert the file to 8 bits")
    if image_size is not None:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        if side != image_size:
            image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _image_set(x: NDArray[np.uint8], y: NDArray[Any], name: str, path: Path, num_classes: int = 0) -> ImageSet:
    num_classes = num_classes or num_classes_of(y.tolist(), f"labels in {path}")
    labels = torch.from_numpy(y.astype(np.int64))
    try:
        return ImageSet(
            pixels=_channels_first(x),
            labels=labels,
            levels=255,
            num_classes=num_classes,
            name=re.sub(r"[^\w-]", "_", name),
            source=str(path),
            licence="the user's own",
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _channels_first(x: NDArray[np.uint8]) -> Tensor:
    # np.array copies: a buffer read from a file is not writable, and torch warns about that
    return torch.from_numpy(np.array(x)).permute(0, 3, 1, 2).contiguous()
