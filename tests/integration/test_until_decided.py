"""Looks at the claims of a sweep of tiny runs: arms stop by themselves, and no run is lost or done twice."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from slurm_cluster import Slurm
from sweeps._sweep import small

from dynamics.analysis import findings
from dynamics.analysis.studies import study_report
from dynamics.cli import until_decided
from dynamics.cli.experiments import main
from dynamics.store import open_results
from dynamics.sweep import seeds_begun
from dynamics.sweep.events import events
from dynamics.sweep.seeds_begun import SeedsBegun
from dynamics.sweep.sweep_folder import SweepFolder


def command(results: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run the command to its end, and return what it said."""
    main("sweeps", ["looked", *words, "--results", str(results)])
    return capsys.readouterr().out


def starts(sweep: SweepFolder) -> list[int]:
    """Return how often each run that there is was started."""
    return [[e["kind"] for e in events(sweep.run(run_id).path)].count("started") for run_id in sweep.run_ids()]


def of_arms(tree_labels: Sequence[str]) -> dict[str, int]:
    return {arm: list(tree_labels).count(arm) for arm in dict.fromkeys(tree_labels)}


def test_arms_stop_one_by_one_and_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeds_begun, "EVERY", 2)
    submit = ("submit", "--until-decided", "--max-seeds", "4", "--cluster", "debug")
    sweep = small("looked", tmp_path).folder

    def stop(folder: SweepFolder, made: int, arms: Sequence[str]) -> SeedsBegun:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(until_decided, "went_on", stop)  # it is killed after a look, before that is written down
        with pytest.raises(SystemExit) as stopped:
            command(tmp_path, capsys, *submit)
    assert stopped.value.code == 130
    assert starts(sweep) == [1] * 8

    said = command(tmp_path, capsys, *submit)
    assert "decided: a start from v is better (fd_u_nfe1): no effect" in said
    assert re.search(r"goes on: a high rate is better \(fd_u_nfe1\): undecided \(\d+ seeds would decide\)", said)
    assert "2 arms go on, to 4 seeds: arm=slow; arm=fast\nat most 4 runs more, " in said
    assert "look 2 of at most 2: after 4 seeds, 12 runs" in said
    assert "stopped: at 4 seeds, the most that were asked for; 1 claims are undecided" in said
    assert starts(sweep) == [1] * 12

    again = command(tmp_path, capsys, *submit)
    assert again[again.index("  ") :] == said[said.rindex("  undecided:") :], "the last look finds the same again"
    assert "12 runs: 12 done" in command(tmp_path, capsys, "status")
    for verb in ("retry", "submit"):
        command(tmp_path, capsys, verb, "--cluster", "debug")
    (sweep.path / "seeds.json").unlink()
    assert "look 2 of at most 2" in command(tmp_path, capsys, *submit), "what was lost follows from the runs"
    assert starts(sweep) == [1] * 12

    assert "12 of 12 runs in" in command(tmp_path, capsys, "collect")
    tree = open_results(sweep.merged)
    training = tree["training"].to_dataset()
    grid = training.isel(run=training.role.values == "grid")
    assert of_arms(grid.arm.values) == {"slow": 4, "fast": 4, "from v": 2}
    assert (json.loads(tree.attrs["looks"]), tree.attrs["looks_made"]) == ([2, 4], 2)
    found = findings(tree)
    assert [f.verdict for f in found] == ["undecided", "no effect"]
    assert "meant for 2, 4 seeds, and 2 of them made so far" in study_report._claims(tree, tmp_path)
    del tree.attrs["looks"]
    assert findings(tree)[0].p_value < found[0].p_value


@pytest.mark.usefixtures("forked_jobs")
def test_on_slurm_a_look_waits_for_its_runs(
    slurm: Slurm, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(until_decided, "POLL_SECONDS", 0.5)
    said = command(tmp_path, capsys, "submit", "--until-decided", "--max-seeds", "2", "--cluster", "slurm")
    assert "submitted: jobs" in said
    assert "0 of 8 runs done" in said
    assert "decided: a start from v is better (fd_u_nfe1): no effect" in said
    assert "stopped: at 2 seeds, the most that were asked for; 1 claims are undecided" in said
