"""Files that want to read, run or exhaust more than they should: all are refused by name."""

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import h5py
import numpy as np
import torch
from PIL import Image

import dynamics
from dynamics.cli.exits import explained
from dynamics.evaluation.inception import Inception
from dynamics.evaluation.moments import load_statistics
from soak.bench import PLACE
from soak.stages import COLLECT, EVALUATE, PROBE, REPORT, TRAIN
from soak.warm import Work, command

SECONDS = 20.0
"""What a command may take to refuse one."""
BAIT = ("secret.txt", "other.h5")
"""Files that only a trap leads to."""
SECRET = "the content of a file that is none of the command's business"
MARK = "was_executed"
DEEP = 100_000
NEWEST = "run/checkpoints/step_00000016"
SIZE, TAKEN = 16, "raw_v"
"""How long the series of the runs are, and one of them."""


class Payload:
    """A pickle of this leaves a mark where it is loaded."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (MARK,)


@dataclass(frozen=True)
class Trap:
    """A hostile file: where it goes, who makes it, and who opens it."""

    name: str
    file: str
    """Relative; what a refusal must name."""
    make: Callable[[Path], None]
    works: tuple[Work, ...]
    stage: str = "measured"
    harmless: bool = False
    """Nothing is wrong if the command does not need the file."""


def _with(change: Callable[[h5py.Group, str, Path], None], instead: bool = False) -> Callable[[Path], None]:
    """Return what changes a file of results: by one more variable, or by another one in place of one that is there."""

    def make(path: Path) -> None:
        (path.parent / "secret.txt").write_text(SECRET * 20)
        with h5py.File(path.parent / "other.h5", "w") as other:
            other["x"] = np.frombuffer((SECRET * 20).encode()[: 8 * SIZE], "f8")
        with h5py.File(path, "r+") as file:
            group = file["training"]
            if instead:  # what the file says about itself stays
                del group[TAKEN]
                change(group, TAKEN, path)
                return
            if "consolidated" in file.attrs:
                del file.attrs["consolidated"]
            change(group, "loot", path)
            if "loot" in group and group.get("loot", getlink=True).__class__ is h5py.HardLink:
                group["loot"].make_scale("loot")
                group["loot"].attrs.update({"units": "1", "long_name": "loot"})

    return make


def _external(group: h5py.Group, name: str, path: Path) -> None:
    where = str(path.parent / "secret.txt")
    group.create_dataset(name, shape=(SIZE,), dtype="f8", external=[(where, 0, 8 * SIZE)])


def _external_relative(group: h5py.Group, name: str, path: Path) -> None:
    inside = path.with_name("secret.txt").relative_to(next(up for up in path.parents if up.name == PLACE))
    group.create_dataset(name, shape=(SIZE,), dtype="f8", external=[(str(inside), 0, 8 * SIZE)])


def _virtual(group: h5py.Group, name: str, path: Path) -> None:
    layout = h5py.VirtualLayout(shape=(SIZE,), dtype="f8")
    layout[:] = h5py.VirtualSource(str(path.parent / "other.h5"), "x", shape=(SIZE,))
    group.create_virtual_dataset(name, layout)


def _link(group: h5py.Group, name: str, path: Path) -> None:
    group[name] = h5py.ExternalLink(str(path.parent / "other.h5"), "/x")


def _cycle(group: h5py.Group, name: str, path: Path) -> None:
    group["again"] = group


def _soft(group: h5py.Group, name: str, path: Path) -> None:
    group["again"] = h5py.SoftLink("/training")


def _huge(group: h5py.Group, name: str, path: Path) -> None:
    group.create_dataset(name, shape=(10**12,), dtype="f8", chunks=(10**6,), fillvalue=0.0)


def _nested(path: Path) -> None:
    path.write_text("[" * DEEP + "]" * DEEP)


def _nested_value(path: Path) -> None:
    content = json.loads(path.read_text())
    content[next(iter(content))] = "deep"
    path.write_text(json.dumps(content).replace('"deep"', "[" * DEEP + "]" * DEEP))


def _nested_line(path: Path) -> None:
    with path.open("a") as file:
        file.write('{"kind": "started", "group": "training", "step": ' + "[" * DEEP + "]" * DEEP + "}\n")


def _pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"state": Payload(), "param_groups": []}))


def _torch_pickled(path: Path) -> None:
    torch.save({"model": Payload()}, path)


def _npz_pickled(path: Path) -> None:
    content = io.BytesIO()
    np.save(content, np.array([Payload()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(path, "w") as file:
        for name in ("x", "y", "mu", "sigma"):
            file.writestr(f"{name}.npy", content.getvalue())


def _npy_pickled(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([Payload()] * 9, dtype=object), allow_pickle=True)


def _npz_bomb(path: Path) -> None:
    """A gigabyte of zeros and a header that promises a thousand of them, in a megabyte."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 1000, 1000, 1)}
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        with file.open("x.npy", "w", force_zip64=True) as out:
            out.write(header.getvalue())
            for _ in range(64):
                out.write(bytes(2**20))
        labels = io.BytesIO()
        np.save(labels, np.zeros(10, np.int64))
        file.writestr("y.npy", labels.getvalue())


def _eps(path: Path) -> None:
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")


def _picture_bomb(path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(2**24))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))


def watched(work: Work, place: Path) -> Work:
    """Return the work with a program named as Ghostscript first on the PATH, which leaves a mark."""
    folder = place / ".bin"
    folder.mkdir(exist_ok=True)
    for name in ("gs", "gswin32c", "gswin64c"):
        (folder / name).write_text(f"#!/bin/sh\nmkdir -p {place / MARK}\nexit 1\n")
        (folder / name).chmod(0o755)

    def with_path() -> None:
        os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
        work()

    return with_path


def traps() -> list[Trap]:
    """Return every hostile file."""
    return [*_of_results(), *_of_pictures_and_arrays(), *_of_json()]


def _of_results() -> list[Trap]:
    run, merged, readers = "run/run.nc", "results/tiny/digits.nc", (EVALUATE, PROBE, REPORT, _opened)
    elsewhere = {
        "external storage": _external,
        "external storage beside it": _external_relative,
        "virtual dataset": _virtual,
        "external link": _link,
    }
    others = {"cyclic hard link": _cycle, "soft link to a parent": _soft, "a terabyte of fill values": _huge}
    every = {**elsewhere, **others}.items()
    return [
        *(Trap(name, run, _with(change), readers) for name, change in every),
        *(Trap(f"{name} in place of {TAKEN}", run, _with(c, instead=True), readers) for name, c in elsewhere.items()),
        *(Trap(f"merged {name}", merged, _with(change), (_findings,), "collected") for name, change in every),
    ]


def _of_pictures_and_arrays() -> list[Trap]:
    picture, to_vae = "pictures/a/x.png", ("--vae", "vae", "--image-size", "16")
    folder = _train("config.json", "--data.path", "pictures", "--data.name", "folder", "--data.image-size", "8")
    npz = _train("config.json", "--data.path", "x.npz", "--data.name", "npz")
    encode = command("encode", "pictures", "--out", "out", *to_vae)
    importing = command("import", "x.pt", "--from", "sit", "--out", "out")
    statistics = command("statistics", "pictures", "--inception", "x.pth", "--out", "s.npz")
    return [
        Trap("EPS named png", picture, _eps, (folder,)),
        Trap("EPS named png, encoded", picture, _eps, (encode,), "images"),
        Trap("a picture of 60,000 x 60,000", picture, _picture_bomb, (folder,)),
        Trap("a picture of 60,000 x 60,000, encoded", picture, _picture_bomb, (encode,), "images"),
        Trap("pickle in npz", "x.npz", _npz_pickled, (npz,)),
        Trap("bomb in npz", "x.npz", _npz_bomb, (npz,)),
        Trap("pickle in reference", "x.npz", _npz_pickled, (_reference,)),
        Trap("pickle in labels.npy", "latents/labels.npy", _npy_pickled, (_train("latents.json"),), "encoded"),
        Trap("pickle in pt", "x.pt", _torch_pickled, (importing,)),
        Trap("bare pickle in pt", "x.pt", _pickled, (importing,)),
        Trap("pickle as inception", "x.pth", _torch_pickled, (statistics,)),
        Trap("pickle as optimizer.pt", f"{NEWEST}/optimizer.pt", _pickled, (PROBE, EVALUATE), harmless=True),
    ]


def _of_json() -> list[Trap]:
    looks = (COLLECT, command("sweeps", "tiny", "status"))
    return [
        Trap("deep config", "config.json", _nested, (_train("config.json"),)),
        Trap("deep value in config", "run/config.json", _nested_value, (EVALUATE, PROBE, _opened)),
        Trap("deep state", f"{NEWEST}/state.json", _nested, (EVALUATE, PROBE)),
        Trap("deep line of log", "run/log.jsonl", _nested_line, (TRAIN,), "halfway"),
        Trap("deep record of latents", "latents/record.json", _nested_value, (_train("latents.json"),), "encoded"),
        Trap("deep event", "events.jsonl", _nested_line, looks, "collected", harmless=True),
    ]


def _train(*words: str) -> Work:
    return command("train", *words, "--out", "out")


def _opened() -> None:
    with explained():
        print(dynamics.open_results("run"))
        dynamics.load_model("run")


def _reference() -> None:
    with explained():
        load_statistics(Path("x.npz"), cast(Inception, None))  # which is not asked before the file is read


_findings = command("sweeps", "findings")


def set_up(trap: Trap, place: Path) -> None:
    """Put a trap into a copy of its stage, beside good pictures."""
    for label in "ab":
        (place / "pictures" / label).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(place / "pictures" / label / "good.png")
    path = place / trap.file
    trap.make(next(place.rglob(trap.file)) if trap.file == "events.jsonl" else path)
