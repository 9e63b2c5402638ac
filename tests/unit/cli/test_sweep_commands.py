"""The command line of sweeps, in this process; real clusters are in tests/integration."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from sweeps._sweep import Small

from dynamics.cli import start_runs
from dynamics.cli.experiments import main
from dynamics.cli.sweep_commands import VERBS
from dynamics.planning.resources import Resources
from dynamics.sweep import slurm
from dynamics.sweep.events import events, record
from dynamics.sweep.grid import Planned
from dynamics.sweep.submit import ClusterOptions
from dynamics.sweep.sweep_folder import SweepFolder


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
        (("huge", "plan"), "experiment: received 'huge'; allowed: looked, slow, tiny"),
        (("tiny", "start"), "verb: received 'start'; allowed: plan, submit"),
        (
            ("tiny", "plan", "--scale", "s"),
            "scale: received 's'; allowed: digits, digits-dit, mnist5k, testbed, testbed-mlp, b4, xl2",
        ),
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
    folder, jobs = tiny_sweep.folder.run(second.run_id).path, tiny_sweep.folder.jobs
    record(folder, "submitted", cluster="local", born=0.0)
    record(folder, "started", cluster="local", job_id="1", log=jobs / "err", out=jobs / "out", step=0, born=0.0)
    (jobs / "err").write_text("one\ntwo\n")
    code, out, _ = call(capsys, "tiny", "status", *results)
    assert "1 died" in out
    assert "ended without a word" in out
    assert str(jobs / "err") in out.replace("\n", "")
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


class Sent(list[tuple[str, ClusterOptions, int]]):
    """What was sent to Slurm or done here instead of running: where, with which options, how many runs."""


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Catch what would start."""
    out = Sent()

    def to_slurm(folder: SweepFolder, runs: Sequence[Planned], options: ClusterOptions, scale: Resources) -> list[str]:
        out.append(("slurm", options, len(runs)))
        for run in runs:
            record(folder.run(run.run_id).path, "failed", error="no such partition")
        return ["7"]

    def here(folder: SweepFolder, runs: Sequence[Planned], options: ClusterOptions, scale: Resources) -> None:
        out.append(("here", options, len(runs)))

    monkeypatch.setattr(start_runs, "submit_slurm", to_slurm)
    monkeypatch.setattr(start_runs, "run_here", here)
    return out


def test_a_sweep_remembers_where_its_runs_go(tiny_sweep: Small, sent: Sent, capsys: pytest.CaptureFixture[str]) -> None:
    only = ("--results", str(tiny_sweep.folder.results), "--only", tiny_sweep.runs[2].run_id)
    slurm_gpu = ClusterOptions(cluster="slurm", partition="gpu", cpus=2, sbatch=("constraint=h100",))
    options = ("--partition", "gpu", "--cpus", "2", "--sbatch", "constraint=h100")
    out = call(capsys, "tiny", "submit", "--cluster", "slurm", *options, *only)[1]
    assert "1 runs on Slurm, partition gpu, constraint h100, 2 cores each" in out
    assert sent.pop() == ("slurm", slurm_gpu, 1)

    for verb in ("retry", "submit"):
        out = call(capsys, "tiny", verb, *only)[1]
        assert "1 runs on Slurm, partition gpu, constraint h100, 2 cores each" in out
        assert sent.pop() == ("slurm", slurm_gpu, 1)
    out = call(capsys, "tiny", "retry", "--partition", "big", *only)[1]
    assert "1 runs on Slurm, partition big, constraint h100, 2 cores each\nbefore: on Slurm, partition gpu, " in out
    assert sent.pop() == ("slurm", slurm_gpu.model_copy(update={"partition": "big"}), 1)

    code, out, _ = call(capsys, "tiny", "submit", "--cluster", "local", *only)
    assert re.search(r"1 runs on this machine \(\S+\), 1 core each, 1 at a time\nbefore: on Slurm, partition big", out)
    assert sent.pop() == ("here", ClusterOptions(cluster="local"), 1)
    assert "before" not in call(capsys, "tiny", "submit", *only)[1]
    assert sent.pop() == ("here", ClusterOptions(cluster="local"), 1)

    memory = tiny_sweep.folder.jobs / "cluster.json"
    memory.write_bytes(b'{"cluster": "sl\xffrm"}')
    code, _, err = call(capsys, "tiny", "retry", *only)
    assert (code, sent) == (2, [])
    assert f"{memory}: received 'damaged text'" in err
    assert call(capsys, "tiny", "retry", "--cluster", "slurm", *only)[0] == 0
    memory.write_text('{"cluster": "slurm", "partition": "gpu\\nrm x"}')
    assert call(capsys, "tiny", "retry", *only)[0] == 2, "it would be a line of the script"


def test_nothing_is_computed_by_surprise_where_a_cluster_is(
    tiny_sweep: Small, sent: Sent, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    results = ("--results", str(tiny_sweep.folder.results))
    folder = tiny_sweep.folder.run(tiny_sweep.runs[2].run_id).path
    record(folder, "submitted", cluster="slurm", token="t", index=0)  # by a version that remembered nothing
    record(folder, "failed", error="x")
    monkeypatch.setattr(slurm, "queue", lambda names: {})
    (tmp_path / "sbatch").touch(mode=0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    for words in (("submit",), ("retry",), ("submit", "--scale", "b4")):
        code, _, err = call(capsys, "tiny", *words, *results)
        assert (code, sent) == (2, []), words
        assert "cluster: received None; allowed: slurm, local or debug" in err
    assert not (tiny_sweep.folder.jobs / "cluster.json").exists()
    monkeypatch.setenv("PATH", "")
    call(capsys, "tiny", "submit", "--scale", "b4", "--gpus", "0", *results)
    assert sent.pop()[0] == "here", "no cluster is near"


def test_what_is_held_is_released(
    tiny_sweep: Small, sent: Sent, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = ("--results", str(tiny_sweep.folder.results))
    record(tiny_sweep.folder.run(tiny_sweep.runs[2].run_id).path, "submitted", cluster="slurm", token="t", index=0)
    job = slurm.Job("9_0", "PENDING", "launch failed requeued held")
    monkeypatch.setattr(slurm, "queue", lambda names: {("t", 0): job})
    out = call(capsys, "tiny", "status", "--watch", *results)[1]
    assert "1 held" in out
    assert "launch failed requeued held; retry, or scontrol release 9_0" in " ".join(re.findall(r"[\w;,]+", out))
    released: list[str] = []
    monkeypatch.setattr(slurm, "release", released.extend)
    assert "released: jobs 9_0" in call(capsys, "tiny", "retry", *results)[1]
    assert (released, sent) == (["9_0"], [])


def test_logs_are_read_in_the_sweep_only(tiny_sweep: Small, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = tiny_sweep.runs[2]
    folder = tiny_sweep.folder.run(run.run_id).path
    secret = tmp_path / "secret"
    secret.write_text("the key")
    folder.mkdir(parents=True)
    (folder / "link").symlink_to(secret)
    record(folder, "submitted", cluster="local")
    record(folder, "started", job_id="1", log=str(secret), out=str(folder / "link"), step=0)
    code, out, _ = call(capsys, "tiny", "logs", run.run_id, "--results", str(tiny_sweep.folder.results))
    assert code == 0
    assert "the key" not in out
    assert out.count("(not shown: it is not in the sweep's folder)") == 2


def test_damaged_texts_are_named_and_retry_mends_them(tiny_sweep: Small, capsys: pytest.CaptureFixture[str]) -> None:
    results = ("--results", str(tiny_sweep.folder.results))
    files = tiny_sweep.folder.path / "files.json"
    files.parent.mkdir(parents=True)
    files.write_bytes(b'{"vae": "\xff"}')
    for verb in ("status", "collect", "retry"):
        code, _, err = call(capsys, "tiny", verb, *results)
        assert code == 2
        assert f"{files}: received 'damaged text'" in err
    files.unlink()
    folder = tiny_sweep.folder.run(tiny_sweep.runs[2].run_id).path
    record(folder, "submitted", cluster="local", born=0.0)
    record(folder, "failed", error="x")
    (folder / "events.jsonl").write_bytes((folder / "events.jsonl").read_bytes().replace(b"failed", b"fXiled"))
    assert "1 damaged" in call(capsys, "tiny", "status", *results)[1]
    out = call(capsys, "tiny", "collect", *results)[1]
    assert f"damaged {folder / 'events.jsonl'}, line 4" in out
    code, out, _ = call(capsys, "tiny", "retry", "--cluster", "debug", *results)
    assert code == 0
    assert f"{folder.name}: set aside events.jsonl" in out
    assert [event["kind"] for event in events(folder)] == ["set_aside", "submitted", "started", "finished"]
