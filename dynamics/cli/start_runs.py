"""Start runs of a sweep where it is to go, and say so."""

from collections.abc import Sequence
from dataclasses import dataclass

from dynamics.cli.sweep_tables import console, status_table, where_text
from dynamics.planning.resources import Resources
from dynamics.sweep.grid import Experiment, Planned
from dynamics.sweep.local import places, run_here
from dynamics.sweep.status import Status, statuses
from dynamics.sweep.submit import ClusterOptions, settle, startable, submit_slurm
from dynamics.sweep.sweep_folder import SweepFolder

PROGRAM = "python -m experiments"


@dataclass(frozen=True)
class Sweep:
    """What every command works on."""

    experiment: Experiment
    scale: str
    folder: SweepFolder
    runs: list[Planned]
    resources: Resources


def start_runs(sweep: Sweep, found: Sequence[Status], to: ClusterOptions, before: ClusterOptions | None) -> None:
    """Start what can be started, and return when it is queued (Slurm) or has ended (here).

    Args:
        sweep: The sweep.
        found: States of the runs in question.
        to: Where they go.
        before: Where the sweep went before.

    Raises:
        SystemExit: Runs on this machine did not end well.
    """
    runs = [status.run for status in found]
    _say_skipped(found)
    where, number = where_text(to, sweep.resources), len(startable(found))
    if to.cluster == "local":
        where += f", {min(number, len(places(to, to.resources(sweep.resources), runs)))} at a time"
    if number:
        print(f"{number} runs {where}", flush=True)
    if before is not None and before != to:
        print(f"before: {where_text(before, sweep.resources)}; from now on submit and retry do as said now")
    settle(sweep.folder, to, before)
    if to.cluster == "slurm":
        jobs = submit_slurm(sweep.folder, runs, to, sweep.resources)
        print(f"submitted: jobs {', '.join(jobs)}" if jobs else "nothing to submit")
        print(f"next: {PROGRAM} {sweep.experiment.name} status --scale {sweep.scale} --watch")
        return
    run_here(sweep.folder, runs, to, sweep.resources)
    found = statuses(sweep.folder, runs)
    console().print(status_table(sweep.folder, found, (), False))
    if any(status.state != "done" for status in found):
        raise SystemExit(1)


def _say_skipped(found: Sequence[Status]) -> None:
    going = {run.run_id for run in startable(found)}
    states = [status.state for status in found if status.run.run_id not in going]
    hints = {"damaged": "; `retry` sets their files aside", "held": "; `retry` releases them"}
    for state in dict.fromkeys(states):
        print(f"{states.count(state)} runs are {state} and are left alone{hints.get(state, '')}")
