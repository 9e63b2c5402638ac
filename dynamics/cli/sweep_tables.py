"""What the commands print."""

import socket
import sys
from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dynamics.planning.resources import Resources, device_hours
from dynamics.sweep import slurm
from dynamics.sweep.collect import Collected
from dynamics.sweep.grid import Experiment, Planned
from dynamics.sweep.status import Status, advance
from dynamics.sweep.submit import ClusterOptions
from dynamics.sweep.sweep_folder import SweepFolder

WIDTH = 160
"""Columns where the output is no terminal."""
ROWS = 60
"""Runs that a status table shows one by one."""
COLOURS = {"done": "green", "running": "cyan", "queued": "blue"} | dict.fromkeys(
    ("held", "failed", "died", "damaged"), "red"
)


def console() -> Console:
    """Return the console of standard output."""
    return Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)


def plan_table(experiment: Experiment, scale: str, runs: Sequence[Planned], resources: Resources) -> RenderableType:
    """Return the grid: one row a run, with its cost, and the sum."""
    axes = list(runs[0].knobs)
    table = Table("run", *axes, "role", "starts from", "steps", "device-hours", title=f"{experiment.name}, {scale}")
    hours = [device_hours(run.config, resources) for run in runs]
    for run, cost in zip(runs, hours, strict=True):
        labels = (str(run.knobs[axis]) for axis in axes)
        first = run.first.run_id if run.first else ""
        table.add_row(
            run.run_id, *map(escape, labels), run.role, first, f"{run.config.training.num_steps:,}", f"{cost:.3g}"
        )
    device = "GPU" if resources.gpus else "CPU core"
    note = (
        f"{experiment.question}\n{len(runs)} runs, {sum(hours):.3g} device-hours, estimated from multiply-adds at "
        f"{resources.gflops:g} Gmadd/s on each {device}, without measuring and evaluating. Nothing has been started."
    )
    return Group(table, Text(note))


def measured_hours(found: Sequence[Status]) -> float | None:
    """Return the hours that a finished run of a sweep took on average, first attempt to end; None if none is done."""
    spans: list[float] = []
    for status in found:
        starts = [event["time"] for event in status.events if event["kind"] == "started"]
        if status.state == "done" and starts:
            spans.append(status.events[-1]["time"] - starts[-1])
    spans = [span for span in spans if span > 0]  # else a clock was wrong
    return sum(spans) / len(spans) / 3600 if spans else None


def where_text(options: ClusterOptions, scale: Resources) -> str:
    """Say where runs go and what each gets.

    Example:
        >>> where_text(ClusterOptions(cluster="slurm", partition="gpu", cpus=2), Resources())
        'on Slurm, partition gpu, 2 cores each'
    """
    if options.cluster == "debug":
        return "in this process, one after another"
    resources = options.resources(scale)
    parts = [f"on this machine ({socket.gethostname()})"]
    if options.cluster == "slurm":
        named = {"partition": options.partition, "account": options.account, "qos": options.qos}
        named |= options.additional()
        parts = ["on Slurm", *(f"{name} {value}" for name, value in named.items() if value is not None)]
    counts = {"nodes": resources.nodes, "processes a node": resources.tasks}
    parts += [f"{number} {what}" for what, number in counts.items() if number > 1]
    parts += [f"{resources.gpus} GPUs a node"] if resources.gpus else []
    cores = f"{resources.cpus} core{'s' if resources.cpus > 1 else ''}"
    return ", ".join([*parts, f"{cores} {'a process' if resources.tasks > 1 else 'each'}"])


def status_table(sweep: SweepFolder, found: Sequence[Status], stale: Sequence[str], everything: bool) -> RenderableType:
    """Return the counts, and one row for each run that is not done (or for all)."""
    counts = Counter(status.state for status in found)
    summary = Text(f"{sweep.experiment}, {sweep.scale}: {len(found)} runs: ")
    summary.append(", ".join(f"{number} {state}" for state, number in counts.most_common()))
    rows = [status for status in found if everything or status.state not in ("done", "new")]
    shown = rows if everything else rows[:ROWS]
    table = Table("run", "knobs", "state", "step", "ETA", "raw v", "raw u", "preempted", "job", "detail")
    for status in shown:
        table.add_row(*_row(sweep, status))
    parts: list[RenderableType] = [summary]
    if shown:
        parts.append(table)
    if len(shown) < len(rows):
        parts.append(Text(f"{len(rows) - len(shown)} more such runs: --all"))
    parts.extend(Text(f"log of {s.run.run_id}: {s.log}") for s in shown if s.state in ("failed", "died") and s.log)
    if stale:
        parts.append(
            Text(f"{len(stale)} stale runs on the disk, which the experiment no longer asks for: {names(stale)}")
        )
    return Group(*parts)


def collected_text(collected: Collected, runs: Sequence[Planned]) -> str:
    """Say what was collected, and what is missing and why."""
    knobs: Mapping[str, str] = {run.run_id: " ".join(f"{k}={v}" for k, v in run.knobs.items()) for run in runs}
    lines = [f"{collected.num_runs} of {len(runs)} runs in {collected.path or 'no file'}"]
    lines += [f"missing {run_id} {knobs[run_id]}: {why}" for run_id, why in collected.missing.items()]
    if collected.stale:
        lines.append(f"stale, not merged (the experiment no longer asks for them): {names(collected.stale)}")
    if len(collected.revisions) > 1 or any(name.endswith("+") for name in collected.revisions):
        parts = ", ".join(f"{number} runs from {name}" for name, number in collected.revisions.items())
        lines.append(f"revisions differ or were changed (+): {parts}")
    return "\n".join(lines)


def names(run_ids: Sequence[str]) -> str:
    """List some run ids."""
    return ", ".join(run_ids[:10]) + (f" and {len(run_ids) - 10} more" if len(run_ids) > 10 else "")


def duration(seconds: float | None) -> str:
    """Return a time as h:mm:ss, "" if it is not known.

    Example:
        >>> duration(3725), duration(None)
        ('1:02:05', '')
    """
    if seconds is None:
        return ""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _ending(status: Status) -> str:
    """Say how a run ended that could not say it itself."""
    if status.state != "died":
        return ""
    how = slurm.ending(status.job_id) if status.cluster == "slurm" else ""
    return f"ended without a word{': Slurm says ' + how if how else ''} (killed? out of memory? see its log)"


def _row(sweep: SweepFolder, status: Status) -> tuple[RenderableType, ...]:
    colour = COLOURS.get(status.state, "")
    at = advance(sweep.run(status.run.run_id), status)
    knobs = " ".join(f"{name}={label}" for name, label in status.run.knobs.items())
    losses = ("" if raw is None or raw != raw else f"{raw:.3g}" for raw in (at.raw_v, at.raw_u))
    running = status.state == "running"
    return (
        status.run.run_id,
        escape(knobs),
        Text(status.state, style=colour),
        f"{at.step:,}/{at.num_steps:,}" if at.step else "",
        duration(at.eta_seconds) if running else "",
        *losses,
        f"{status.preempted}x" if status.preempted else "",
        status.job_id,
        escape((status.detail or _ending(status))[:200]),
    )
