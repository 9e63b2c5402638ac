"""What `python -m experiments EXPERIMENT VERB` does: one function a verb."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.live import Live

from dynamics.analysis import write_study_report
from dynamics.cli.start_runs import PROGRAM, Sweep, start_runs
from dynamics.cli.sweep_tables import collected_text, console, duration, measured_hours, plan_table, status_table
from dynamics.cli.until_decided import submit_until_decided
from dynamics.options import invalid
from dynamics.store import read_groups
from dynamics.sweep import slurm
from dynamics.sweep.collect import collect_sweep, merged_runs, set_aside
from dynamics.sweep.events import record
from dynamics.sweep.grid import Planned, check_plan, select, with_firsts
from dynamics.sweep.local import stop_here
from dynamics.sweep.machine_files import Files
from dynamics.sweep.seeds_begun import seeds_begun
from dynamics.sweep.status import ACTIVE, stale, statuses
from dynamics.sweep.submit import ClusterOptions, destination
from dynamics.sweep.sweep_folder import SweepFolder


@dataclass(frozen=True)
class Where:
    """Which sweep."""

    scale: str = "digits"
    """Size of the study: digits, digits-dit, mnist5k, testbed or testbed-mlp (laptop), b4 or xl2 (cluster)."""
    results: Path = Path("results")
    """Folder of all results."""


@dataclass(frozen=True)
class WithFiles(Where):
    """Which sweep, and with which files."""

    files: Annotated[Files, tyro.conf.arg(name="")] = field(default_factory=Files)
    """What the scale needs and only this machine knows."""


@dataclass(frozen=True)
class GridArgs(WithFiles):
    """Show the grid, run ids and device-hours; nothing is started."""


@dataclass(frozen=True)
class StartArgs(WithFiles):
    """Which runs are started, and where."""

    only: tuple[str, ...] = ()
    """Run ids, or their first letters; the runs they start from come along."""
    to: Annotated[ClusterOptions, tyro.conf.arg(name="")] = field(default_factory=ClusterOptions)
    """Where runs go and what they get."""


@dataclass(frozen=True)
class SubmitArgs(StartArgs):
    """Start every run that is neither done nor running; the same command again continues."""

    until_decided: bool = False
    """Judge the claims after 5, 10, 15, ... seeds, and begin further seeds of the arms that undecided claims compare,
    until all are decided or --max-seeds are there. On Slurm too this waits for the runs between two looks."""
    max_seeds: int | None = None
    """Seeds of an arm at most, fixed before the first look: 32 if it is left out."""


@dataclass(frozen=True)
class RetryArgs(StartArgs):
    """Set damaged files aside, start again what failed, died, was cancelled or is damaged, release what is held."""


@dataclass(frozen=True)
class StatusArgs(Where):
    """Show what is queued, running (step, ETA, raw losses), done, failed (last error, log) and preempted."""

    watch: bool = False
    """Refresh until nothing is queued or running; Ctrl-C leaves, and changes nothing."""
    every: float = 5.0
    """Seconds between refreshes."""
    all: bool = False
    """Also list the runs that are done or new."""


@dataclass(frozen=True)
class CollectArgs(Where):
    """Merge every finished run into RESULTS/EXPERIMENT/SCALE.nc, and say what is missing and why."""

    out: Path | None = None
    """Another file to write."""
    replace: bool = False
    """Overwrite a merged file even if it holds runs that are not on this disk."""
    small: bool = False
    """Write what fits into a repository: single precision, every twentieth training step, one picture a class."""


@dataclass(frozen=True)
class SweepReportArgs(Where):
    """Write report.md of the finished runs: claims, arms (means over seeds; the first is the baseline) and figures."""

    out: Path | None = None
    """Folder of the report; RESULTS/EXPERIMENT/SCALE/report if left out."""


@dataclass(frozen=True)
class CancelArgs(Where):
    """Stop what is queued or running; running ones write a checkpoint first."""

    only: tuple[str, ...] = ()
    """Run ids, or their first letters."""


@dataclass(frozen=True)
class LogsArgs(Where):
    """Print the end of a run's log."""

    id: tyro.conf.Positional[str] = tyro.MISSING
    """Run id, or its first letters."""
    lines: int = 50
    """How many lines of each stream."""


def show_plan(sweep: Sweep, args: GridArgs) -> None:
    """Print the grid."""
    check_plan(sweep.runs)
    console().print(plan_table(sweep.experiment, sweep.scale, sweep.runs, sweep.resources))
    hours = measured_hours(statuses(sweep.folder, sweep.runs))
    if hours is not None:
        whole = hours * len(sweep.runs)
        print(f"finished runs took {duration(hours * 3600)} each: {whole:.3g} hours one after another")


def submit(sweep: Sweep, args: SubmitArgs) -> None:
    """Start runs, and return when they are queued (Slurm) or have ended (here)."""
    if args.until_decided:
        if args.only:
            raise invalid("only", args.only, "nothing, with --until-decided", "leave one of them out")
        return submit_until_decided(sweep, args.to, args.max_seeds)
    if args.max_seeds is not None:
        raise invalid("max-seeds", args.max_seeds, "nothing, without --until-decided", "add --until-decided")
    runs = select(sweep.runs, args.only)
    check_plan(runs)
    found = statuses(sweep.folder, runs)
    start_runs(sweep, found, *destination(sweep.folder, args.to, sweep.resources, found))


def retry(sweep: Sweep, args: RetryArgs) -> None:
    """Release what is held, set damaged files aside, then submit what did not end well."""
    again = ("failed", "died", "cancelled", "stopped", "damaged")
    runs = select(sweep.runs, args.only)
    check_plan(runs)
    with sweep.folder.submitting():
        found = statuses(sweep.folder, runs)
        held = [status.job_id for status in found if status.state == "held"]
        chosen = [status for status in found if status.state in again]
        to = destination(sweep.folder, args.to, sweep.resources, found) if chosen else None
        slurm.release(held)
        if held:
            print(f"released: jobs {', '.join(held)}")
        for status in chosen:
            try:
                moved = set_aside(sweep.folder, status.run)
            except BlockingIOError:  # it was given up for lost, and works after all
                print(f"{status.run.run_id}: a process still trains it; left alone")
                continue
            if moved:
                print(f"{status.run.run_id}: set aside {', '.join(moved)}")
                record(sweep.folder.run(status.run.run_id).path, "set_aside", files=moved)
    if to is None:
        print("nothing to submit again" if held else "nothing to retry")
        return
    runs = with_firsts([status.run for status in chosen])
    start_runs(sweep, statuses(sweep.folder, runs), *to)


def show_status(sweep: Sweep, args: StatusArgs) -> None:
    """Print one table, or a live one."""

    def look() -> tuple[Any, bool]:
        found = statuses(sweep.folder, sweep.runs)
        table = status_table(sweep.folder, found, stale(sweep.folder, sweep.runs), args.all)
        return table, any(status.state in ACTIVE and status.state != "held" for status in found)

    table, active = look()
    if not (args.watch and active):
        console().print(table)
        return
    try:
        with Live(table, console=console(), auto_refresh=False) as live:
            while active:
                time.sleep(args.every)
                table, active = look()
                live.update(table, refresh=True)
    except KeyboardInterrupt:
        return


def show_collected(sweep: Sweep, args: CollectArgs) -> None:
    """Merge, and list what is missing."""
    found = collect_sweep(sweep.folder, sweep.experiment, sweep.runs, args.out, args.replace, args.small)
    print(collected_text(found, sweep.runs))


def report_sweep(sweep: Sweep, args: SweepReportArgs) -> None:
    """Write the report of the grid's finished runs."""
    grid = [run for run in sweep.runs if run.role == "grid"]
    done = [status.run for status in statuses(sweep.folder, grid) if status.state == "done"]
    if not done:
        remedy = f"{PROGRAM} {sweep.experiment.name} submit --scale {sweep.scale}"
        raise invalid("runs", f"none of {len(grid)} is done", "at least one", remedy)
    out = args.out or sweep.folder.path / "report"
    paths = [sweep.folder.run(run.run_id).result for run in done]
    begun = seeds_begun(sweep.folder)
    contents = [(path, read_groups(path)) for path in paths]
    tree = merged_runs(contents, done, sweep.experiment, sweep.scale, begun)
    made_by = f"submit --until-decided --max-seeds {begun.looks[-1]}" if begun else "submit"
    again = [f"{PROGRAM} {sweep.experiment.name} {verb} --scale {sweep.scale}" for verb in (made_by, "report")]
    print(write_study_report(tree, out, "\n".join(["```", *again, "```"])))
    if len(done) < len(grid):
        print(f"{len(done)} of {len(grid)} runs; see {PROGRAM} {sweep.experiment.name} status --scale {sweep.scale}")


def cancel(sweep: Sweep, args: CancelArgs) -> None:
    """Stop queued and running runs wherever they are."""
    chosen = {run.run_id for run in (_named(sweep.runs, args.only) if args.only else sweep.runs)}
    with sweep.folder.submitting():
        found = statuses(sweep.folder, sweep.runs)
        active = [status for status in found if status.state in ACTIVE and status.run.run_id in chosen]
        unknown = next((status for status in active if status.state == "unknown"), None)
        if unknown is not None:
            raise slurm.SlurmError(unknown.detail)
        on_slurm = [status for status in active if status.cluster == "slurm"]
        slurm.cancel([status.job_id for status in on_slurm])
        for status in active:
            if status.cluster != "slurm":
                stop_here(status)
            record(sweep.folder.run(status.run.run_id).path, "cancelled", job_id=status.job_id)
        if any(status.state in ACTIVE and status.cluster == "local" for status in found):
            for status in found:  # a pool on this machine would start these next
                if status.state == "new" and status.run.run_id in chosen:
                    record(sweep.folder.run(status.run.run_id).path, "cancelled")
    print(f"cancelled {len(active)} runs; submit or retry continues them from their checkpoints")


def show_logs(sweep: Sweep, args: LogsArgs) -> None:
    """Print where a run's logs are, and their ends."""
    status = statuses(sweep.folder, _named(sweep.runs, (args.id,)))[0]
    print(f"{status.run.run_id}: {status.state} {status.detail}".rstrip())
    for event in status.events:
        shown = {k: v for k, v in event.items() if k not in ("kind", "time", "born", "traceback", "evaluations")}
        print(time.strftime("%F %T", time.localtime(event["time"])), event["kind"], shown)
    for stream in filter(None, (status.out, status.log)):
        print(f"--- {stream}")
        print("\n".join(_read_log(sweep.folder, Path(stream)).splitlines()[-args.lines :]))


VERBS: dict[str, tuple[type[Where], Callable[[Sweep, Any], None]]] = {
    "plan": (GridArgs, show_plan),
    "submit": (SubmitArgs, submit),
    "status": (StatusArgs, show_status),
    "collect": (CollectArgs, show_collected),
    "report": (SweepReportArgs, report_sweep),
    "cancel": (CancelArgs, cancel),
    "retry": (RetryArgs, retry),
    "logs": (LogsArgs, show_logs),
}


def _named(runs: Sequence[Planned], only: Sequence[str]) -> list[Planned]:
    """Return exactly the runs that are named, without those they start from."""
    return [run for run in select(runs, only) if any(run.run_id.startswith(start) for start in only)]


def _read_log(sweep: SweepFolder, path: Path) -> str:
    """Return the text of a log that an event names: of no other file of this machine, wherever links lead."""
    if not path.resolve().is_relative_to(sweep.path.resolve()):
        return "(not shown: it is not in the sweep's folder)"
    if not path.is_file():
        return "(not there)"
    try:
        return path.read_text(errors="replace").replace("\r", "\n")
    except OSError as error:
        return f"({error.strerror})"
