"""Looks at claims: what is refused, how one waits, and what is said at the end."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sweeps._sweep import small

from dynamics.analysis import Claim, Finding
from dynamics.cli import until_decided
from dynamics.cli.experiments import main
from dynamics.cli.start_runs import Sweep
from dynamics.cli.until_decided import look_text
from dynamics.planning.resources import RESOURCES
from dynamics.sweep.claims_so_far import Look
from dynamics.sweep.events import Event
from dynamics.sweep.grid import Planned
from dynamics.sweep.seeds_begun import SeedsBegun
from dynamics.sweep.slurm import SlurmError
from dynamics.sweep.status import State, Status
from dynamics.sweep.submit import ClusterOptions
from dynamics.sweep.sweep_folder import SweepFolder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("tiny", "--until-decided"), "experiment tiny: received 'no claims'"),
        (("tiny", "--max-seeds", "8"), "max-seeds: received 8; allowed: nothing, without --until-decided"),
        (("looked", "--until-decided", "--only", "ab"), "only: received ('ab',)"),
        (("looked", "--until-decided", "--max-seeds", "1"), "max-seeds: received 1; allowed: at least 2"),
        (("looked", "--until-decided", "--max-seeds", "x"), "max-seeds"),
    ],
)
def test_bad_input_starts_nothing(
    words: Sequence[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *options = words
    with pytest.raises(SystemExit) as stop:
        main("sweeps", [name, "submit", *options, "--results", str(tmp_path)])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json"))


def test_a_look_waits_for_runs_wherever_they_are_and_for_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = small("tiny", tmp_path)
    sweep = Sweep(tiny.experiment, "digits", tiny.folder, tiny.runs[2:4], RESOURCES["digits"])
    said: list[tuple[State, State]] = []

    def next_states(folder: SweepFolder, runs: Sequence[Planned]) -> list[Status]:
        return [Status(run, state, (), detail="no answer") for run, state in zip(runs, said.pop(0), strict=True)]

    monkeypatch.setattr(until_decided, "statuses", next_states)
    monkeypatch.setattr(until_decided, "POLL_SECONDS", 0.0)
    said[:] = [("queued", "queued"), ("running", "held"), ("done", "failed")]
    assert [status.state for status in until_decided._ended(sweep)] == ["done", "failed"]
    assert "0 of 2 runs done, 0 running, 2 waiting; Ctrl-C leaves them alone" in capsys.readouterr().out
    for states, message in ((("done", "held"), "1 runs are held"), (("running", "unknown"), "no answer")):
        said[:] = [states]  # type: ignore[list-item]
        with pytest.raises(SlurmError, match=message):
            until_decided._ended(sweep)


def test_runs_that_another_process_took_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two who give the same command here share the runs; the one that is through first does not give up."""
    tiny = small("tiny", tmp_path)
    sweep = Sweep(tiny.experiment, "digits", tiny.folder, tiny.runs[2:4], RESOURCES["digits"])
    said: list[tuple[State, State]] = [("new", "new"), ("done", "running"), ("done", "done")]

    def next_states(folder: SweepFolder, runs: Sequence[Planned]) -> list[Status]:
        return [Status(run, state, ()) for run, state in zip(runs, said.pop(0), strict=True)]

    def start(*given: object) -> None:
        raise SystemExit(1)

    monkeypatch.setattr(until_decided, "statuses", next_states)
    monkeypatch.setattr(until_decided, "start_runs", start)
    monkeypatch.setattr(until_decided, "POLL_SECONDS", 0.0)
    found = until_decided._run_all(sweep, ClusterOptions(cluster="local"))
    assert [status.state for status in found] == ["done", "done"]


def test_what_is_left_costs_what_runs_of_the_arms_that_go_on_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looked = small("looked", tmp_path)
    sweep = Sweep(looked.experiment, "digits", looked.folder, looked.runs, RESOURCES["digits"])
    arms = [["arm=slow"], ["arm=slow", "arm=fast"], []]  # the claim of another arm joins after the last look

    def took(run: Planned) -> list[Event]:
        hours = 2.0 if run.knobs["arm"] == "slow" else 20.0
        return [{"kind": "started", "time": 0.0}, {"kind": "finished", "time": 3600 * hours}]

    def ran(sweep: Sweep, to: ClusterOptions) -> list[Status]:
        return [Status(run, "done", took(run)) for run in sweep.runs]

    monkeypatch.setattr(until_decided, "_run_all", ran)
    monkeypatch.setattr(until_decided, "look", lambda *given: Look([], [], arms.pop(0)))
    until_decided.submit_until_decided(sweep, ClusterOptions(), 10)
    said = capsys.readouterr().out
    assert "at most 5 runs more, 10 hours one after another (2:00:00 each)" in said
    assert "1 arms go on, to 10 seeds: arm=fast" in said
    assert said.count("look 2 of at most 2") == 2


def test_the_last_word_says_why() -> None:
    base = Finding(Claim("c", "v_error", {}, "lower"), 5, -0.1, -0.2, -0.01, True, 0.01, 0.01, spread=0.05)
    unsure = replace(base, adjusted=0.2, high=0.1)
    held, missing = replace(unsure, held_by="p"), replace(base, low=np.nan)
    begun = SeedsBegun(looks=(5, 10), made=2, arms={"arm=a": 10})
    for found, undecided, why in (
        ([base], [], "after 2 of 2 looks: every claim that was measured is decided"),
        ([base, unsure], [unsure], "at 10 seeds, the most that were asked for; 1 claims are undecided"),
        ([base, held], [], "what is undecided needs a direction of its primary claim"),
        ([missing], [], "these runs measure nothing that is claimed"),
    ):
        assert f"stopped: {why}" in look_text(Look(found, undecided, []), begun, [])
    text = look_text(Look([base, unsure], [unsure], ["arm=a"]), begun, ["arm=a"])
    assert "decided: c (v_error): supported, -10% [-18%, -1%], 5 seeds" in text
    assert "goes on: c (v_error): undecided (6 seeds would decide)" in text
    assert "1 arms go on, to 10 seeds: arm=a" in text
