"""Runs on this machine: as many processes at a time as its cores allow, forked from one that is warm."""

import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial

import submitit
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dynamics import progress_bar
from dynamics.options import invalid
from dynamics.planning.resources import Resources
from dynamics.sweep.events import events, record
from dynamics.sweep.grid import Planned, with_firsts
from dynamics.sweep.status import ACTIVE, Status, advance, statuses
from dynamics.sweep.submit import ClusterOptions, startable, submit_one
from dynamics.sweep.sweep_folder import SweepFolder
from dynamics.sweep.warm import Forked, WarmProcess
from dynamics.training import threads_for

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 60
"""How long runs that were asked to stop may take for their checkpoints before they are killed."""


def run_here(sweep: SweepFolder, runs: Sequence[Planned], options: ClusterOptions, scale: Resources) -> None:
    """Do every run that can be started, on this machine, and return when all have ended.

    Ctrl-C asks the running ones for a checkpoint; the same command continues. If this process dies, the running ones
    finish by themselves.

    Raises:
        KeyboardInterrupt: Ctrl-C, after every run has written its checkpoint.
    """
    runs = with_firsts(runs)
    found = statuses(sweep, runs)
    if options.cluster == "debug":
        executor = submitit.DebugExecutor(folder=str(sweep.jobs.absolute() / "%j"))
        for run in startable(found):
            job = submit_one(sweep, "debug", executor.submit, run)
            if job is not None:
                job.result()
        return
    going = startable(found)
    with _Display(sweep, len(runs), sum(status.state == "done" for status in found)) as display:
        if going:
            _run_all(_Pool(sweep, going, options, scale), display)


def _run_all(pool: "_Pool", display: "_Display") -> None:
    try:
        while pool.waiting or pool.running:
            pool.fill()
            for run in pool.reap():
                display.ended(statuses(pool.sweep, [run])[0])
            display.refresh([run for run, _ in pool.running.values()])
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        display.say("stopping: each run writes its checkpoint")
        pool.stop()
        raise
    finally:
        pool.warm.close()


def places(options: ClusterOptions, resources: Resources, runs: Sequence[Planned]) -> list[tuple[int, ...]]:
    """Return the GPUs of each run that this machine can do at a time; none where runs use no GPU.

    Raises:
        ValueError: A run asks for more GPUs than there are.
    """
    if not resources.gpus:
        threads = max((threads_for(run.config.training) for run in runs), default=1)
        cores = resources.tasks * max(threads, resources.cpus)
        return [()] * (options.parallelism or max((os.cpu_count() or 1) // cores, 1))
    there = torch.cuda.device_count()
    if resources.gpus > there:
        raise invalid("gpus", resources.gpus, f"up to the {there} of this machine", "--gpus 0, or --cluster slurm")
    groups = [tuple(range(i, i + resources.gpus)) for i in range(0, there - resources.gpus + 1, resources.gpus)]
    return groups[: options.parallelism]


class _Pool:
    """The runs that wait and those that run."""

    def __init__(self, sweep: SweepFolder, runs: Sequence[Planned], options: ClusterOptions, scale: Resources) -> None:
        self.sweep, self.waiting = sweep, list(runs)
        self.running: dict[str, tuple[Planned, Forked]] = {}
        resources = options.resources(scale)
        self.warm, self.ranks = WarmProcess(sweep.jobs), resources.tasks
        self.free = places(options, resources, runs)
        self.taken: dict[str, tuple[int, ...]] = {}
        self.heard = {run.run_id: len(events(sweep.run(run.run_id).path)) for run in runs}

    def fill(self) -> None:
        """Start what can be started now; a run waits for the one it starts from."""
        states: dict[str, str] = {}
        for run in list(self.waiting):
            if not self.free:
                return
            if self._cancelled(run):
                self.waiting.remove(run)
                continue
            if run.first is not None:
                name = run.first.run_id
                state = states[name] = states.get(name) or statuses(self.sweep, [run.first])[0].state
                if state in ACTIVE or run.first in self.waiting:
                    continue
                if state != "done":  # nobody will do it: it failed, and status says so
                    self.waiting.remove(run)
                    continue
            self.waiting.remove(run)
            start = partial(self.warm.start, ranks=self.ranks, gpus=self.free[0])
            job = submit_one(self.sweep, "local", start, run)
            if job is not None:
                self.running[run.run_id] = (run, job)
                self.taken[run.run_id] = self.free.pop(0)

    def reap(self) -> list[Planned]:
        """Return the runs that have ended since the last call."""
        ended = [(run, job) for run, job in self.running.values() if job.done()]
        for run, job in ended:
            del self.running[run.run_id]
            self.free.append(self.taken.pop(run.run_id))
            folder = self.sweep.run(run.run_id).path
            if [event["kind"] for event in events(folder)][-1:] == ["submitted"]:
                record(folder, "failed", error=f"the process ended before the run began; see {job.log}")
        return [run for run, _ in ended]

    def stop(self) -> None:
        """Ask every run for a checkpoint, and wait for it."""
        until = time.monotonic() + PATIENCE_SECONDS
        while self.running and time.monotonic() < until:
            for _, job in self.running.values():  # again and again: who does not train yet does not hear
                _signal(job.pid, signal.SIGTERM)
            time.sleep(0.2)
            self.reap()
        for _, job in self.running.values():
            with suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)  # all its ranks

    def _cancelled(self, run: Planned) -> bool:
        diary = events(self.sweep.run(run.run_id).path)
        return len(diary) > self.heard[run.run_id] and diary[-1]["kind"] == "cancelled"


class _Display:
    """One bar over all runs and one for each that runs; a line now and then where there is no terminal."""

    def __init__(self, sweep: SweepFolder, total: int, done: int) -> None:
        self.sweep, self.console = sweep, Console(stderr=True)
        self.next_line = time.monotonic() + progress_bar.SECONDS
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=self.console, disable=not sys.stderr.isatty())
        self.all = self.progress.add_task("all runs", total=total, completed=done)
        self.bars: dict[str, TaskID] = {}

    def __enter__(self) -> "_Display":
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def refresh(self, running: Sequence[Planned]) -> None:
        if self.progress.disable:
            if running and time.monotonic() >= self.next_line:
                self.next_line = time.monotonic() + progress_bar.SECONDS
                whole = self.progress.tasks[0]
                told = ", ".join(map(self._how_far, running))
                self.say(f"{whole.completed:.0f} of {whole.total:.0f} runs done; {told}")
            return
        for run in running:
            if run.run_id not in self.bars:
                self.bars[run.run_id] = self.progress.add_task(run.run_id, total=run.config.training.num_steps)
            at = advance(self.sweep.run(run.run_id), Status(run, "running", ()))
            losses = " ".join(f"{k}={x:.3g}" for k, x in (("v", at.raw_v), ("u", at.raw_u)) if x is not None and x == x)
            self.progress.update(self.bars[run.run_id], completed=at.step, description=f"{run.run_id} {losses}")

    def _how_far(self, run: Planned) -> str:
        folder = self.sweep.run(run.run_id)
        at = advance(folder, Status(run, "running", events(folder.path)))
        left = "" if at.eta_seconds is None else f", {timedelta(seconds=round(at.eta_seconds))} left"
        return f"{run.run_id} at step {at.step} of {at.num_steps}{left}"

    def ended(self, status: Status) -> None:
        bar = self.bars.pop(status.run.run_id, None)
        if bar is not None:
            self.progress.remove_task(bar)
        if status.state == "done":
            self.progress.advance(self.all)
        knobs = " ".join(f"{k}={v}" for k, v in status.run.knobs.items())
        self.say(f"{status.run.run_id} {status.state:9} {knobs}  {status.detail}".rstrip())

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def stop_here(status: Status) -> None:
    """Ask a run on this machine for a checkpoint and its end.

    Raises:
        ValueError: It runs on another machine.
    """
    newest = status.events[-1]
    if newest["host"] != socket.gethostname():
        raise invalid("cancel", f"a run on {newest['host']}", "runs of this machine", f"cancel it on {newest['host']}")
    if newest["kind"] == "started":  # one that is only submitted sees the diary before it starts
        _signal(newest["pid"], signal.SIGTERM)


def _signal(pid: int, number: signal.Signals) -> None:
    # submitit's own cancel sends SIGINT and kills a second later: too soon for a checkpoint
    try:
        os.kill(pid, number)
    except ProcessLookupError:  # it has just ended
        return
