"""A few events of every kind of the soak (`make soak`), the same ones each time."""

import random
import shutil
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout

import pytest

from soak.harm import Harm, Verdict
from soak.stages import Stages
from soak.warm import settle

FINE = ("handled", "missed")


@pytest.fixture(scope="module")
def harm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harm]:
    """Harm to stages that are made as they are needed."""
    settle()
    folder = tmp_path_factory.mktemp("soak")
    (folder / "work").mkdir()
    with (folder / "said").open("w") as said, redirect_stdout(said), redirect_stderr(said):
        yield Harm(Stages(folder / "stages"), folder / "work")
    shutil.rmtree(folder)


def fine(found: Verdict) -> None:
    assert found.verdict in FINE, f"{found.verdict}: {found.what}\n{found.said}"


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_kills(harm: Harm, name: str) -> None:
    fine(harm.kill(random.Random(f"1/{name}"), name))
