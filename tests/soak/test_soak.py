"""A few events of every kind of `make soak`, the same ones each time."""

import random
import shutil
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout

import pytest

from soak.bench import Bench, Verdict
from soak.damage_events import damage_run, damage_sweep
from soak.hostile import traps
from soak.inputs import hostile_file
from soak.interruptions import Interruptions
from soak.stages import Stages
from soak.warm import settle


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Stages that are made as they are needed, in silence."""
    settle()
    folder = tmp_path_factory.mktemp("soak")
    (folder / "work").mkdir()
    with (folder / "said").open("w") as said, redirect_stdout(said), redirect_stderr(said):
        yield Bench(Stages(folder / "stages"), folder / "work")
    shutil.rmtree(folder)


def fine(found: Verdict) -> None:
    assert found.verdict == "handled", f"{found.verdict}: {found.what}\n{found.said}"


def test_a_kill(bench: Bench) -> None:
    """Between two changes of the disk, as this chance has it; of training see test_resume."""
    fine(Interruptions(bench).kill(random.Random(8), "evaluate"))


def test_a_full_disk(bench: Bench) -> None:
    fine(Interruptions(bench).full(random.Random(37), "evaluate"))


def test_two_at_once(bench: Bench) -> None:
    fine(Interruptions(bench).together(random.Random(1)))


@pytest.mark.parametrize(
    ("name", "reader", "file", "way"),
    [
        ("unfinished", "train", "config.json", "cut"),
        ("unfinished", "train", "log.jsonl", "digit"),
        ("unfinished", "train", "log.jsonl", "line"),
        ("unfinished", "train", "step_00000010/state.json", "digit"),
        ("unfinished", "train", "step_00000010/state.json", "line"),
        ("unfinished", "train", "step_00000010/optimizer.safetensors", "bit"),
        ("finished", "open", "run.nc", "bit"),
        ("finished", "open", "run.nc", "cut"),
        ("finished", "open", "run/config.json", "digit"),
        ("finished", "open", "step_00000016/ema_0.9.safetensors", "bit"),
        ("finished", "evaluate", "run.nc", "empty"),
        ("finished", "train", "run.nc", "empty"),
    ],
)
def test_damage(bench: Bench, name: str, reader: str, file: str, way: str) -> None:
    fine(damage_run(bench, random.Random(0), name, reader, file, way))


@pytest.mark.parametrize(("file", "way", "retry"), [("run.nc", "bit", True), ("events.jsonl", "cut", False)])
def test_damage_of_a_sweep(bench: Bench, file: str, way: str, retry: bool) -> None:
    fine(damage_sweep(bench, random.Random(2), file, way, retry))


@pytest.mark.parametrize(
    "name",
    [
        "external storage in place of raw_v",
        "virtual dataset",
        "external link",
        "cyclic hard link",
        "EPS named png",
        "pickle in npz",
        "deep state",
        "deep value in config",
    ],
)
def test_hostile_files(bench: Bench, name: str) -> None:
    trap = next(trap for trap in traps() if trap.name == name)
    fine(hostile_file(bench, trap, trap.works[-1] if trap.works[-1].__name__ == "_opened" else trap.works[0], name))
