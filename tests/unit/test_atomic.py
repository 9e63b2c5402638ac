"""A file is the old one or the new one."""

import errno
import os
from pathlib import Path

import pytest

from dynamics.atomic import replacing


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "old")]
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "new")]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    with replacing(tmp_path / "a" / "b" / "file") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a" / "b" / "file").read_text() == "new"


def test_the_next_writer_removes_what_a_killed_one_left_and_nothing_of_a_living_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    (tmp_path / ".file.0123.tmp").write_text("half")
    (tmp_path / ".other.0123.tmp").write_text("half")
    with replacing(path) as slow:
        slow.write_text("slow")
        with replacing(path) as quick:
            quick.write_text("quick")
        assert path.read_text() == "quick"
    assert sorted((p.name, p.read_text()) for p in tmp_path.iterdir()) == [
        (".other.0123.tmp", "half"),
        ("file", "slow"),
    ]


def test_errors_of_the_system_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"No space left on device: '.*/file'"), replacing(tmp_path / "file") as temporary:
        temporary.write_text("new")
    (tmp_path / "text").write_text("")
    with pytest.raises(FileExistsError, match="text"), replacing(tmp_path / "text" / "file"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["text"]
