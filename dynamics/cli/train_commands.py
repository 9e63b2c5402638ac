"""Commands that train, and that test the installation."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from dynamics.cli.command_line import parsed
from dynamics.cli.words import kinds_text, parse_members, switched
from dynamics.options import invalid


@dataclass(frozen=True)
class TrainArgs:
    """Train a preset, or the config of a JSON file. The same command again resumes; a finished run is left alone."""

    preset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PRESET")]
    """Name of a preset (see `dynamics presets`), or path of a config.json."""
    out: Path
    """The run folder."""
    observe: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KIND[:option=value,...] ...")]
    """What to measure INSTEAD of the config's observers, such as: cells gaps:every=100,t_edges=0/0.5/1 (or: none)."""
    curriculum: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KIND[:option=value,...] ...")]
    """Curricula INSTEAD of the config's, in the order of the chain, such as: min_snr:gamma=3 beta (or: none)."""
    wall_minutes: float | None
    """Stop with a checkpoint before so many minutes have passed; the end of a Slurm job is known without it."""
    tensorboard: bool
    """Also write curves for TensorBoard, into OUT/tensorboard."""
    config: Annotated[Any, tyro.conf.arg(name="")]
    """Every value of the config, the preset's where nothing is given."""


def train(argv: Sequence[str]) -> None:
    """Parse `train PRESET --out DIR [options]` with the preset's values as defaults, and run."""
    from dynamics.config import RunConfig
    from dynamics.curricula import Curriculum
    from dynamics.instruments import InstrumentOptions
    from dynamics.presets import PRESETS, named_config
    from dynamics.runner import run
    from dynamics.training import launched_rank

    # the defaults depend on the preset, so its name is needed before the options can be parsed
    name = argv[0] if argv else ""
    if name.startswith("-") or not name:
        if not {"-h", "--help"} & set(argv):
            raise invalid("PRESET", name or "nothing", ", ".join(PRESETS), "dynamics train PRESET --out DIR")
        name = next(iter(PRESETS))
    default = TrainArgs(
        preset=tyro.MISSING,
        out=tyro.MISSING,
        observe=("config",),
        curriculum=("config",),
        wall_minutes=None,
        tensorboard=False,
        config=switched(named_config(name), argv),
    )
    args = parsed(
        tyro.conf.AvoidSubcommands[TrainArgs],
        "dynamics train",
        argv,
        description=f"{TrainArgs.__doc__}\n\n{kinds_text()}",
        default=default,
    )
    changes: dict[str, object] = {}
    if args.observe != default.observe:
        changes["observers"] = parse_members("observe", InstrumentOptions, args.observe)
    if args.curriculum != default.curriculum:
        changes["curricula"] = parse_members("curriculum", Curriculum, args.curriculum)
    config = RunConfig.model_validate({**dict(args.config), **changes})
    speaks = launched_rank() == 0  # torchrun starts this command once a rank
    folder = run(config, args.out, wall_minutes=args.wall_minutes, tensorboard=args.tensorboard)
    if speaks:
        print(f"{folder / 'run.nc'}; next: dynamics evaluate {folder}")


@dataclass(frozen=True)
class DemoArgs:
    """Train the MeanFlow baseline, the improved schedule and the gap law on 8x8 digits; evaluate and compare them.

    Takes a few minutes on two cores. The same command again continues, and repeats nothing that is done.
    """

    out: Path = Path("results/demo")
    """Folder of the runs, figures and report.md."""
    num_steps: int | None = None
    """Steps of each run; the presets' own if left out. Fewer is a quick look, not a result."""


def run_demo(args: DemoArgs) -> None:
    """Run the demo and name its report."""
    from dynamics.cli.demo import demo

    print(f"report: {demo(args.out, args.num_steps)}")


@dataclass(frozen=True)
class DoctorArgs:
    """Test this installation: derivative, attention kernels, compile, data, GPU, Slurm."""

    compile: bool = True
    """Also test torch.compile, which takes up to a minute."""


def doctor(args: DoctorArgs) -> None:
    """Print the findings; exit code 1 if anything that must work does not."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from dynamics.cli.doctor import examine

    table = Table("check", "status", "detail")
    findings = examine(args.compile)
    for finding in findings:
        table.add_row(*map(escape, (finding.subject, finding.status, finding.detail)))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if any(finding.status == "FAILED" for finding in findings):
        raise SystemExit(1)
