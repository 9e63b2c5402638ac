"""The report says what the numbers say, and its links lead somewhere."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_runs import BASE

from dynamics.analysis import run_labels, write_report
from dynamics.analysis.report import report_pictures
from dynamics.store import open_results


@pytest.fixture
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the figures, but spare the seconds of writing them, where a test reads the text."""
    monkeypatch.setattr(report_pictures, "save", lambda figure, path: [])


def test_two_runs(two: list[Path], tmp_path: Path) -> None:
    path = write_report(two, tmp_path / "out", title="A comparison")
    text = path.read_text()
    assert text.startswith("# A comparison\n")
    links = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert len(links) == 7
    for link in links:
        assert (path.parent / link).stat().st_size > 5000
        assert (path.parent / link).with_suffix(".svg").stat().st_size > 5000
    assert "| base | `id-base` | 2000 | 64 | 0 | 0123456789 | machine | 2.13.0 | 60 | 500 |" in text
    assert "0123456789 + uncommitted changes" in text
    assert "| exact error of u from (t, r) = (1, 0) | 0.300 ± 0.030 | 0.150 ± 0.015 |" in text
    assert "| class accuracy, u, NFE 1 | 0.500 [0.469, 0.531] | 0.900 [0.880, 0.917] |" in text
    assert "## Differences against base" in text
    assert "\n- exact error of u from (t, r) = (1, 0): 0.150 instead of 0.300 (-50.0%, better)" in text
    assert "\n- exact error of u, gaps 0-0.1: 0.300 instead of 0.200 (+50.0%, worse)" in text
    assert "One seed a setting: numbers, no verdict" in text
    assert "spread" not in text
    assert f"| extractor sha256 | {'e' * 64} |" in text
    assert "| ema decay | 0.995 |" in text
    merged = open_results(tmp_path / "out")
    assert run_labels(merged) == ["base", "other"]
    assert not list((tmp_path / "out").rglob("*.tmp"))


@pytest.mark.usefixtures("no_files")
def test_the_same_report_twice(two: list[Path], tmp_path: Path) -> None:
    first = write_report(two, tmp_path / "out").read_text()
    assert write_report(two, tmp_path / "out").read_text() == first


@pytest.mark.usefixtures("no_files")
def test_single_run_has_no_differences(two: list[Path], tmp_path: Path) -> None:
    text = write_report(two[:1], tmp_path / "out").read_text()
    assert text.startswith("# Report of base\n")
    assert "Differences" not in text
    assert "Settings in which they differ" not in text


@pytest.mark.usefixtures("no_files")
def test_baseline_and_labels(two: list[Path], tmp_path: Path) -> None:
    text = write_report(two, tmp_path / "out", baseline="B", labels=["A", "B"]).read_text()
    assert "## Differences against B" in text
    assert "(+100.0%, worse)" in text
    assert "**A** against B:" in text


@pytest.mark.usefixtures("no_files")
def test_commands_are_those_of_the_evaluation(two: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "an out"
    text = write_report(two, out, title="It's a title", baseline="other").read_text()
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("dynamics ")]
    assert [c[1] for c in commands] == ["train"] * 2 + ["evaluate"] * 4 + ["report"]
    assert commands[2][3:8] == ["--field", "u", "--nfe", "1", "2"]
    assert commands[3][3:7] == ["--field", "v", "--nfe", "2"]
    assert commands[3][-2:] == ["--exact-rows", "16"]
    last = ["--out", str(out), "--title", "It's a title", "--baseline", "other"]
    assert commands[-1][2:] == [*map(str, two), *last]


@pytest.mark.usefixtures("no_files")
def test_without_evaluation(make: Callable[..., Path], tmp_path: Path) -> None:
    text = write_report([make("base", BASE, without=("evaluation",))], tmp_path / "out").read_text()
    assert "No sample grids: no run has the group evaluation. dynamics evaluate DIR" in text
    assert "No run was evaluated: dynamics evaluate DIR." in text
    assert "at the last measurement while training" in text


def test_runs_on_latents(on_latents: list[Path], tmp_path: Path) -> None:
    path = write_report(on_latents, tmp_path / "out")
    text = path.read_text()
    assert "| FID, u, NFE 1 | 4 | 3 |" in text
    assert "Latents have no exact errors" in text
    assert "FID, u, NFE 1: 3 instead of 4 (-25.0%, better)" in text
    figures = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert figures[:2] == ["figures/samples_decoded.png", "figures/fid_by_nfe.png"]
    assert all((path.parent / figure).is_file() for figure in figures)
    assert "error_by_gap" not in text
    assert "No sample grids" not in text
    assert "| reference | VIRTUAL.npz |" in text
    command = next(line for line in text.splitlines() if line.startswith("dynamics evaluate"))
    assert "--fid" in command
    assert "--reference VIRTUAL.npz --vae sd-vae" in command


@pytest.mark.usefixtures("no_files")
def test_public_weights_alone_and_beside_a_run(on_latents: list[Path], imported: Path, tmp_path: Path) -> None:
    alone = write_report([imported], tmp_path / "alone").read_text()
    assert "| FID, u, NFE 1 | 2 |" in alone
    assert "No losses: no run has the group training" in alone
    text = write_report([on_latents[0], imported], tmp_path / "both").read_text()
    assert "| FID, u, NFE 1 | 4 | 2 |" in text
    assert "| sit | `id-sit` |" in text
    assert re.search(r"\| sit \|.*`willisma/SiT`", text)
    assert f"dynamics import SiT-XL-2-256.pt --from sit --out {imported}" in text
    assert f"dynamics train {on_latents[0]}/config.json" in text


@pytest.mark.usefixtures("no_files")
def test_different_protocols_are_shown_and_not_compared(make: Callable[..., Path], tmp_path: Path) -> None:
    folders = [make("base", BASE), make("other", {**BASE, "fd": 1.0}, num_samples=2000)]
    text = write_report(folders, tmp_path / "out").read_text()
    assert "| num samples | 1000 |" in text
    assert "| num samples | 2000 |" in text
    assert "| Frechet distance (digits features), u, NFE 1, n2000_seed0_ema_rows16 | - | 1 |" in text
    assert "- Not comparable, the two runs were measured differently (see the protocol): exact error" in text


def test_bad_input_writes_nothing(two: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    cases = [
        ({"baseline": "nobody"}, "baseline: received 'nobody'; allowed: base, other"),
        ({"labels": ["x"]}, "labels"),
        ({"labels": ["x", "x"]}, "labels"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            write_report(two, out, **options)
    with pytest.raises(ValueError, match="dynamics train PRESET --out"):
        write_report([*two, tmp_path / "nothing"], out)
    with pytest.raises(ValueError, match="at least one"):
        write_report([], out)
    assert not out.exists()
