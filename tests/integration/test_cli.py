"""The command line as a user meets it: help, exit codes, messages without tracebacks, and the whole way once."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import dynamics
from dynamics import cli
from dynamics.cli.demo import DEMO_PRESETS, demo
from dynamics.config import RunConfig
from dynamics.curricula import DTD, Beta, GapLaw
from dynamics.evaluation import EvaluationOptions
from dynamics.flow.times import TimesOptions, UniformGap
from dynamics.instruments import CellsOptions, GapsOptions, InstrumentOptions
from dynamics.objectives import FlowMatching
from dynamics.presets import PRESETS

SMALL = [
    *("--model.dim", "16", "--model.depth", "1", "--model.heads", "2", "--training.batch-size", "16"),
    *("--training.num-steps", "8", "--training.num-threads", "1", "--observers.0.rows-per-bin", "4"),
]


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of a command."""
    code = 0
    try:
        cli.main(argv)
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["nonsense"], ["command", "nonsense", "allowed: presets, train", "remedy"]),
        (["train", "nonsense", "--out", "x"], ["preset", "nonsense", "digits-meanflow", "remedy"]),
        (["train", "digits-meanflow"], ["--out"]),
        (["train", "digits-meanflow", "--out", "x", "--training.num-steps", "0"], ["num_steps", "0", "greater than 0"]),
        (
            ["train", "digits-meanflow", "--out", "x", "--data.name", "cifar"],
            ["--data.name", "cifar", "digits-mixture"],
        ),
        (["train", "digits-meanflow", "--out", "x", "--data.name", "npz"], ["path", "None", "allowed", "remedy"]),
        (["train", "digits-meanflow", "--out", "x", "--training.accumulation", "3"], ["accumulation", "3", "64"]),
        (
            ["train", "digits-flow-matching", "--out", "x", "--times.gap-share", "0.5"],
            ["gap_share", "0.5", "set it to 0"],
        ),
        (["train", "digits-meanflow", "--out", "x", "--model.patch-size", "3"], ["patch_size", "3", "8 x 8", "remedy"]),
        (["train", "digits-meanflow", "--out", "x", "--training.device", "cuda"], ["device", "cuda", "cpu or auto"]),
        (["train", "digits-meanflow", "--out", "x", "--observe", "gapz"], ["observe", "gapz", "gaps, cells", "none"]),
        (["train", "digits-meanflow", "--out", "x", "--observe", "cells:rows=3"], ["cells", "rows=3", "every"]),
        (["train", "digits-meanflow", "--out", "x", "--observe", "gaps:every=0"], ["gaps.every", "0", "greater than"]),
        (["train", "digits-meanflow", "--out", "x", "--observe"], ["observe", "gaps, cells", "or write none"]),
        (["train", "digits-meanflow", "--out", "x", "--observe", "cells", "cells"], ["observers", "each kind once"]),
        (["evaluate", "nowhere"], ["nowhere", "config.json", "remedy"]),
        (["report", "nowhere", "--out", "y"], ["nowhere", "finished run", "remedy"]),
    ],
)
def test_bad_input_is_explained_with_exit_code_2(
    argv: list[str],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *argv)
    assert code == 2
    said = " ".join((out + err).split())
    for word in words:
        assert word in said
    assert "Traceback" not in said


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, command, "--help")
    assert code == 0
    assert f"dynamics {command}" in out


def test_train_help_shows_the_presets_values(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(capsys, "train", "digits-gap-law", "--help")
    assert "--curricula.0.share-to" in out
    assert "--times.gap-share" in out


def test_observers_by_words(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The words replace the config's observers; the same command again finds its own run."""
    small = SMALL[: SMALL.index("--observers.0.rows-per-bin")]
    command = ["train", "digits-meanflow", "--out", str(tmp_path / "run"), *small]
    command += ["--observe", "cells:every=3", "gaps:rows_per_bin=4,gap_edges=0/0.5/1"]
    for _ in range(2):
        code, _, err = call(capsys, *command)
        assert code == 0, err
    observers = RunConfig.model_validate_json((tmp_path / "run" / "config.json").read_text()).observers
    assert observers == (CellsOptions(every=3), GapsOptions(rows_per_bin=4, gap_edges=(0.0, 0.5, 1.0)))
    tree = dynamics.open_results(tmp_path / "run")
    assert tree["cells"].step.values.tolist() == [0, 3, 6, 8]
    assert tree["gaps"].sizes["gap_bin"] == 2
    bare = ["train", "digits-meanflow", "--out", str(tmp_path / "bare"), *small, "--observe", "none"]
    assert call(capsys, *bare)[0] == 0
    assert set(dynamics.open_results(tmp_path / "bare").children) == {"training"}


def test_train_help_lists_what_observe_takes(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(capsys, "train", "digits-meanflow", "--help")
    for kind in InstrumentOptions.members():
        assert re.search(rf"^ *{kind}: .*\bevery\b", out, flags=re.MULTILINE), kind


def test_presets_are_valid_configs() -> None:
    for config in PRESETS.values():
        assert RunConfig.model_validate_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"curricula": (GapLaw(start=0.5), DTD(scope="both"))}, "put dtd first"),
        (
            {"objective": FlowMatching(), "times": TimesOptions(gap_share=0), "curricula": (GapLaw(gap_share_to=0.5),)},
            "0 at every",
        ),
        ({"times": TimesOptions(law=UniformGap(low=1, high=1)), "curricula": (Beta(),)}, "a law with gaps below 1"),
    ],
)
def test_parts_that_cannot_work_together_are_refused_at_once(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RunConfig(**change)


def test_presets_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "presets")
    assert code == 0
    for name in PRESETS:
        assert name in out


def test_doctor_finds_this_installation_well(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "doctor", "--no-compile")
    assert code == 0, out
    assert "FAILED" not in out
    assert "finite differences" in out
    assert "extra [data]" in out


def test_doctor_notices_a_wrong_derivative(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from dynamics.cli import doctor

    right = doctor.Network.jvp
    monkeypatch.setattr(doctor.Network, "jvp", lambda *a, **dz: tuple(1.001 * x for x in right(*a, **dz)))
    code, out, _ = call(capsys, "doctor", "--no-compile")
    assert code == 1
    assert "FAILED" in out


@pytest.mark.usefixtures("coarse_truth")
def test_the_whole_way(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """train, evaluate (u, then v beside it), report, and the same again from the JSON config."""
    folder = str(tmp_path / "one")
    assert call(capsys, "train", "digits-improved", "--out", folder, *SMALL)[0] == 0
    few = ["--num-samples", "40", "--exact-rows", "4"]
    code, out, err = call(capsys, "evaluate", folder, "--nfe", "1", "2", *few)
    assert code == 0, err
    assert "fd_digits" in out
    assert call(capsys, "evaluate", folder, "--nfe", "2", "4", "--field", "v", "--method", "euler", *few)[0] == 0
    tree = dynamics.open_results(folder)
    assert set(tree.children) == {"training", "gaps", "cells", "evaluation"}
    evaluation = tree["evaluation"]
    assert evaluation.field.values.tolist() == ["u", "v"]
    assert evaluation.nfe.values.tolist() == [1, 2, 4]
    assert bool(evaluation.fd_digits.sel(field="u", nfe=1).notnull())
    assert bool(evaluation.fd_digits.sel(field="u", nfe=4).isnull())

    config = json.loads((tmp_path / "one" / "config.json").read_text())
    config["seed"] = 1
    (tmp_path / "two.json").write_text(json.dumps(config))
    assert call(capsys, "train", str(tmp_path / "two.json"), "--out", str(tmp_path / "two"))[0] == 0
    assert call(capsys, "evaluate", str(tmp_path / "two"), "--nfe", "1", "2", *few)[0] == 0
    code, out, err = call(capsys, "report", folder, str(tmp_path / "two"), "--out", str(tmp_path / "report"))
    assert code == 0, err
    assert (tmp_path / "report" / "report.md").is_file()
    assert dynamics.open_results(tmp_path / "report" / "merged.nc")["training"].sizes["run"] == 2

    u = dynamics.load_model(folder)
    e, t = torch.randn(3, 1, 8, 8), torch.ones(3)
    assert u(e, t, 0 * t, torch.arange(3)).shape == e.shape


@pytest.mark.usefixtures("coarse_truth")
def test_images_without_labels_train_evaluate_and_report(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """No labels, no classifier: pictures and exact errors, and a report that says so."""
    np.savez(tmp_path / "mine.npz", x=np.random.default_rng(0).integers(0, 255, (20, 8, 8, 3), dtype=np.uint8))
    folder = str(tmp_path / "run")
    data = ["--data.name", "npz", "--data.path", str(tmp_path / "mine.npz")]
    assert call(capsys, "train", "digits-meanflow", "--out", folder, *data, *SMALL)[0] == 0
    code, out, err = call(capsys, "evaluate", folder, "--nfe", "1", "--num-samples", "10", "--exact-rows", "4")
    assert code == 0, err
    assert "no labels" in out
    code, _, err = call(capsys, "report", folder, "--out", str(tmp_path / "report"))
    assert code == 0, err
    assert "No distances" in (tmp_path / "report" / "report.md").read_text()
    assert (tmp_path / "report" / "figures" / "sample_grids.png").is_file()


def test_unknown_fields_of_a_json_config_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = PRESETS["digits-meanflow"].model_dump(mode="json")
    config["training"]["momentum"] = 0.9
    (tmp_path / "bad.json").write_text(json.dumps(config))
    code, _, err = call(capsys, "train", str(tmp_path / "bad.json"), "--out", str(tmp_path / "run"))
    assert code == 2
    assert "training.momentum" in err


def test_a_non_finite_loss_stops_with_3_and_names_the_rows(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny: RunConfig
) -> None:
    """A step size that destroys the network: the run stops, the last checkpoint stays, the rows are on file."""
    wild = tiny.training.model_copy(update={"learning_rate": 1e30, "warmup_steps": 0, "checkpoint_every": 1})
    (tmp_path / "wild.json").write_text(tiny.model_copy(update={"training": wild}).to_json())
    code, _, err = call(capsys, "train", str(tmp_path / "wild.json"), "--out", str(tmp_path / "run"))
    assert code == 3
    assert "is not finite at step" in err
    content = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    assert content["step"] >= 1
    assert {"row", "t", "r", "raw", "du_dt_norm"} == set(content["rows"][0])


@pytest.mark.usefixtures("coarse_truth")
def test_demo_makes_a_report_and_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {name: quick(config) for name, config in PRESETS.items()}
    monkeypatch.setattr("dynamics.presets.PRESETS", small)
    options = EvaluationOptions(nfe=(1, 2), num_samples=30)
    presets = DEMO_PRESETS[::2]
    report = demo(tmp_path, 6, presets, options, progress=False)
    assert "One seed a setting: numbers, no verdict" in report.read_text()
    text = report.read_text()
    for name in presets:
        assert name in text
    assert list((tmp_path / "figures").glob("*.png"))
    stamps = {name: (tmp_path / name / "run.nc").stat().st_mtime_ns for name in presets}
    demo(tmp_path, 6, presets, options, progress=False)
    assert stamps == {name: (tmp_path / name / "run.nc").stat().st_mtime_ns for name in presets}


def quick(config: RunConfig) -> RunConfig:
    """The preset with a small network, one thread and few measured rows."""
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"dim": 16, "depth": 1}),
            "training": config.training.model_copy(update={"num_threads": 1}),
            "observers": (GapsOptions(rows_per_bin=4),),
        }
    )


def test_the_installed_command_starts_quickly_and_shows_help() -> None:
    done = subprocess.run([sys.executable, "-m", "dynamics", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "demo" in done.stdout
