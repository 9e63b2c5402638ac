"""How commands end where nobody reads what they say."""

import errno
import os
import subprocess
import sys

import pytest

from dynamics import cli
from dynamics.cli.command_line import parsed
from dynamics.cli.exits import BAD_INPUT, UNREAD, explained
from dynamics.cli.measure_commands import EvaluateArgs
from dynamics.training import STOPPED


@pytest.mark.parametrize(
    ("words", "buffered"),
    [
        (["dynamics", "train", "--help"], False),
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


@pytest.mark.parametrize(
    ("number", "code"),
    [
        *[(n, BAD_INPUT) for n in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EROFS)],
        *[(n, STOPPED) for n in (errno.ENOSPC, errno.EDQUOT)],
        *[(n, 1) for n in (errno.EIO, errno.ESTALE)],
    ],
)
def test_what_the_system_refuses_is_one_line(number: int, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, explained("dynamics train"):
        raise OSError(number, os.strerror(number), "some/path")
    said = capsys.readouterr().err
    assert (stop.value.code, said.count("\n")) == (code, 1)
    assert said.startswith(f"error: some/path: received '{os.strerror(number)}'; allowed: ")
    assert "; remedy: " in said


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 800 GB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 800 bytes"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GB"),
    ],
)
def test_too_little_memory_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, explained():
        raise error
    said = capsys.readouterr().err
    assert (stop.value.code, said.count("\n")) == (BAD_INPUT, 1)
    assert said.startswith("error: memory: received ")
    assert "a smaller batch" in said


def test_messages_of_others_are_put_into_our_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), explained("dynamics probe"):
        raise ValueError("two\nlines")
    expected = (
        "error: input: received 'two\\nlines'; allowed: what the command takes; remedy: see dynamics probe --help\n"
    )
    assert capsys.readouterr().err == expected


def test_a_home_that_the_shell_left_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    found = parsed(EvaluateArgs, "dynamics evaluate", ["~/run", "--reference=~/stats.npz", "--vae", "~/vae"])
    assert (str(found.dir), str(found.reference)) == ("/home/somebody/run", "/home/somebody/stats.npz")
    assert found.vae == "/home/somebody/vae"


def test_a_rank_that_is_no_number_is_refused_before_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "x")
    monkeypatch.setattr("dynamics.runner.run", lambda *args, **more: pytest.fail("it trained"))
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "digits-meanflow", "--out", "nowhere"])
    assert stop.value.code == BAD_INPUT
    assert capsys.readouterr().err.startswith("error: RANK: received 'x'; allowed: a number")
