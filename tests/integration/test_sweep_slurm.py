"""Sweeps on a real Slurm: whatever happens to a job, its run ends as an undisturbed one does."""

import contextlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ranks import on_ranks
from slurm_cluster import Slurm
from sweeps._held import held
from sweeps._sweep import Small, same_results, small

from dynamics.cli.experiments import main
from dynamics.evaluation.fid import FidOptions
from dynamics.instruments import CellsOptions, GapsOptions
from dynamics.planning.resources import RESOURCES
from dynamics.store import open_results
from dynamics.sweep import slurm as queries
from dynamics.sweep.events import events
from dynamics.sweep.grid import Planned, experiment, plan
from dynamics.sweep.machine_files import remembered
from dynamics.sweep.status import Status, statuses
from dynamics.sweep.submit import ClusterOptions, submit_slurm
from dynamics.sweep.sweep_folder import SweepFolder
from experiments import final_model

DIGITS = RESOURCES["digits"]
Undisturbed = Callable[[str, Planned], Path]


class Watched(Small):
    """A sweep on a cluster."""

    def status(self, run: Planned) -> Status:
        return statuses(self.folder, [run])[0]

    def states(self, *runs: Planned) -> list[str]:
        return [status.state for status in statuses(self.folder, runs or self.runs)]

    def submit(self, *runs: Planned, hold: Path | None = None, **options: object) -> list[str]:
        """Submit runs, which last until `hold` is removed; return the numbers of the jobs."""
        chosen = ClusterOptions.model_validate({"cluster": "slurm", **options})
        with held(hold) if hold else contextlib.nullcontext():
            return submit_slurm(self.folder, runs or self.runs, chosen, DIGITS)

    def records(self, run: Planned) -> int:
        log = self.folder.run(run.run_id).log
        return log.read_text().count("raw_v") if log.exists() else 0

    def kinds(self, run: Planned) -> list[str]:
        return [event["kind"] for event in events(self.folder.run(run.run_id).path)]

    def path(self, run: Planned) -> Path:
        return self.folder.run(run.run_id).path


def watched(name: str, results: Path) -> Watched:
    sweep = small(name, results)
    return Watched(sweep.experiment, sweep.runs, sweep.folder)


def until(slurm: Slurm, condition: Callable[[], bool], what: str, seconds: float = 240) -> None:
    slurm.wait_until(condition, seconds, what)


def at_work(slurm: Slurm, sweep: Watched, run: Planned, more: int = 2) -> None:
    """Wait until a run has gone some steps further."""
    least = sweep.records(run) + more
    until(slurm, lambda: sweep.records(run) >= least, f"{least} records of {run.knobs}")


def interrupt(slurm: Slurm, sweep: Watched, run: Planned) -> None:
    """Preempt a run as a cluster does that signals submitit: SIGTERM, and after its checkpoint SIGUSR2."""
    job_id, checkpoints = sweep.status(run).job_id, sweep.folder.run(run.run_id).checkpoints()
    before = max(checkpoints.steps(), default=0)
    slurm.signal(job_id, "TERM")
    until(slurm, lambda: max(checkpoints.steps(), default=0) > before, "the checkpoint after SIGTERM")
    slurm.signal(job_id, "USR2")


@pytest.mark.usefixtures("forked_jobs")
def test_every_fault_at_once_and_all_runs_come_out_undisturbed(
    slurm: Slurm, undisturbed: Undisturbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep, hold = watched("slow", tmp_path / "results"), tmp_path / "hold"
    most = sweep.runs[:5]  # the others are for other tests
    raises, killed, preempted, cancelled, timed_out = most
    sweep.path(raises).mkdir(parents=True)
    (sweep.path(raises) / "log.jsonl").write_text("half a line of another program\n")
    # Slurm signals 30 s after the start. It goes first, alone: a signal that comes while Python still starts ends the
    # process, as it would with any program. Where a busy machine takes that long to start, it gets another minute, and
    # its second start gets more time in any case
    for minutes in (1, 2, 3):
        sweep.submit(timed_out, hold=hold, timeout=minutes, signal_delay=30)
        until(slurm, lambda: sweep.records(timed_out) >= 2 or not slurm.states(), "a start or an early end")
        if slurm.states():
            break
    sweep.submit(*most, hold=hold, timeout=10)
    assert sweep.submit(*most) == [], "what is queued or runs is not submitted twice"

    at_work(slurm, sweep, killed)
    os.kill(events(sweep.path(killed))[-1]["pid"], signal.SIGKILL)
    at_work(slurm, sweep, preempted)
    job = sweep.status(preempted).job_id
    interrupt(slurm, sweep, preempted)
    at_work(slurm, sweep, cancelled)
    main("sweeps", ["slow", "cancel", "--only", cancelled.run_id, "--results", str(sweep.folder.results)])
    until(slurm, lambda: "stopped" in sweep.kinds(timed_out), "the signal of the time limit")
    until(
        slurm,
        lambda: sweep.states(timed_out) == ["queued"] or sweep.kinds(timed_out).count("started") == 2,
        "its return",
    )
    slurm.ask("scontrol", "update", f"jobid={sweep.status(timed_out).job_id}", "timelimit=10")
    until(slurm, lambda: sweep.kinds(preempted).count("started") == 2, "the first return")
    at_work(slurm, sweep, preempted)
    interrupt(slurm, sweep, preempted)
    until(slurm, lambda: sweep.kinds(preempted).count("stopped") == 2, "the second stop")
    hold.unlink()
    until(slurm, lambda: not slurm.states(), "the end of all jobs")

    assert sweep.states(*most) == ["failed", "died", "done", "cancelled", "done"]
    assert sweep.status(preempted).preempted == 2
    assert sweep.status(preempted).job_id == job
    assert sweep.status(timed_out).preempted >= 1
    capsys.readouterr()
    main("sweeps", ["slow", "status", "--results", str(sweep.folder.results)])
    shown = capsys.readouterr().out
    for text in ("2 done", "1 failed", "1 died", "1 cancelled", "ended without a word: Slurm says FAILED", "log of"):
        assert text in shown, shown

    main("sweeps", ["slow", "retry", "--cluster", "slurm", "--results", str(sweep.folder.results)])
    until(slurm, lambda: not slurm.states(), "the end of what was retried")
    main("sweeps", ["slow", "collect", "--results", str(sweep.folder.results)])
    assert "5 of 8 runs" in capsys.readouterr().out
    assert open_results(sweep.folder.merged)["training"].sizes["run"] == 5
    for run in most:
        same_results(sweep.path(run), undisturbed("slow", run))


def test_a_genuine_preemption_by_a_job_of_higher_priority(
    slurm: Slurm, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """SIGTERM, the time of grace, SIGKILL, and Slurm itself queues the job again; at last the job does.

    Here each start is a Python of its own, a child of Slurm, as users have it.
    """
    sweep, hold = watched("slow", tmp_path / "results"), tmp_path / "hold"
    run = sweep.runs[6]
    sweep.submit(run, hold=hold, partition="low")
    at_work(slurm, sweep, run)
    slurm.ask("sbatch", "--partition=high", "--cpus-per-task=8", "--output=/dev/null", "--wrap=sleep 1")
    until(slurm, lambda: sweep.status(run).state == "queued", "the preemption")
    at_work(slurm, sweep, run)
    interrupt(slurm, sweep, run)
    hold.unlink()
    before = sweep.records(run)
    until(slurm, lambda: sweep.status(run).state == "done", "the end")
    assert sweep.status(run).preempted == 2
    assert sweep.kinds(run) == ["submitted", "started", "started", "stopped", "started", "finished"]
    assert events(sweep.path(run))[2]["step"] > 0, f"resumed from a checkpoint, not from the start, of {before} steps"
    same_results(sweep.path(run), undisturbed("slow", run))


@pytest.mark.usefixtures("forked_jobs")
def test_a_run_waits_for_the_one_it_starts_from(
    slurm_with_accounting: Slurm, undisturbed: Undisturbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm, sweep = slurm_with_accounting, watched("tiny", tmp_path)
    first = next(run for run in sweep.runs if run.role == "before")
    children = [run for run in sweep.runs if run.first is first]
    # the first run fails: those that wait for it do not wait for ever
    sweep.path(first).mkdir(parents=True)
    (sweep.path(first) / "log.jsonl").write_text("damage\n")
    with slurm.closed("main"):
        only, where = [run.run_id for run in (first, *children)], ["--results", str(sweep.folder.results)]
        main("sweeps", ["tiny", "submit", "--cluster", "slurm", "--partition", "main", *where, "--only", *only])
        assert sweep.states(*children) == ["queued", "queued"]
        until(slurm, lambda: sweep.status(children[0]).detail == "Dependency", "Slurm's word on why they wait")
    until(slurm, lambda: not slurm.states(), "the end of the first try")
    assert sweep.states(first, *children) == ["failed", "new", "new"]
    assert queries.ending(sweep.status(first).job_id) == "FAILED"

    # retry goes where the sweep went before, and releases what is held
    with slurm.closed("main"):
        capsys.readouterr()
        main("sweeps", ["tiny", "retry", *where])
        assert "1 runs on Slurm, partition main, 1 core each" in capsys.readouterr().out
        job = sweep.status(first).job_id
        slurm.ask("scontrol", "hold", job)
        until(slurm, lambda: sweep.states(first) == ["held"], "Slurm's word that it is held")
        assert f"scontrol release {job}" in sweep.status(first).detail
        main("sweeps", ["tiny", "retry", *where])
        assert f"released: jobs {job}" in capsys.readouterr().out
        until(slurm, lambda: sweep.states(first) == ["queued"], "its release")
    # its children are submitted while it is queued or runs
    sweep.submit(*children)
    until(slurm, lambda: not slurm.states(), "the end of the second try")
    assert sweep.states(first, *children) == ["done", "done", "done"]
    for run in (first, *children):
        same_results(sweep.path(run), undisturbed("tiny", run))


@pytest.mark.usefixtures("forked_jobs")
def test_two_processes_train_one_run_and_are_preempted_together(
    slurm: Slurm, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    sweep, twin, hold = watched("slow", tmp_path / "slurm"), watched("slow", tmp_path / "twin"), tmp_path / "hold"
    run = sweep.runs[0]
    sweep.submit(run, hold=hold, tasks=2)
    at_work(slurm, sweep, run)
    interrupt(slurm, sweep, run)
    hold.unlink()
    # the twin: two forked processes, which no cluster ever stops
    on_ranks(run.config, twin.path(run))
    twin.do(run)  # it is trained, and is evaluated
    until(slurm, lambda: not slurm.states(), "the end")
    assert sweep.states(run) == ["done"]
    kinds = ["submitted", "started", "stopped", "started", "finished"]
    assert sweep.kinds(run) == kinds, events(sweep.path(run))
    same_results(sweep.path(run), twin.path(run))
    assert open_results(sweep.path(run)).attrs["world_size"] == 2
    both, one = (open_results(path)["training"].raw_u.values for path in (sweep.path(run), undisturbed("slow", run)))
    assert torch.from_numpy(both[:20]).allclose(torch.from_numpy(one[:20]), rtol=1e-4)


@pytest.mark.usefixtures("forked_jobs")
@pytest.mark.filterwarnings("ignore:.*not 6726825d")
def test_the_final_model_from_images_to_the_report(
    slurm: Slurm, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encode, train both schedules on two ranks each, preempt one, FID on both ranks, collect, report."""
    few = FidOptions(nfe=(1, 2), num_samples=10, batch_size=5)  # a batch a rank: Inception is most of the work
    monkeypatch.setattr("experiments.final_model.evaluation", lambda scale: [few])
    small = {"training.batch_size": 16, "observers": (GapsOptions(every=30, rows_per_bin=4), CellsOptions())}
    for name, value in small.items():
        monkeypatch.setitem(final_model.SMALL, name, value)
    where, hold = ["--results", str(tmp_path)], tmp_path / "hold"
    with held(hold):
        main("experiments", ["final_model", "submit", "--cluster", "slurm", "--tasks", "2", "--timeout", "10", *where])
    which, folder = experiment("experiments", "final_model"), SweepFolder(tmp_path, "final_model", "digits")
    sweep = Watched(which, plan(which, "digits", remembered(folder)), folder)
    meanflow, improved = sweep.runs
    at_work(slurm, sweep, meanflow)
    interrupt(slurm, sweep, meanflow)
    hold.unlink()
    until(slurm, lambda: not slurm.states(), "the end of both")
    assert sweep.states() == ["done", "done"]
    assert sweep.kinds(meanflow) == ["submitted", "started", "stopped", "started", "finished"]
    assert sweep.kinds(improved) == ["submitted", "started", "finished"]
    for run in sweep.runs:
        tree = open_results(sweep.path(run))
        assert tree.attrs["world_size"] == 2
        assert tree["fid"].sizes["nfe"] == 2
        assert tree["fid"].fid_inception.notnull().all()
        assert json.loads((sweep.path(run) / "heartbeat.json").read_text())["step"] == 60
    main("experiments", ["final_model", "collect", *where])
    main("experiments", ["final_model", "report", *where])
    assert "2 of 2 runs" in capsys.readouterr().out
    assert open_results(folder.merged)["fid"].sizes["run"] == 2
    report = (folder.path / "report" / "report.md").read_text()
    for text in (
        "| FID, u, NFE 1 |",
        "Differences against meanflow",
        "Latents have no exact errors",
        "samples_decoded.png",
    ):
        assert text in report


@pytest.mark.usefixtures("forked_jobs")
def test_a_silent_controller_changes_nothing(slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, hold = watched("slow", tmp_path / "results"), tmp_path / "hold"
    run = sweep.runs[7]
    sweep.submit(run, hold=hold)
    at_work(slurm, sweep, run)
    monkeypatch.setattr(queries, "SECONDS", 3)
    with slurm.without_controller():
        assert sweep.states(run, sweep.runs[0]) == ["unknown", "new"]
        with pytest.raises(queries.SlurmError, match=r"unknown what runs|did not answer"):
            sweep.submit()
    hold.unlink()
    until(slurm, lambda: sweep.states(run) == ["done"], "the end of the run, which noticed nothing")


@pytest.mark.usefixtures("forked_jobs")
def test_a_submitter_that_dies_right_after_sbatch_leaves_jobs_that_are_known(slurm: Slurm, tmp_path: Path) -> None:
    from submitit import SlurmExecutor

    sweep = watched("tiny", tmp_path)
    runs = sweep.runs[2:4]
    pid = os.fork()
    if pid == 0:
        submit = SlurmExecutor._submit_command

        def dying(self: SlurmExecutor, command: str) -> object:
            submit(self, command)
            os.kill(os.getpid(), signal.SIGKILL)
            return None

        SlurmExecutor._submit_command = dying
        # they wait: at their start they would fail, since their folders were still to be made
        sweep.submit(*runs, sbatch=("begin=now+1hour",))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert sweep.states(*runs) == ["queued", "queued"]
    assert sweep.submit(*runs) == []
    main("sweeps", ["tiny", "cancel", "--results", str(sweep.folder.results)])
    until(slurm, lambda: not slurm.states(), "the end of the orphans")
    assert len(sweep.submit(*runs)) == 1
    until(slurm, lambda: not slurm.states(), "the end")
    assert sweep.states(*runs) == ["done", "done"]


def test_a_refused_submission_says_why(slurm: Slurm, tmp_path: Path) -> None:
    sweep = watched("tiny", tmp_path)
    with pytest.raises(queries.SlurmError, match=r"not submitted: .*[Pp]artition"):
        sweep.submit(sweep.runs[2], partition="nowhere")
    assert "Invalid partition" in sweep.status(sweep.runs[2]).detail
