"""`submit --until-decided`: run, judge the claims, go on with what is undecided, until nothing is or the seeds end."""

import time
from contextlib import suppress
from dataclasses import replace

from dynamics import progress_bar
from dynamics.cli.start_runs import PROGRAM, Sweep, start_runs
from dynamics.cli.sweep_tables import console, duration, measured_hours, status_table
from dynamics.options import invalid
from dynamics.sweep.claims_so_far import Look, look
from dynamics.sweep.grid import check_plan, plan
from dynamics.sweep.machine_files import remembered
from dynamics.sweep.seeds_begun import SeedsBegun, arm_text, begin, seeds_of_axes, went_on
from dynamics.sweep.slurm import SlurmError
from dynamics.sweep.status import ACTIVE, Status, statuses
from dynamics.sweep.submit import ClusterOptions, destination, startable

POLL_SECONDS = 5.0
"""Between two questions whether runs that others do have ended."""


def submit_until_decided(sweep: Sweep, to: ClusterOptions, max_seeds: int | None) -> None:
    """Run the seeds of each look and judge the claims, until all are decided or the seeds end.

    The same command continues: what is done is not run again, and a look that was made finds the same again.

    Args:
        sweep: The sweep, as far as it was begun.
        to: Where runs go, as named on the command line.
        max_seeds: Seeds of an arm at most; None: as before, or 32.

    Raises:
        ValueError: The experiment has no seeds or no claims, or another maximum was fixed before.
        SystemExit: Runs did not end well: without them nobody looks.
    """
    own = seeds_of_axes(sweep.experiment.name, sweep.experiment.axes(sweep.scale))
    if not sweep.experiment.claims:
        remedy = "write down in CLAIMS what the runs are to decide"
        raise invalid(f"experiment {sweep.experiment.name}", "no claims", "claims that can be decided", remedy)
    begun = begin(sweep.folder, len(own), max_seeds)
    while True:
        sweep = _planned(sweep, begun)
        made = next(i for i, seeds in enumerate(begun.looks, 1) if seeds >= begun.at)
        print(f"look {made} of at most {len(begun.looks)}: after {begun.at} seeds, {len(sweep.runs)} runs", flush=True)
        found = _run_all(sweep, to)
        seen = look(sweep.folder, sweep.experiment, sweep.runs, begun)
        going = begun.behind(seen.arms)
        begun = went_on(sweep.folder, made, going)
        print(look_text(seen, begun, going))
        if not going:
            print(f"next: {PROGRAM} {sweep.experiment.name} collect --scale {sweep.scale}")
            return
        most = len(_planned(sweep, begun.further(going, begun.looks[-1])).runs) - len(sweep.runs)
        hours = measured_hours([status for status in found if arm_text(status.run.knobs) in going])
        each = "" if hours is None else f", {most * hours:.3g} hours one after another ({duration(hours * 3600)} each)"
        print(f"at most {most} runs more{each}", flush=True)


def look_text(seen: Look, begun: SeedsBegun, going: list[str]) -> str:
    """Say what a look decided and which arms go on, or why it was the last one.

    Args:
        seen: What it found.
        begun: Looks, this one and the next among them.
        going: Arms that go on.
    """
    lines = []
    for f in seen.findings:
        if f.verdict == "undecided":
            state = "goes on" if f in seen.undecided and going else "second look" if f.claim.post_hoc else "undecided"
        else:
            state = f.verdict if f.verdict == "not measured" else "decided"
        shown = "" if state == "not measured" else f": {f.verdict_text()}, {f.effect_text()}, {f.seeds_text()} seeds"
        lines.append(f"  {state}: {f.claim.text} ({f.claim.metric}){shown}")
    if going:
        return "\n".join([*lines, f"{len(going)} arms go on, to {begun.at} seeds: {'; '.join(going)}"])
    why = f"after {begun.made} of {len(begun.looks)} looks: every claim that was measured is decided"
    if seen.undecided:
        why = f"at {begun.at} seeds, the most that were asked for; {len(seen.undecided)} claims are undecided"
    elif any(f.verdict == "undecided" and not f.claim.post_hoc for f in seen.findings):
        why = "what is undecided needs a direction of its primary claim, and that one has no effect"
    elif all(f.verdict == "not measured" for f in seen.findings):
        why = "these runs measure nothing that is claimed"
    return "\n".join([*lines, f"stopped: {why}"])


def _planned(sweep: Sweep, begun: SeedsBegun) -> Sweep:
    return replace(sweep, runs=plan(sweep.experiment, sweep.scale, remembered(sweep.folder), begun))


def _run_all(sweep: Sweep, to: ClusterOptions) -> list[Status]:
    """Start what is not done, wait for its end wherever it runs, and return the states, which are all done."""
    check_plan(sweep.runs)
    found = _ended(sweep)
    if startable(found):
        with suppress(SystemExit):  # of what did not end well here, another process may be at work on the rest
            start_runs(sweep, found, *destination(sweep.folder, to, sweep.resources, found))
        found = _ended(sweep)
    open_ones = [status for status in found if status.state != "done"]
    if open_ones:
        console().print(status_table(sweep.folder, found, (), False))
        print(f"no look: {len(open_ones)} runs are not done; `retry` sets damaged files aside, this command goes on")
        raise SystemExit(1)
    return found


def _ended(sweep: Sweep) -> list[Status]:
    """Wait until nobody works on any run of the plan, and return the states.

    Raises:
        SlurmError: Slurm does not answer, or holds what is left.
    """
    next_line = time.monotonic()
    while True:
        found = statuses(sweep.folder, sweep.runs)
        active = [status for status in found if status.state in ACTIVE]
        if not active:
            return found
        if any(status.state == "unknown" for status in active):
            raise SlurmError(next(status.detail for status in active if status.state == "unknown"))
        if all(status.state == "held" for status in active):
            raise SlurmError(f"{len(active)} runs are held: `retry` releases them, and this command goes on")
        if time.monotonic() >= next_line:
            next_line = time.monotonic() + progress_bar.SECONDS
            done = sum(status.state == "done" for status in found)
            running = sum(status.state == "running" for status in active)
            text = f"{done} of {len(found)} runs done, {running} running, {len(active) - running} waiting"
            print(f"{text}; Ctrl-C leaves them alone, the same command goes on", flush=True)
        time.sleep(POLL_SECONDS)
