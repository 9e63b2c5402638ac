"""The command line of sweeps, in this process; real clusters are in tests/integration."""

import re
from pathlib import Path

import pytest
from sweeps._sweep import Small

from dynamics.cli.experiments import main
from dynamics.cli.sweep_commands import VERBS
from dynamics.sweep.events import record


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run a command; return exit code, output and errors."""
    code = 0
    try:
        main("sweeps", words)
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "tiny", verb, "--help")
    assert code == 0
    assert "--scale" in out
    assert "--results" in out


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = ("--results", str(tmp_path))
    for words, message in (
        (("huge", "plan"), "experiment: received 'huge'; allowed: slow, tiny"),
        (("tiny", "start"), "verb: received 'start'; allowed: plan, submit"),
        (("tiny", "plan", "--scale", "s"), "scale: received 's'; allowed: digits, digits-dit, mnist5k, b4, xl2"),
        (("tiny", "submit", "--only", "zz", *results), "run id: received 'zz (0 runs)'"),
        (("tiny", "submit", "--nodes", "2", *results), "nodes: received 2; allowed: 1 with --cluster local"),
        (("tiny", "submit", "--gpus", "-1", *results), "gpus"),
        (("tiny", "report", *results), "runs: received 'none of 8 is done'"),
        (
            ("findings", "--scale", "digits", *results),
            "allowed: collected files of scale digits; remedy: python -m experiments EXPERIMENT",
        ),
    ):
        code, _, err = call(capsys, *words)
        assert code == 2, words
        assert message in err
    assert call(capsys)[0] == 2
    assert call(capsys, "--help")[0] == 0


def test_list_and_plan_start_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_sweep: Small) -> None:
    code, out, _ = call(capsys, "list")
    assert code == 0
    assert "Does a sweep come out as its runs do?" in out
    assert re.search(r"digits +10 runs, about \S+ core-hours", out)
    code, out, _ = call(capsys, "tiny", "plan", "--results", str(tmp_path))
    assert code == 0
    for run in tiny_sweep.runs:
        assert run.run_id in out
    assert "10 runs" in out
    assert "device-hours" in out
    assert list(tmp_path.iterdir()) == []


def test_the_way_of_a_user(tiny_sweep: Small, capsys: pytest.CaptureFixture[str]) -> None:
    results = ("--results", str(tiny_sweep.folder.results))
    first, second = tiny_sweep.runs[2:4]
    code, out, _ = call(capsys, "tiny", "submit", "--cluster", "debug", "--only", first.run_id, *results)
    assert code == 0
    code, out, _ = call(capsys, "tiny", "status", *results)
    assert "1 done" in out
    assert "9 new" in out
    code, out, _ = call(capsys, "tiny", "submit", "--cluster", "debug", "--only", first.run_id, *results)
    assert "1 runs are done and are left alone" in out
    folder = tiny_sweep.folder.run(second.run_id).path
    record(folder, "submitted", cluster="local", born=0.0)
    record(folder, "started", cluster="local", job_id="1", log=folder / "err", out=folder / "out", step=0, born=0.0)
    (folder / "err").write_text("one\ntwo\n")
    code, out, _ = call(capsys, "tiny", "status", *results)
    assert "1 died" in out
    assert "ended without a word" in out
    assert str(folder / "err") in out.replace("\n", "")
    code, out, _ = call(capsys, "tiny", "logs", second.run_id[:6], "--lines", "1", *results)
    assert "two" in out
    assert "one" not in out
    assert "(not there)" in out
    code, out, _ = call(capsys, "tiny", "retry", "--cluster", "debug", *results)
    assert code == 0
    code, out, _ = call(capsys, "tiny", "collect", *results)
    assert "2 of 10 runs in" in out
    assert out.count("missing") == 8
    code, out, _ = call(capsys, "tiny", "report", *results)
    assert "2 of 8 runs" in out
    report = (tiny_sweep.folder.path / "report" / "report.md").read_text()
    assert "# tiny, digits" in report
    assert "| init=random, rate=slow | 2 |" in report
    code, out, _ = call(capsys, "tiny", "plan", *results)
    assert "finished runs took" in out
    assert "nothing to retry" in call(capsys, "tiny", "retry", "--cluster", "debug", *results)[1]
    assert "cancelled 0 runs" in call(capsys, "tiny", "cancel", *results)[1]


def test_what_runs_elsewhere_is_not_killed_from_here(tiny_sweep: Small, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_sweep.folder.run(tiny_sweep.runs[2].run_id).path
    for kind in ("submitted", "started"):
        details = {"job_id": "1", "log": "", "out": "", "step": 0}
        record(folder, kind, cluster="local", host="far", **details)  # type: ignore[arg-type]
    code, _, err = call(capsys, "tiny", "cancel", "--results", str(tiny_sweep.folder.results))
    assert code == 2
    assert "cancel it on far" in err
