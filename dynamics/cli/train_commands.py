"""Commands that train, or say what training takes."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from dynamics.config import RunConfig


@dataclass(frozen=True)
class PresetsArgs:
    """List the presets: data, model, parameters, forward GFLOPs, steps and a memory estimate."""


def presets(args: PresetsArgs) -> None:
    """Print the table of presets."""
    from rich.console import Console
    from rich.table import Table

    from dynamics.config import PRESETS
    from dynamics.data import dimensions
    from dynamics.planning.cost import cost
    from dynamics.planning.estimate import memory

    table = Table("preset", "data", "model", "parameters", "forward GFLOPs", "steps", "batch", "memory GB")
    for name, config in PRESETS.items():
        training, found = config.training, cost(config.model, *dimensions(config.data))
        model = " ".join(f"{k}={v}" for k, v in config.model.model_dump().items() if k not in ("kind", "mlp_ratio"))
        table.add_row(
            name,
            config.data.name,
            f"{config.model.kind} {model}",
            f"{found.num_parameters:,}",
            f"{found.forward_gflops:.4g}",
            f"{training.num_steps:,}",
            f"{training.batch_size}",
            f"{memory(config).peak:.2f}",
        )
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    console.print("GFLOPs: 1e9 multiply-adds of one row. Memory: of a single device with the whole batch, without what")
    console.print(
        "torch itself takes; `dynamics plan PRESET` divides it. Any value can be changed: dynamics train PRESET --help"
    )


@dataclass(frozen=True)
class PlanArgs:
    """Estimate what a training takes: multiply-adds, memory of a GPU by parts, hours, disk. Nothing is started."""

    preset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PRESET")]
    """Name of a preset (see `dynamics presets`), or path of a config.json."""
    gpus: int = 8
    """Number of GPUs that train together."""
    gpu: str = "h100"
    """Which: h100, h200, b200, a100, a100-40gb or l40s."""
    utilisation: float = 0.4
    """Share of the dense bfloat16 peak that training sustains; unknown until measured on the machine."""
    parallel: Literal["config", "ddp", "fsdp"] = "config"
    """Whether each GPU holds all weights (ddp) or a part (fsdp); the config's choice if left out."""
    accumulation: int | None = None
    """Passes that a batch is split into; the config's if left out."""


def plan(args: PlanArgs) -> None:
    """Print the estimate."""
    from rich.console import Console
    from rich.table import Table

    from dynamics.data import latents_bytes
    from dynamics.planning.estimate import DEVICES, estimate

    config = named_config(args.preset)
    changes: dict[str, str | int] = {"parallel": args.parallel} if args.parallel != "config" else {}
    changes |= {"accumulation": args.accumulation} if args.accumulation is not None else {}
    training = type(config.training).model_validate({**dict(config.training), **changes})
    config = config.model_copy(update={"training": training})
    found = estimate(config, args.gpus, args.gpu, args.utilisation)
    parts, fits = found.memory, DEVICES[args.gpu].memory_gb
    table = Table(
        "what", "how much", "of which", title=f"{args.preset} on {args.gpus} x {args.gpu}", title_justify="left"
    )
    table.add_row("training", f"{training.num_steps:,} steps", f"batch {training.batch_size}, {training.precision}")
    table.add_row(
        "network", f"{found.num_parameters / 1e6:.2f} M parameters", f"{found.forward_gflops:.1f} GFLOPs forward"
    )
    table.add_row("a step", f"{found.forwards_per_row:.3g} forward passes a row", "gradient 3, derivative and guidance")
    table.add_row("arithmetic", f"{found.total_flops:.3g} FLOPs", "two a multiply-add")
    table.add_row(
        "time", f"{found.hours:.3g} h, {found.step_seconds * 1e3:.3g} ms a step", f"at {args.utilisation:.0%} of peak"
    )
    table.add_row("GPU hours", f"{found.hours * args.gpus:.4g}", "without measuring and evaluating")
    for name in ("weights", "moments", "averages", "gradients", "update", "activations", "exchange"):
        table.add_row(f"memory: {name}", f"{getattr(parts, name):.2f} GB", "")
    verdict = "fits" if parts.peak < 0.9 * fits else "TOO MUCH: more GPUs, --parallel fsdp, or --accumulation"
    table.add_row("memory: peak", f"{parts.peak:.1f} GB of {fits:.0f} GB", verdict)
    table.add_row(
        "checkpoint", f"{found.checkpoint_gb:.1f} GB", f"{found.checkpoints_gb:.0f} GB of disk for those kept"
    )
    if config.data.name == "latents":
        table.add_row("latents", f"{latents_bytes(config.data) / 1e9:.1f} GB", "of disk, flips included")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print("An estimate: hours by multiply-adds and the assumed utilisation, memory without torch's own and fragments.")


@dataclass(frozen=True)
class TrainArgs:
    """Train a preset, or the config of a JSON file. The same command again resumes; a finished run is left alone."""

    preset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PRESET")]
    """Name of a preset (see `dynamics presets`), or path of a config.json."""
    out: Path
    """The run folder."""
    observe: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KIND[:option=value,...] ...")]
    """What to measure INSTEAD of the config's observers, such as: cells gaps:every=100,t_edges=0/0.5/1 (or: none)."""
    wall_minutes: float | None
    """Stop with a checkpoint before so many minutes have passed; the end of a Slurm job is known without it."""
    tensorboard: bool
    """Also write curves for TensorBoard, into OUT/tensorboard."""
    config: Annotated[Any, tyro.conf.arg(name="")]
    """Every value of the config, the preset's where nothing is given."""


def train(argv: Sequence[str]) -> None:
    """Parse `train PRESET --out DIR [options]` with the preset's values as defaults, and run."""
    from dynamics.config import PRESETS, RunConfig
    from dynamics.instruments.parse import KINDS, option_names, parse_observers
    from dynamics.runner import run

    # the defaults depend on the preset, so its name is needed before the options can be parsed
    name = argv[0] if argv and not argv[0].startswith("-") else next(iter(PRESETS))
    config = named_config(name)
    default = TrainArgs(
        preset=tyro.MISSING, out=tyro.MISSING, observe=("config",), wall_minutes=None, tensorboard=False, config=config
    )
    kinds = "\n".join(f"  {kind}: {', '.join(option_names(kind))}" for kind in KINDS)
    args = tyro.cli(
        tyro.conf.AvoidSubcommands[TrainArgs],
        prog="dynamics train",
        description=f"{TrainArgs.__doc__}\n\nWhat --observe takes, with its options:\n{kinds}",
        args=list(argv),
        default=default,
    )
    config = args.config
    if args.observe != default.observe:
        config = RunConfig.model_validate({**dict(config), "observers": parse_observers(args.observe)})
    folder = run(config, args.out, wall_minutes=args.wall_minutes, tensorboard=args.tensorboard)
    if int(os.environ.get("RANK", "0")) == 0:  # torchrun starts this command once a rank
        print(f"{folder / 'run.nc'}; next: dynamics evaluate {folder}")


def named_config(name: str) -> "RunConfig":
    """Return a preset, or the config of a JSON file."""
    from dynamics.config import RunConfig, preset

    path = Path(name)
    return RunConfig.model_validate_json(path.read_text()) if path.is_file() else preset(name)


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
