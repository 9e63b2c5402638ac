"""How commands end where nobody reads what they say."""

import os
import subprocess
import sys

import pytest

from dynamics.cli.exits import UNREAD, explained


@pytest.mark.parametrize(
    ("words", "buffered"),
    [
        (["dynamics", "train", "--help"], False),
        (["dynamics", "train", "--help"], True),
        (["dynamics", "--help"], True),
        (["experiments", "list"], False),
    ],
)
def test_output_that_nobody_reads(words: list[str], buffered: bool) -> None:
    """As in `dynamics train --help | head`: no traceback, and none at the interpreter's own end either."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    reader, writer = os.pipe()
    command = [sys.executable, "-m", *words]
    with subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment) as process:
        os.close(reader)
        os.close(writer)
        _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (UNREAD, "")


def test_other_broken_pipes_are_errors() -> None:
    with pytest.raises(BrokenPipeError), explained():
        raise BrokenPipeError("a worker has gone")
