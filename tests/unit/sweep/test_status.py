import json
import os
import time
from collections.abc import Mapping, Sequence

import pytest
from sweeps._sweep import Small

from dynamics.sweep import slurm
from dynamics.sweep.events import record
from dynamics.sweep.grid import with_values
from dynamics.sweep.status import Status, advance, evaluations_json, stale, statuses

Queue = Mapping[tuple[str, int], slurm.Job]


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, int], slurm.Job]:
    """What Slurm says; empty at first."""
    jobs: dict[tuple[str, int], slurm.Job] = {}
    monkeypatch.setattr(slurm, "queue", lambda names: {key: job for key, job in jobs.items() if key[0] in names})
    return jobs


def one(sweep: Small) -> Status:
    return statuses(sweep.folder, sweep.runs[:1])[0]


def say(sweep: Small, *kinds: str, **content: object) -> None:
    """Write events of the first run, on Slurm as task 4 of the submission `t`."""
    run = sweep.runs[0]
    details: dict[str, dict[str, object]] = {
        "submitted": {"cluster": "slurm", "token": "t", "index": 4},
        "started": {"job_id": "9_4", "log": "e", "out": "o", "step": 0},
        "stopped": {"step": 3},
        "finished": {"evaluations": evaluations_json(run)},
        "failed": {"error": "Trace\nValueError: no"},
        "damaged": {"error": "bad sum"},
    }
    for kind in kinds:
        record(sweep.folder.run(run.run_id).path, kind, **{**details.get(kind, {}), **content})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "job", "state"),
    [
        ([], None, "new"),
        (["submitted"], slurm.Job("9_4", "PENDING", "Priority"), "queued"),
        (["submitted"], slurm.Job("9_4", "PENDING", "launch failed requeued held"), "held"),
        (["submitted"], slurm.Job("9_4", "PENDING", "JobHoldMaxRequeue"), "held"),
        (["submitted", "started"], slurm.Job("9_4", "REQUEUE_HOLD", "None"), "held"),
        (["submitted"], slurm.Job("9_4", "RUNNING", "None"), "running"),
        (["submitted"], None, "new"),
        (["submitted", "started"], slurm.Job("9_4", "RUNNING", "None"), "running"),
        (["submitted", "started"], slurm.Job("9_4", "COMPLETING", "None"), "running"),
        (["submitted", "started"], None, "died"),
        (["submitted", "started", "stopped"], slurm.Job("9_4", "PENDING", "BeginTime"), "queued"),
        (["submitted", "started", "stopped"], None, "stopped"),
        (["submitted", "started", "failed"], None, "failed"),
        (["submitted", "started", "failed"], slurm.Job("9_4", "COMPLETING", "None"), "running"),
        (["submitted", "started", "cancelled"], None, "cancelled"),
        (["submitted", "started", "finished"], None, "new"),  # there is no file
        (["submitted", "started", "finished", "damaged"], None, "damaged"),
        (["submitted", "started", "finished", "damaged", "set_aside"], None, "stopped"),
        (["submitted", "started", "failed", "submitted"], None, "new"),
    ],
)
def test_every_state(
    tiny_sweep: Small,
    queue: dict[tuple[str, int], slurm.Job],
    said: Sequence[str],
    job: slurm.Job | None,
    state: str,
) -> None:
    say(tiny_sweep, *said)
    if job is not None:
        queue["t", 4] = job
    assert one(tiny_sweep).state == state


def test_what_is_held_says_how_to_let_it_go(tiny_sweep: Small, queue: dict[tuple[str, int], slurm.Job]) -> None:
    say(tiny_sweep, "submitted")
    queue["t", 4] = slurm.Job("9_4", "PENDING", "launch failed requeued held")
    assert one(tiny_sweep).detail == "launch failed requeued held; retry, or scontrol release 9_4, lets it go"


def test_a_damaged_diary_is_named_and_the_other_runs_go_on(
    tiny_sweep: Small, queue: dict[tuple[str, int], slurm.Job]
) -> None:
    say(tiny_sweep, "submitted", "started", "finished")
    folder = tiny_sweep.folder.run(tiny_sweep.runs[0].run_id)
    folder.result.write_text("x")
    diary = folder.path / "events.jsonl"
    diary.write_bytes(diary.read_bytes().replace(b"started", b"st\xffrted"))
    found = statuses(tiny_sweep.folder, tiny_sweep.runs)
    assert [status.state for status in found] == ["damaged", *["new"] * 9]
    assert found[0].detail.startswith(f"{diary}, line 4: received ")
    folder.result.unlink()
    queue["t", 4] = slurm.Job("9_4", "RUNNING", "None")
    assert one(tiny_sweep).state == "running", "what is at work is left to itself"


def test_a_finished_run_is_done_until_another_evaluation_is_wanted(tiny_sweep: Small, queue: Queue) -> None:
    say(tiny_sweep, "submitted", "started", "finished")
    tiny_sweep.folder.run(tiny_sweep.runs[0].run_id).result.write_text("x")
    assert one(tiny_sweep).state == "done"
    say(tiny_sweep, "finished", evaluations="[]")
    assert one(tiny_sweep).state == "new"


def test_a_run_that_ends_while_the_queue_is_asked_is_not_taken_for_dead(
    tiny_sweep: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(tiny_sweep, "submitted", "started")

    def ends(names: Sequence[str]) -> Queue:
        tiny_sweep.folder.run(tiny_sweep.runs[0].run_id).result.write_text("x")
        say(tiny_sweep, "finished")
        return {}

    monkeypatch.setattr(slurm, "queue", ends)
    assert one(tiny_sweep).state == "done"


def test_a_slurm_that_does_not_answer_leaves_its_runs_unknown(
    tiny_sweep: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(tiny_sweep, "submitted", "started")

    def silent(names: Sequence[str]) -> Queue:
        raise slurm.SlurmError("squeue did not answer")

    monkeypatch.setattr(slurm, "queue", silent)
    found = statuses(tiny_sweep.folder, tiny_sweep.runs)
    assert [status.state for status in found] == ["unknown", *["new"] * 9]
    assert found[0].detail == "squeue did not answer"


def test_what_a_user_wants_to_know(tiny_sweep: Small, queue: dict[tuple[str, int], slurm.Job]) -> None:
    say(tiny_sweep, "submitted", "started", "stopped", "started", "stopped", "started")
    queue["t", 4] = slurm.Job("9_4", "RUNNING", "None")
    status = one(tiny_sweep)
    assert (status.preempted, status.job_id, status.log, status.out, status.detail) == (2, "9_4", "e", "o", "")
    queue.clear()
    say(tiny_sweep, "failed")
    assert one(tiny_sweep).detail == "ValueError: no"
    say(tiny_sweep, "submitted")
    assert one(tiny_sweep).detail == ""
    queue["t", 4] = slurm.Job("9_4", "PENDING", "Resources")
    assert one(tiny_sweep).detail == "Resources"


def test_a_local_run_lives_as_long_as_its_process(tiny_sweep: Small) -> None:
    say(tiny_sweep, "submitted", cluster="local")
    assert one(tiny_sweep).state == "queued"
    say(tiny_sweep, "started")
    assert one(tiny_sweep).state == "running"
    say(tiny_sweep, "started", born=0.0)
    assert one(tiny_sweep).state == "died"


def test_progress_and_eta_come_from_the_end_of_the_log(
    tiny_sweep: Small, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_sweep.runs[0]
    folder = tiny_sweep.folder.run(run.run_id)
    say(tiny_sweep, "submitted", "started", step=2)
    assert advance(folder, one(tiny_sweep)).step == 0
    lines = [{"group": "training", "step": step, "raw_v": step / 10, "raw_u": float("nan")} for step in range(1, 9)]
    long = {"group": "gram", "step": 8, "dataset": "x" * 100_000}
    text = "\n".join(json.dumps(line) for line in [*lines, long]) + '\n{"group": "training", "st'
    folder.log.write_text(text)
    started = one(tiny_sweep).events[-1]["time"]
    os.utime(folder.log, (started + 3, started + 3))
    monkeypatch.setattr("time.time", lambda: started + 3.5)
    at = advance(folder, one(tiny_sweep))
    assert (at.step, at.num_steps, at.raw_v) == (8, 12, 0.8)
    # 6 steps of this attempt took 3 s, 4 are left; half a second ago the log moved
    assert at.eta_seconds == pytest.approx(1.5, abs=1e-3)


def test_wrong_clocks_and_damaged_logs_make_no_progress_up(tiny_sweep: Small, queue: Queue) -> None:
    folder = tiny_sweep.folder.run(tiny_sweep.runs[0].run_id)
    say(tiny_sweep, "submitted", "started", time=time.time() + 86_400)
    lines = ('{"group": "training", "step": 3, "raw_v": "x"}', '{"group": "training", "step": "4"}')
    folder.log.write_bytes("\n".join(lines).encode() + b'\n{"group": "training", "step": 5, "raw_v": \xff1}\n')
    at = advance(folder, one(tiny_sweep))
    assert (at.step, at.raw_v, at.eta_seconds) == (3, None, None)


def test_runs_that_nobody_asks_for_are_stale(tiny_sweep: Small) -> None:
    run = tiny_sweep.runs[0]
    other = with_values(run.config, {"seed": 77})
    for config in (run.config, other):
        folder = tiny_sweep.folder.run(config.run_id)
        folder.path.mkdir(parents=True)
        folder.config.write_text("{}")
    (tiny_sweep.folder.jobs).mkdir()
    assert stale(tiny_sweep.folder, tiny_sweep.runs) == [other.run_id]
