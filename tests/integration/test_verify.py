"""The command that compares what lies on the disk with its checksums."""

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from latent_set import write_latents

from dynamics.cli import main
from dynamics.config import RunConfig

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "runs_of_0.1.tar.xz"
Said = pytest.CaptureFixture[str]


@pytest.fixture
def run_dir(tiny: RunConfig, twin: Callable[[RunConfig], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(twin(tiny), tmp_path / "run"))


def verified(path: Path, capsys: Said) -> tuple[int, list[str]]:
    """Run the command; return the exit code and what it calls damaged."""
    code, before = 0, sorted((p, p.stat().st_mtime_ns) for p in path.rglob("*") if not p.name.startswith("."))
    try:
        main(["verify", str(path)])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert before == sorted((p, p.stat().st_mtime_ns) for p in path.rglob("*") if not p.name.startswith("."))
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("ok      ", "DAMAGED ")) for line in lines)
    return code, [line.removeprefix("DAMAGED ") for line in lines if line.startswith("DAMAGED")]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_an_intact_run_is_said_to_be_so(run_dir: Path, capsys: Said) -> None:
    main(["verify", str(run_dir)])
    said = capsys.readouterr().out
    names = ["config.json", "checkpoints/step_00000020", "checkpoints/step_00000024", "log.jsonl", "run.nc"]
    assert said.splitlines() == [f"ok      {run_dir / name}" for name in names]


@pytest.mark.parametrize("name", ["log.jsonl", "state.json", "model.safetensors", "optimizer.safetensors"])
def test_damage_is_named_and_the_rest_is_looked_at(run_dir: Path, capsys: Said, name: str) -> None:
    checkpoint = run_dir / "checkpoints" / "step_00000020"
    path = run_dir / name if name == "log.jsonl" else checkpoint / name
    flip(path)
    code, damaged = verified(run_dir, capsys)
    assert (code, len(damaged)) == (1, 1)
    assert name in damaged[0]


def test_what_does_not_belong_together_is_named(run_dir: Path, capsys: Said) -> None:
    log, config = run_dir / "log.jsonl", run_dir / "config.json"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:-1]))
    config.write_text(config.read_text().replace('"seed": 0', '"seed": 1'))
    code, damaged = verified(run_dir, capsys)
    assert (code, len(damaged)) == (1, 4)
    assert all("one of run" in text for text in damaged[:2])
    assert "that are not all, or not those, of the checkpoint" in damaged[2]
    assert "run.nc" in damaged[3]
    log.unlink()
    assert "24 of the 24 steps" in verified(run_dir, capsys)[1][2]


def test_runs_of_earlier_versions_and_latents(tmp_path: Path, capsys: Said) -> None:
    with tarfile.open(ARCHIVE) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # not before Python 3.11.4
        archive.extractall(tmp_path)
    for name in ("finished", "halfway"):
        assert verified(tmp_path / name, capsys) == (0, [])
    folder = write_latents(tmp_path / "latents")
    assert verified(folder, capsys) == (0, [])
    flip(folder / "shards" / "00001.f16")
    code, damaged = verified(folder, capsys)
    assert code == 1
    assert "00001.f16 has sha256" in damaged[0]
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(tmp_path)])
    assert stop.value.code == 2
    assert "a folder with a config.json (of a run) or a record.json (of latents)" in capsys.readouterr().err


def test_a_config_that_was_changed_before_the_end_is_refused(run_dir: Path, capsys: Said, tiny: RunConfig) -> None:
    """Its checkpoints know their run: with other options they would go on to other weights in silence."""
    (run_dir / "run.nc").unlink()
    config = run_dir / "config.json"
    config.write_text(config.read_text().replace('"seed": 0', '"seed": 1'))
    code, damaged = verified(run_dir, capsys)
    assert code == 1
    assert [f"one of run {tiny.run_id}" in text for text in damaged] == [True, True]
    with pytest.raises(SystemExit, match="2"):
        main(["train", str(config), "--out", str(run_dir)])
    assert "put back the config.json" in capsys.readouterr().err
