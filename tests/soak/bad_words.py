"""More bad commands than `make test` has time for: those of `bad_inputs`, others, and options x bad values.

They are meant for a folder that `prepare` has made: it holds a finished run `run`, its `config.json`, and some files.
"""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from soak import bad_inputs

Words = tuple[str, ...]
OUT = ("--out", "out")
TRAIN: Words = ("train", "config.json", *OUT)
EVALUATE: Words = ("evaluate", "run", "--num-samples", "10", "--nfe", "1")
PROBE: Words = ("probe", "run", "--instruments", "gram")
SWEEP: Words = ("sweeps", "tiny")
FOLDER: Words = (*TRAIN, "--data.name", "folder", "--data.image-size", "8", "--data.path")
NPZ: Words = (*TRAIN, "--data.name", "npz", "--data.path")
ENCODE: Words = ("encode", "images", *OUT, "--vae", "nowhere")

NUMBERS = ("abc", "", "-3", "nan", "1e999", "0x10", "1,5")
"""What no option that takes a number above 0 takes."""
CHOICES = ("", "nonsense", "U", "1")
"""What no option with named choices takes."""
OPTIONS: dict[Words, dict[tuple[str, ...], tuple[str, ...]]] = {
    TRAIN: {
        (
            "--training.num-steps",
            "--training.batch-size",
            "--training.learning-rate",
            "--training.checkpoint-every",
            "--training.keep-checkpoints",
            "--model.dim",
            "--model.depth",
            "--training.accumulation",
        ): NUMBERS,
        ("--wall-minutes",): ("abc", "", "-3", "nan"),
        ("--times.gap-share",): ("abc", "-0.1", "1.5", "nan", ""),
        ("--seed",): ("abc", "1.5", "", "1e3"),
        ("--data.name", "--model.kind", "--objective.kind", "--times.law.kind"): ("", "nonsense", "none", "Digits"),
        ("--training.precision", "--training.parallel", "--training.device"): CHOICES,
        ("--observe", "--curriculum"): (
            "",
            "nonsense",
            "none cells",
            "cells:every=0",
            "beta:k=x",
            ":",
            "gaps:every",
            "cells,",
        ),
        ("--training.ema-decays",): ("1.5", "abc", "-1", "0.9 0.9"),
        ("--start.run",): ("nonsense", "../run", "/etc/passwd"),
    },
    EVALUATE: {
        ("--nfe", "--num-samples", "--exact-rows"): NUMBERS,
        ("--seed",): ("abc", "1.5", ""),
        ("--checkpoint",): ("3", "-1", "abc", "1e3"),
        ("--field", "--method", "--label-mode"): CHOICES,
        ("--weights",): ("nonsense", "0.5", "", "../model"),
    },
    PROBE: {
        ("--num-splits", "--rows-per-split", "--rows-per-pass", "--sketch-size"): NUMBERS,
        ("--gap-edges",): ("abc", "-1 2", "0.5", "0.9 0.1", "nan 0.5", "0.1 0.1"),
        ("--instruments",): ("nonsense", "cells", "gram gram", ""),
        ("--groups", "--loss", "--precondition", "--rows", "--t-law", "--guidance", "--weights", "--backend"): CHOICES,
        ("--checkpoint",): ("3", "abc"),
    },
    ENCODE: {
        ("--image-size", "--batch-size"): NUMBERS,
        ("--scale",): ("abc", "0", "-1", "nan"),
        ("--shard",): ("2/2", "a/b", ""),
    },
    ("plan", "xl2-improved"): {
        ("--gpus",): ("0", "-1", "abc", "1.5"),
        ("--gpu",): ("nonsense", ""),
        ("--utilisation",): ("0", "-1", "2", "nan", "abc"),
        ("--accumulation",): ("0", "-2", "abc"),
    },
    (*SWEEP, "plan"): {("--scale",): ("nonsense", "", "B4"), ("--only",): ("x",)},
    (*SWEEP, "submit", "--cluster", "debug"): {
        ("--only",): ("nonsense", "zz"),
        ("--parallelism", "--timeout", "--nodes", "--cpus"): ("abc", "-1", "0"),
    },
}
"""Options of a command that is good without them, and values that are bad."""

PICKED: tuple[Words, ...] = (
    ("nonsense",),
    ("Train", "config.json"),
    ("train",),
    ("train", "config.json"),
    ("train", "nonsense", *OUT),
    ("train", "nowhere.json", *OUT),
    ("train", "broken.json", *OUT),
    ("train", "list.json", *OUT),
    ("train", "empty.json", *OUT),
    ("train", "binary.json", *OUT),
    ("train", "extra.json", *OUT),
    ("train", "wrong.json", *OUT),
    ("train", "run", *OUT),
    ("train", "run/run.nc", *OUT),
    ("train", "config.json", "--out"),
    ("train", "config.json", "--out", "afile"),
    ("train", "config.json", "--out", "afile/below"),
    ("train", "config.json", "--out", "images"),
    ("train", "config.json", "--out", "/proc/nothing"),
    ("train", "config.json", "--out", "o" * 300),
    (*TRAIN, "--nonsense"),
    (*TRAIN, "--nonsense", "3"),
    (*TRAIN, "--training.nonsense", "3"),
    (*TRAIN, "extra"),
    (*TRAIN, "--training.batch-size", "100000000000"),
    (*TRAIN, "--curriculum", "gap_law", "gap_law"),
    (*TRAIN, "--curriculum", "beta", "beta"),
    (*TRAIN, "--observe", "cells", "cells"),
    (*TRAIN, "--model.kind", "dit", "--model.dim", "15", "--model.heads", "2"),
    (*TRAIN, "--model.kind", "dit", "--model.patch-size", "3"),
    ("train", "config.json", "--out", "run", "--seed", "3"),
    ("train", "config.json", "--out", "run", "--training.num-steps", "3"),
    (*FOLDER, "nowhere"),
    (*FOLDER, "afile"),
    (*FOLDER, "hollow"),
    (*FOLDER, "words"),
    (*TRAIN, "--data.name", "folder", "--data.path", "images", "--data.image-size", "0"),
    (*NPZ, "nowhere.npz"),
    (*NPZ, "afile"),
    (*NPZ, "cut.npz"),
    (*NPZ, "floats.npz"),
    (*NPZ, "manylabels.npz"),
    (*NPZ, "hugelabels.npz"),
    (*NPZ, "negative.npz"),
    (*NPZ, "shapes.npz"),
    (*TRAIN, "--data.name", "idx", "--data.path", "images"),
    (*TRAIN, "--data.name", "latents", "--data.path", "images", "--data.image-size", "8"),
    (*TRAIN, "--data.name", "latents", "--data.image-size", "8"),
    (*TRAIN, "--data.path", "images"),
    ("evaluate",),
    ("evaluate", "nowhere"),
    ("evaluate", "afile"),
    ("evaluate", "images"),
    ("evaluate", "run/run.nc"),
    ("evaluate", "run", "--nfe"),
    ("evaluate", "run", "--num-samples", "100000000000"),
    ("evaluate", "run", "--num-samples", "0"),
    ("evaluate", "run", "--nfe", "0"),
    ("evaluate", "run", "--field", "u", "--method", "heun"),
    ("evaluate", "run", "--fid"),
    ("evaluate", "run", "--fid", "--inception", "nowhere", "--reference", "nowhere"),
    ("evaluate", "run", "--fid", "--inception", "afile", "--reference", "afile"),
    ("evaluate", "run", "--reference", "afile"),
    ("evaluate", "run", "--vae", "afile"),
    ("evaluate", "run", "run"),
    ("probe",),
    ("probe", "nowhere"),
    ("probe", "images"),
    ("probe", "run", "--instruments"),
    ("probe", "run", "--nonsense", "1"),
    ("probe", "run", "--instruments", "gaps", "--num-splits", "4"),
    ("report",),
    ("report", "run"),
    ("report", "nowhere", *OUT),
    ("report", "images", *OUT),
    ("report", "run", "nowhere", *OUT),
    ("report", "run", "--out", "afile"),
    ("report", "run", "--out", "afile/below"),
    ("report", "run", *OUT, "--baseline", "nonsense"),
    ("statistics", "images"),
    ("statistics", "nowhere", "--inception", "afile", "--out", "out.npz"),
    ("statistics", "images", "--inception", "nowhere", "--out", "out.npz"),
    ("statistics", "images", "--inception", "afile", "--out", "out.npz"),
    ("encode", "images"),
    ("encode", "nowhere", *OUT, "--vae", "nowhere"),
    ("encode", "images", *OUT, "--vae", "nowhere"),
    ("encode", "images", *OUT, "--vae", "hollow"),
    ("encode", "images", *OUT, "--vae", "afile"),
    ("encode", "images", "--out", "afile", "--vae", "nowhere"),
    ("encode", "afile", *OUT, "--vae", "nowhere"),
    ("plan",),
    ("plan", "nonsense"),
    ("plan", "broken.json"),
    ("plan", "afile"),
    ("import", "nowhere.pt", "--from", "sit", *OUT),
    ("import", "afile", "--from", "sit", *OUT),
    ("import", "junk.pt", "--from", "sit", *OUT),
    ("import", "junk.safetensors", "--from", "dit", *OUT),
    ("import", "junk.safetensors", "--from", "nonsense", *OUT),
    ("import", "junk.safetensors", "--from", "dit", "--out", "run"),
    ("export", "run"),
    ("export", "run", "out.safetensors", "--to", "nonsense"),
    ("export", "run", "out.safetensors", "--to", "sit"),
    ("export", "nowhere", "out.safetensors", "--to", "sit"),
    ("export", "run", "afile", "--to", "meanflow-pytorch"),
    ("demo", "--out", "afile"),
    ("demo", *OUT, "--num-steps", "0"),
    ("demo", *OUT, "--num-steps", "-1"),
    ("demo", *OUT, "--num-steps", "abc"),
    ("demo", "extra"),
    ("doctor", "extra"),
    ("presets", "extra"),
    ("sweeps", "nonsense", "plan"),
    ("sweeps", "tiny", "nonsense"),
    ("sweeps", "tiny", "logs"),
    ("sweeps", "tiny", "logs", "nonsense"),
    ("sweeps", "tiny", "collect", "--nonsense"),
    ("sweeps", "tiny", "collect", "--results", "afile"),
    ("sweeps", "tiny", "report"),
    ("sweeps", "tiny", "cancel", "--only", "nonsense"),
    ("sweeps", "tiny", "submit", "--cluster", "nonsense"),
    ("sweeps", "tiny", "submit", "--results", "afile", "--cluster", "debug"),
    ("sweeps", "findings", "--results", "nowhere"),
    ("sweeps", "findings", "--scale", "nonsense"),
    ("sweeps", "list", "extra"),
)


def commands() -> list[Words]:
    """Return every bad command, in an order in which neighbours differ."""
    theirs = [
        (*([] if program == "dynamics" else [program]), *shlex.split(words)) for program, words in bad_inputs.INPUTS
    ]
    found = list(dict.fromkeys([*theirs, *PICKED, *_generated()]))
    return [found[i * 101 % len(found)] for i in range(len(found))] if len(found) % 101 else found


def _generated() -> Iterator[Words]:
    for words, options in OPTIONS.items():
        for names, values in options.items():
            for name in names:
                for value in values:
                    yield (
                        (*words, f"{name}={value}")
                        if value.startswith("-")
                        else (*words, name, *(value.split() or [""]))
                    )


def prepare(place: Path) -> None:
    """Put the files that bad commands name into a folder with a finished run and its config.json."""
    bad_inputs.prepare(place)
    config = json.loads((place / "config.json").read_text())
    (place / "afile").write_text("not what you think\n")
    for name, text in {"broken": "{", "list": "[]", "empty": "", "extra": json.dumps(config | {"more": 1})}.items():
        (place / f"{name}.json").write_text(text)
    (place / "wrong.json").write_text(json.dumps(config | {"seed": "one"}))
    for name in ("binary.json", "junk.pt", "junk.safetensors", "cut.npz"):
        (place / name).write_bytes(bytes(range(128, 256)) * 3)
    (place / "hollow").mkdir()
    for i in range(4):
        for folder, kind in (("images", "png"), ("words", "txt")):
            path = place / folder / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "txt":
                path.write_text("no picture")
            else:
                Image.fromarray(np.full((8, 8, 3), 40 * i, np.uint8)).save(path)
    x, y = np.zeros((6, 8, 8, 1), np.uint8), np.arange(6) % 2
    arrays = {
        "floats": {"x": x.astype(float) * np.nan, "y": y},
        "manylabels": {"x": x, "y": np.arange(6) * 2_000_000},
        "hugelabels": {"x": x, "y": np.arange(6) * 10**11},
        "negative": {"x": x, "y": y - 1},
        "shapes": {"x": x, "y": y[:4]},
    }
    for name, content in arrays.items():
        np.savez(place / f"{name}.npz", **content)
