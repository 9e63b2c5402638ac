"""The command `dynamics`."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from dynamics.exits import BAD_INPUT, explained
from dynamics.options import invalid


def presets(args: "PresetsArgs") -> None:
    """Print the table of presets."""
    from rich.console import Console
    from rich.table import Table

    from dynamics.config import PRESETS
    from dynamics.data import load
    from dynamics.models.cost import cost

    table = Table("preset", "data", "model", "parameters", "forward GFLOPs", "steps", "batch", "memory GB")
    for name, config in PRESETS.items():
        data, training = load(config.data), config.training
        c = cost(config.model, data.shape, data.num_classes)
        memory = c.training_gb(training.batch_size // training.accumulation, len(training.ema_decays))
        model = " ".join(f"{k}={v}" for k, v in config.model.model_dump().items() if k not in ("kind", "mlp_ratio"))
        table.add_row(
            name,
            data.name,
            f"{config.model.kind} {model}",
            f"{c.num_parameters:,}",
            f"{c.forward_gflops:.4g}",
            f"{training.num_steps:,}",
            f"{training.batch_size}",
            f"{memory:.2f}",
        )
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    console.print("GFLOPs: multiply-adds of one row. Memory: weights, gradients, optimiser, averages and activations;")
    console.print("torch itself takes about 0.4 GB more. Any value can be changed: dynamics train PRESET --help")


@dataclass(frozen=True)
class EvaluateArgs:
    """Measure a finished run: Frechet and kernel distance, class accuracy, exact velocity errors, sample grids.

    Adds the group `evaluation` to DIR/run.nc; settings measured before stay beside the new ones.
    """

    dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """The run folder."""
    nfe: tuple[int, ...] = (1, 2, 32)
    """Numbers of network evaluations per sample."""
    num_samples: int = 2000
    """Samples per setting."""
    field: Literal["u", "v"] = "u"
    """Sample by the average velocity u, or integrate the instantaneous velocity v."""
    method: Literal["euler", "heun"] = "euler"
    """Integrator of v."""
    label_mode: Literal["uniform", "balanced"] = "uniform"
    """Labels uniformly at random, or equally many of each class."""
    seed: int = 0
    """Seed of labels and noise."""
    weights: str = "ema"
    """ema (the first average), model, or a recorded decay such as 0.999."""
    checkpoint: int | None = None
    """Step of the checkpoint; the newest if left out."""
    exact_rows: int = 128
    """Rows per bin for the exact velocity errors."""


def evaluate(args: EvaluateArgs) -> None:
    """Measure a finished run and show the result."""
    from dynamics.evaluation.evaluate import EvaluationOptions
    from dynamics.runner import evaluate_run

    options = EvaluationOptions(
        nfe=args.nfe,
        num_samples=args.num_samples,
        field=args.field,
        method=args.method,
        label_mode=args.label_mode,
        seed=args.seed,
    )
    measured = evaluate_run(args.dir, options, args.exact_rows, args.checkpoint, args.weights)
    columns = [name for name in measured.data_vars if measured[name].dims == ("field", "nfe")]
    if columns:
        print(measured[columns].to_dataframe().dropna(how="all").to_string(float_format=lambda x: f"{x:.4g}"))
    else:
        print("no labels, so no classifier to measure distances with; pictures and exact errors only")
    one_step = float(measured.one_step_error / measured.one_step_scale)
    print(f"exact error of the one-step velocity, relative: {one_step:.4g}")
    print(f"in {args.dir / 'run.nc'}, group evaluation; next: dynamics report {args.dir} --out FOLDER")


@dataclass(frozen=True)
class ProbeArgs:
    """Measure gradients, affinities and decompositions of a finished run's checkpoint, into groups of DIR/run.nc.

    A checkpoint becomes one step of each group's series. Values left out are those of the run's own observers.
    """

    dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """The run folder."""
    checkpoint: int | None = None
    """Step of the checkpoint; the newest if left out."""
    instruments: tuple[Literal["gaps", "gram", "decomposition", "lookahead"], ...] = (
        "gaps",
        "gram",
        "decomposition",
        "lookahead",
    )
    """What to measure: losses and exact errors by time and gap; inner products of task gradients; parts of losses,
    errors and gradients; how much a step on one task lowers the loss of another."""
    per_row: bool = False
    """Also inner products between single rows (group gram_rows), to choose tasks afterwards."""
    gap_edges: tuple[float, ...] | None = None
    """Edges of the bins of the gap t - r, such as 0.1 0.3 0.5 0.7 0.9; each bin is a task, v another."""
    num_splits: int | None = None
    """Independent splits K of rows, the source of error bars."""
    rows_per_split: int | None = None
    """Rows of each task in each split."""
    rows_per_bin: int | None = None
    """Rows in each bin for losses and exact errors."""
    num_rows: int | None = None
    """Rows of --per-row."""
    groups: Literal["model", "block", "tensor"] | None = None
    """Inner products of the whole model; also of each block and kind of layer; also of each tensor."""
    loss: Literal["adaptive", "raw"] | None = None
    """The loss with the adaptive weight of training, or the raw squared error."""
    precondition: Literal["none", "adam"] | None = None
    """Plain inner products, or with the preconditioner of the run's Adam."""
    rows: Literal["shared", "independent"] | None = None
    """Whether all tasks of a split see the same images and noise."""
    t_law: Literal["training", "uniform", "matched"] | None = None
    """Law of t given the gap bin: as in training, uniform, or the same for all tasks."""
    guidance: Literal["run", "off"] | None = None
    """Whether targets are guided as in training or not at all."""
    weights: Literal["model", "ema"] | None = None
    """Raw weights or their first average; if left out, gaps measure the average and the others the raw weights."""
    update: Literal["adam", "plain"] | None = None
    """The step of lookahead: the run's optimiser's, or plain gradient descent."""
    backend: Literal["exact", "sketch"] | None = None
    """Whole gradients, or a seeded sketch of each where they do not fit into memory."""
    sketch_size: int | None = None
    """Numbers that the sketch keeps of each tensor."""
    rows_per_pass: int | None = None
    """Rows that go through the network at once."""
    replace: bool = False
    """Drop earlier measurements of other settings, which are refused otherwise."""


def probe(args: ProbeArgs) -> None:
    """Measure, and show the affinities."""
    from dynamics import probe as probing
    from dynamics.analysis.text import affinity_table

    kinds = [*args.instruments, *(["gram_rows"] if args.per_row else [])]
    own = {"dir", "checkpoint", "instruments", "per_row", "replace"}
    changes = {name: value for name, value in vars(args).items() if name not in own and value is not None}
    if "gaps" in kinds:
        changes["by_time"] = True
    measured = probing.probe(args.dir, probing.chosen(args.dir, kinds, changes), args.checkpoint, args.replace)
    if "gram" in measured:
        print(affinity_table(measured["gram"]))
    print(f"in {args.dir / 'run.nc'}, groups {', '.join(measured)}; figures: dynamics report {args.dir} --out FOLDER")


@dataclass(frozen=True)
class ReportArgs:
    """Draw figures and write report.md for one run, or compare several."""

    dirs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DIR [DIR ...]")]
    """Folders of finished runs; the first is the baseline unless --baseline names another."""
    out: Path
    """Folder that takes merged.nc, figures/ and report.md."""
    title: str | None = None
    """Title of the report."""
    baseline: str | None = None
    """Name of the run that the others are compared with."""


def report(args: ReportArgs) -> None:
    """Write the report and name it."""
    from dynamics.analysis.report import write_report

    print(write_report(args.dirs, args.out, title=args.title, baseline=args.baseline))


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
    from dynamics.demo import demo

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

    from dynamics.doctor import examine

    table = Table("check", "status", "detail")
    findings = examine(args.compile)
    for finding in findings:
        table.add_row(*map(escape, (finding.subject, finding.status, finding.detail)))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if any(finding.status == "FAILED" for finding in findings):
        raise SystemExit(1)


@dataclass(frozen=True)
class TrainArgs:
    """Train a preset, or the config of a JSON file. The same command again resumes; a finished run is left alone."""

    preset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PRESET")]
    """Name of a preset (see `dynamics presets`), or path of a config.json."""
    out: Path
    """The run folder."""
    observe: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KIND[:option=value,...] ...")]
    """What to measure INSTEAD of the config's observers, such as: cells gaps:every=100,t_edges=0/0.5/1 (or: none)."""
    config: Annotated[Any, tyro.conf.arg(name="")]
    """Every value of the config, the preset's where nothing is given."""


def train(argv: Sequence[str]) -> None:
    """Parse `train PRESET --out DIR [options]` with the preset's values as defaults, and run."""
    from dynamics.config import PRESETS, RunConfig, preset
    from dynamics.instruments.parse import KINDS, option_names, parse_observers
    from dynamics.runner import run

    # the defaults depend on the preset, so its name is needed before the options can be parsed
    name = argv[0] if argv and not argv[0].startswith("-") else next(iter(PRESETS))
    path = Path(name)
    config = RunConfig.model_validate_json(path.read_text()) if path.is_file() else preset(name)
    default = TrainArgs(preset=tyro.MISSING, out=tyro.MISSING, observe=("config",), config=config)
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
    folder = run(config, args.out)
    if int(os.environ.get("RANK", "0")) == 0:  # torchrun starts this command once a rank
        print(f"{folder / 'run.nc'}; next: dynamics evaluate {folder}")


@dataclass(frozen=True)
class PresetsArgs:
    """List the presets: data, model, parameters, forward GFLOPs, steps and a memory estimate."""


COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "presets": (PresetsArgs, presets),
    "train": (TrainArgs, train),
    "evaluate": (EvaluateArgs, evaluate),
    "probe": (ProbeArgs, probe),
    "report": (ReportArgs, report),
    "demo": (DemoArgs, run_demo),
    "doctor": (DoctorArgs, doctor),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; see `exits.explained` for how it ends."""
    with explained():
        _dispatch(list(sys.argv[1:] if argv is None else argv))


def _dispatch(argv: list[str]) -> None:
    if argv and argv[0] in COMMANDS:
        arguments, command = COMMANDS[argv[0]]
        if command is train:
            return train(argv[1:])
        return command(tyro.cli(arguments, prog=f"dynamics {argv[0]}", args=argv[1:]))
    if argv and not argv[0].startswith("-"):
        raise invalid("command", argv[0], ", ".join(COMMANDS), "dynamics --help")
    print("usage: dynamics COMMAND [options]      training dynamics of one-step generative models\n")
    for name, (arguments, _) in COMMANDS.items():
        print(f"  {name:10} {(arguments.__doc__ or '').splitlines()[0]}")
    print("\ndynamics COMMAND --help explains a command.")
    raise SystemExit(0 if argv and argv[0] in ("-h", "--help") else BAD_INPUT)
