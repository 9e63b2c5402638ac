"""Commands that say what training takes."""

import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class PresetsArgs:
    """List the presets: data, model, parameters, forward GFLOPs, steps and a memory estimate."""


def presets(args: PresetsArgs) -> None:
    """Print the table of presets."""
    from rich.console import Console
    from rich.table import Table

    from dynamics.planning.estimate import cost_of, memory
    from dynamics.presets import IMPROVED, PRESETS

    table = Table("preset", "data", "model", "parameters", "forward GFLOPs", "steps", "batch", "memory GB")
    for name, config in PRESETS.items():
        training, found = config.training, cost_of(config)
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
    console.print(f"Also {', '.join(f'{name} (= {meant})' for name, meant in IMPROVED.items())}.")
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

    from dynamics.data import Latents
    from dynamics.planning.estimate import DEVICES, estimate
    from dynamics.presets import named_config

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
    if training.ema_lengths:
        count, lengths = len(training.snapshot_steps), ", ".join(f"{length:g}" for length in training.ema_lengths)
        table.add_row("snapshots", f"{found.snapshots_gb:.1f} GB", f"of disk for {count} of averages {lengths}")
    if isinstance(config.data, Latents):
        table.add_row("latents", f"{config.data.latents_bytes() / 1e9:.1f} GB", "of disk, flips included")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print("An estimate: hours by multiply-adds and the assumed utilisation, memory without torch's own and fragments.")
