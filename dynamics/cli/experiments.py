"""The command `python -m experiments`."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dynamics.analysis import findings_page, findings_table
from dynamics.atomic import replacing
from dynamics.cli.command_line import parsed
from dynamics.cli.exits import explained
from dynamics.cli.start_runs import PROGRAM, Sweep
from dynamics.cli.sweep_commands import VERBS, WithFiles
from dynamics.options import invalid
from dynamics.planning.resources import RESOURCES, device_hours
from dynamics.store import open_results
from dynamics.sweep.grid import experiment, experiments, plan
from dynamics.sweep.machine_files import remembered, settled
from dynamics.sweep.seeds_begun import seeds_begun
from dynamics.sweep.sweep_folder import SweepFolder


@dataclass(frozen=True)
class FindingsArgs:
    """Print the table of findings: every claim of every experiment, judged from the collected files."""

    scale: str | None = None
    """Of one scale only; if left out, of every scale that there are collected files of."""
    results: Path = Path("results")
    """Folder of all results."""
    write: Path | None = None
    """Write a page into this file instead, with how to read it; what is there is replaced."""


def main(package: str, argv: Sequence[str] | None = None) -> None:
    """Run `python -m PACKAGE list`, `... findings [options]` or `... EXPERIMENT VERB [options]`.

    Args:
        package: The package with one experiment a file.
        argv: Words of the command; None takes the program's.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    typed = words[:2] if words[1:2] and words[1] in VERBS else [word for word in words[:1] if word == "findings"]
    with explained(" ".join([PROGRAM, *typed])):
        _dispatch(package, words)


def _dispatch(package: str, argv: list[str]) -> None:
    if argv == ["list"]:
        return show_list(package)
    if argv[:1] == ["findings"]:
        asked = parsed(FindingsArgs, f"{PROGRAM} findings", argv[1:])
        return show_findings(experiments(package), asked)
    if len(argv) < 2 or argv[0].startswith("-"):
        print(
            f"usage: {PROGRAM} list\n       {PROGRAM} findings [options]\n       {PROGRAM} EXPERIMENT VERB [options]\n"
        )
        for verb, (arguments, _) in VERBS.items():
            print(f"  {verb:8} {(arguments.__doc__ or '').splitlines()[0]}")
        print(f"\nexperiments: {', '.join(experiments(package))}\n{PROGRAM} EXPERIMENT VERB --help explains a verb.")
        raise SystemExit(0 if argv and argv[0] in ("-h", "--help") else 2)
    which = experiment(package, argv[0])
    if argv[1] not in VERBS:
        raise invalid("verb", argv[1], ", ".join(VERBS), f"{PROGRAM} --help")
    arguments, command = VERBS[argv[1]]
    args = parsed(arguments, f"{PROGRAM} {argv[0]} {argv[1]}", argv[2:])
    if args.scale not in RESOURCES:
        raise invalid("scale", args.scale, ", ".join(RESOURCES), "choose one of these")
    folder = SweepFolder(args.results, which.name, args.scale)
    with suppress(FileNotFoundError):
        folder.path.stat()  # raises where a part of the path is a file
    files = settled(folder, args.files, which.prepare) if isinstance(args, WithFiles) else remembered(folder)
    runs = plan(which, args.scale, files, seeds_begun(folder))
    command(Sweep(which, args.scale, folder, runs, RESOURCES[args.scale]), args)


def show_findings(names: Sequence[str], args: FindingsArgs) -> None:
    """Judge every claim, and print the table or write the page."""
    scales = list(RESOURCES) if args.scale is None else [args.scale]
    paths = [SweepFolder(args.results, name, scale).merged for name in names for scale in scales]
    there = [path for path in paths if path.is_file()]
    if not there:
        remedy = f"{PROGRAM} EXPERIMENT submit, then collect; or make findings"
        raise invalid("results", str(args.results), f"collected files of scale {', '.join(scales)}", remedy)
    trees = [open_results(path) for path in there]
    if args.write is None:
        print(findings_table(trees))
        return
    with replacing(args.write) as temporary:
        temporary.write_text(findings_page(trees), encoding="utf-8")
    print(args.write)


def show_list(package: str) -> None:
    """Print every experiment: question, scales, runs, estimated cost."""
    for name in experiments(package):
        which = experiment(package, name)
        print(f"{name}\n  {which.question}")
        for scale, resources in RESOURCES.items():
            try:
                runs = plan(which, scale)
            except ValueError as error:
                print(f"  {scale:10} not yet ({str(error).split(';')[0]})")
                continue
            hours = sum(device_hours(run.config, resources) for run in runs)
            device = "GPU" if resources.gpus else "core"
            print(f"  {scale:10} {len(runs)} runs, about {hours:.2g} {device}-hours")
