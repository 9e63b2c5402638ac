"""The source tree's state comes from the package's own repository, or is honestly unknown."""

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dynamics.store import encode_attr, origin, provenance

UNKNOWN = {"git_sha": "unknown", "dirty": 0, "diff_hash": ""}


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "repo" / "dynamics"
    folder.mkdir(parents=True)
    (folder / "a.py").write_text("a = 1\n")
    (tmp_path / "repo" / "study.py").write_text("b = 1\n")
    git(tmp_path / "repo", "init", "-q")
    git(tmp_path / "repo", "add", ".")
    git(tmp_path / "repo", "commit", "-qm", "first")
    return folder


def test_all_fields_can_be_stored() -> None:
    found = provenance('{"a": 1}', "r1", 7)
    names = {"config_json", "run_id", "seed", "git_sha", "dirty", "diff_hash", "host", "versions", "started"}
    assert set(found) == names
    assert (found["config_json"], found["run_id"], found["seed"]) == ('{"a": 1}', "r1", 7)
    assert {name: encode_attr(name, value) for name, value in found.items()} == found
    assert set(json.loads(str(found["versions"]))) == {"python", "torch", "numpy", "xarray", "dynamics"}
    started = datetime.fromisoformat(str(found["started"]))
    assert abs((datetime.now(UTC) - started).total_seconds()) < 60


def test_clean_and_dirty_trees(package: Path) -> None:
    sha = git(package, "rev-parse", "HEAD")
    assert origin._source_state(package) == {"git_sha": sha, "dirty": 0, "diff_hash": ""}
    hashes = set()
    for change in ("a = 2\n", "a = 3\n"):
        (package / "a.py").write_text(change)
        state = origin._source_state(package)
        assert (state["git_sha"], state["dirty"]) == (sha, 1)
        hashes.add(state["diff_hash"])
    git(package, "add", "a.py")  # staged or not: the same difference
    hashes.add(origin._source_state(package)["diff_hash"])
    (package / "new.py").touch()
    hashes.add(origin._source_state(package)["diff_hash"])
    git(package, "checkout", "-q", "HEAD", "--", "a.py")
    hashes.add(origin._source_state(package)["diff_hash"])
    assert len(hashes) == 4
    assert all(len(digest) == 64 for digest in hashes)


def test_changes_elsewhere_in_the_tree_count(package: Path) -> None:
    (package.parent / "notes.txt").touch()
    assert origin._source_state(package)["dirty"] == 0
    (package.parent / "study.py").write_text("b = 2\n")
    assert origin._source_state(package)["dirty"] == 1


def test_a_package_that_git_does_not_track_is_unknown(package: Path, tmp_path: Path) -> None:
    installed = package.parent / ".venv" / "dynamics"
    installed.mkdir(parents=True)
    (installed / "a.py").touch()
    outside = tmp_path / "outside"
    outside.mkdir()
    assert origin._source_state(installed) == UNKNOWN
    assert origin._source_state(outside) == UNKNOWN


def test_never_the_current_folders_repository(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    monkeypatch.chdir(package)
    monkeypatch.setenv("GIT_DIR", str(package.parent / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(package.parent))
    assert origin._source_state(outside) == UNKNOWN
    before = provenance("{}", "a", 0)["git_sha"]
    monkeypatch.chdir(tmp_path)
    assert provenance("{}", "a", 0)["git_sha"] == before != git(package, "rev-parse", "HEAD")


def test_without_git_it_is_unknown(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert origin._source_state(package) == UNKNOWN
