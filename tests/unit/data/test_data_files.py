"""Every file format: a round trip, and every way a file can be wrong."""

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from dynamics.data import Folder, Idx, Npz, image_files
from dynamics.data.encode import Picture, TarSource, pixels_of
from dynamics.data.image_files import FORMATS, load_folder, load_idx, load_npz, read_image

random = np.random.default_rng(0)
GREY = random.integers(0, 256, (6, 5, 4), dtype=np.uint8)
COLOUR = random.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
CLASSES = np.array([2, 0, 1, 1, 0, 2])


@pytest.mark.parametrize("x", [GREY, GREY[..., None], COLOUR])
def test_npz_round_trip(tmp_path: Path, x: np.ndarray) -> None:
    path = tmp_path / "my images.npz"
    np.savez(path, x=x, y=CLASSES)
    data = Npz(path=path).load()
    pixels = x if x.ndim == 4 else x[..., None]
    images, labels = data.reference()
    expected = torch.from_numpy(pixels.transpose(0, 3, 1, 2) / 127.5 - 1).float()
    torch.testing.assert_close(images, expected)
    assert labels.tolist() == CLASSES.tolist()
    assert (data.name, data.num_classes, data.shape) == ("npz-my_images", 3, (pixels.shape[3], 5, 4))


def test_npz_without_labels_is_one_class(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=GREY)
    data = load_npz(tmp_path / "a.npz")
    assert (data.num_classes, data.labels.tolist()) == (1, [0] * 6)


BAD_NPZ: list[tuple[dict[str, Any], str]] = [
    ({"images": GREY}, "without an array x"),
    ({"x": GREY.astype(np.float32)}, "float32"),
    ({"x": GREY[0]}, r"\[5, 4\]"),
    ({"x": COLOUR.transpose(0, 3, 1, 2)}, "channels last"),
    ({"x": GREY[:0]}, "at least one image"),
    ({"x": GREY, "y": CLASSES[:5]}, "5 labels for 6 images"),
    ({"x": GREY, "y": CLASSES.astype(float)}, "y in .*float64"),
    ({"x": GREY, "y": CLASSES - 1}, r"-1\.\.1"),
    ({"x": GREY, "y": np.array([{}] * 6)}, "without pickled objects"),
]


@pytest.mark.parametrize(("arrays", "message"), BAD_NPZ)
def test_bad_npz_arrays_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        load_npz(tmp_path / "bad.npz")
    assert "bad.npz" in str(caught.value)


def test_damaged_npz_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=GREY, y=CLASSES)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[60:90] = bytes(30)
    array = io.BytesIO()
    np.save(array, GREY)
    for content in (b"", b"text", whole[:100], whole[: len(whole) // 2], bytes(flipped), array.getvalue()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.npz .*received|received .*a\.npz"):
            load_npz(path)
    with pytest.raises(ValueError, match="existing npz"):
        load_npz(tmp_path / "none.npz")


def write_idx(folder: Path, zipped: bool = False, **changes: bytes) -> None:
    contents = {
        "train-images-idx3-ubyte": struct.pack(">IIII", 2051, 6, 5, 4) + GREY.tobytes(),
        "train-labels-idx1-ubyte": struct.pack(">II", 2049, 6) + CLASSES.astype(np.uint8).tobytes(),
    }
    for name, content in contents.items():
        data = changes.get(name.split("-")[1], content)
        (folder / f"{name}.gz").write_bytes(gzip.compress(data)) if zipped else (folder / name).write_bytes(data)


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_round_trip(tmp_path: Path, zipped: bool) -> None:
    write_idx(tmp_path, zipped)
    data = Idx(path=tmp_path).load()
    assert torch.equal(torch.from_numpy(GREY)[:, None], load_idx(tmp_path).pixels)
    assert data.reference()[1].tolist() == CLASSES.tolist()
    assert (data.shape, data.num_classes) == ((1, 5, 4), 3)


BAD_IDX: list[tuple[dict[str, bytes], str]] = [
    ({"images": b""}, "magic number of .*train-images"),
    ({"images": struct.pack(">II", 2049, 6) + bytes(6)}, "received 2049; allowed: 2051"),
    ({"images": struct.pack(">IIII", 2051, 6, 5, 4) + bytes(119)}, "of 135 bytes"),
    ({"images": struct.pack(">IIII", 2051, 6, 5, 4) + bytes(121)}, "of 137 bytes"),
    ({"images": struct.pack(">IIII", 2051, 0, 5, 4)}, "at least one image"),
    ({"images": struct.pack(">IIII", 2051, *[2**32 - 1] * 3)}, "allowed: 792281"),
    ({"labels": struct.pack(">II", 2051, 6) + bytes(6)}, "magic number of .*train-labels"),
    ({"labels": struct.pack(">II", 2049, 5) + bytes(5)}, "5 labels for 6 images"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_IDX)
def test_bad_idx_files_are_refused(tmp_path: Path, changes: dict[str, bytes], message: str) -> None:
    write_idx(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load_idx(tmp_path)


def test_damaged_and_missing_idx_files_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path, zipped=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for content in (whole[:40], b"no gzip", whole[:30] + bytes(20) + whole[50:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz"):
            load_idx(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="a folder with train-images"):
        load_idx(tmp_path)


@pytest.mark.parametrize("zipped", [False, True])
def test_no_more_of_an_idx_file_is_read_than_it_announces(tmp_path: Path, zipped: bool) -> None:
    write_idx(tmp_path, zipped, images=struct.pack(">IIII", 2051, 6, 5, 4) + bytes(10**6))
    with pytest.raises(ValueError, match="of 137 bytes or more"):
        load_idx(tmp_path)


def test_npz_files_that_fill_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=GREY)
    memory = SimpleNamespace(available=2 * (GREY.nbytes + 128))
    monkeypatch.setattr(image_files, "virtual_memory", lambda: memory)
    assert len(load_npz(path).pixels) == 6
    memory.available -= 1
    with pytest.raises(ValueError, match=r"a\.npz.*248 bytes of images, more than half of the 495"):
        load_npz(path)
    with zipfile.ZipFile(path) as archive:
        content = archive.read("x.npy")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("x.npy", content)
    with pytest.raises(ValueError, match=r"a\.npz.*compressed by other means"):
        load_npz(path)


def test_tar_members_that_fill_the_memory_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    for name, size, sparse in (("a/b.png", 2**28 + 1, False), ("a/b.png", 10, True), ("b.cls", 65, False)):
        with tarfile.open(path, "w") as tar:
            about = tarfile.TarInfo(name)
            about.size = 0 if size > 100 else size
            if sparse:
                about.pax_headers = {"GNU.sparse.map": "0,10", "GNU.sparse.size": str(2**40)}
            tar.addfile(about, io.BytesIO(bytes(size if size < 100 else 0)))
            if name == "b.cls":
                tar.addfile(tarfile.TarInfo("b.png"))
        if size > 100:
            huge = tarfile.TarInfo(name)
            huge.size = size
            with path.open("r+b") as file:
                file.write(huge.tobuf())
                file.truncate(size + 2048)
        with pytest.raises(ValueError, match=r"images: received .*a\.tar.*not sparse"):
            list(TarSource(path).pictures())


def picture(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)


def test_folder_round_trip_in_the_order_of_names(tmp_path: Path) -> None:
    for name, pixels in {"b/2.png": GREY[2], "b/1.PNG": GREY[1], "a/deep/x.png": GREY[0], "c/z.bmp": GREY[3]}.items():
        picture(tmp_path / name, pixels)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / "._x.png").write_text("hidden")
    (tmp_path / ".hidden").mkdir()
    data = load_folder(tmp_path)
    assert torch.equal(data.pixels, torch.from_numpy(GREY[:4])[:, None])
    assert (data.labels.tolist(), data.num_classes, data.shape) == ([0, 1, 1, 2], 3, (1, 5, 4))


def test_folder_with_any_colour_is_rgb(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png", GREY[0])
    picture(tmp_path / "a" / "2.png", COLOUR[0])
    picture(tmp_path / "b" / "3.png", np.dstack([COLOUR[1], GREY[1]]))  # with transparency
    picture(tmp_path / "b" / "4.png", GREY[2], "LA")
    data = Folder(path=tmp_path).load()
    expected = [np.dstack([GREY[0]] * 3), COLOUR[0], COLOUR[1], np.dstack([GREY[2]] * 3)]
    images, _ = data.reference()
    torch.testing.assert_close(images, torch.from_numpy(np.stack(expected).transpose(0, 3, 1, 2) / 127.5 - 1).float())


def test_folder_crops_the_centre_and_resizes(tmp_path: Path) -> None:
    wide, tall = np.zeros((4, 10), np.uint8), np.zeros((12, 8), np.uint8)
    wide[:, 3:7], tall[2:10] = 200, 100
    picture(tmp_path / "a" / "1.png", wide)
    picture(tmp_path / "a" / "2.png", tall)
    data = Folder(path=tmp_path, image_size=4).load()
    expected = torch.tensor([200.0, 100.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    torch.testing.assert_close(data.reference()[0], expected / 127.5 - 1)
    with pytest.raises(ValueError, match=r"2\.png.*1\.png.*pass image_size"):
        load_folder(tmp_path)


BAD_FOLDERS: list[tuple[Callable[[Path], Any], str]] = [
    (lambda folder: None, "without subfolders"),
    (lambda folder: picture(folder / "1.png", GREY[0]), "outside any class"),
    (lambda folder: (folder / "empty").mkdir(), "empty without images"),
    (lambda folder: (folder / "a" / "bad.png").write_bytes(b"text"), r"bad\.png"),
    (lambda folder: picture(folder / "a" / "deep.png", GREY[0].astype(np.uint16)), r"deep\.png of mode I"),
    (lambda folder: picture(folder / "a" / "deep.tif", GREY[0].astype(np.float32)), r"deep\.tif of mode F"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD_FOLDERS)
def test_bad_folders_are_refused(tmp_path: Path, spoil: Callable[[Path], Any], message: str) -> None:
    if message != "without subfolders":
        picture(tmp_path / "a" / "0.png", GREY[0])
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_folder(tmp_path)


def test_truncated_images_and_missing_folders_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "cut.png", COLOUR[0].repeat(20, 0).repeat(20, 1))
    path = tmp_path / "a" / "cut.png"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"cut\.png.*replace or remove"):
        load_folder(tmp_path)
    with pytest.raises(ValueError, match="an existing folder"):
        load_folder(tmp_path / "none")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n/DeviceRGB setcolorspace\nshowpage\n%%EOF\n"


def test_a_png_that_holds_something_else_starts_no_other_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow has Ghostscript execute a file that begins like this, whatever its name is."""

    def started(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    path = tmp_path / "set" / "a" / "0.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(EPS)
    with pytest.raises(ValueError, match=r"0\.png.*allowed: a readable image \(BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP\)"):
        load_folder(tmp_path / "set")
    with pytest.raises(ValueError, match=r"0\.png.*allowed: a readable image \(BMP"):
        pixels_of(Picture("0.png", "a", False, EPS), 8)


@pytest.mark.parametrize("format", FORMATS)
def test_all_formats_are_read(tmp_path: Path, format: str) -> None:
    path = tmp_path / "x.img"
    Image.new("RGB", (4, 4), (255, 0, 0)).save(path, format)
    assert read_image(path, None).shape == (4, 4, 3)


@pytest.mark.parametrize("largest", [1000, 10**7, 10**11, 2**63 - 1])
def test_class_numbers_far_beyond_the_number_of_images_are_refused(tmp_path: Path, largest: int) -> None:
    """Each class has weights of its own: a label of 10^7 is a network of 15.8 GB."""
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 8, 8), np.uint8), y=np.array([0, 1, largest]))
    message = rf"labels in .*x\.npz: received {largest}; allowed: class numbers from 0, below 1000 for 3 images"
    with pytest.raises(ValueError, match=message):
        load_npz(tmp_path / "x.npz")


def test_classes_without_images_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 8, 8), np.uint8), y=np.array([1, 4, 1], np.uint64))
    with pytest.warns(UserWarning, match=r"labels in .*x\.npz: 3 of 5 classes have no images: 0, 2, 3;"):
        assert load_npz(tmp_path / "x.npz").num_classes == 5
