"""The command `dynamics`."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from dynamics.cli import data, measuring, public, training
from dynamics.exits import BAD_INPUT, explained
from dynamics.options import invalid

COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "presets": (training.PresetsArgs, training.presets),
    "train": (training.TrainArgs, training.train),
    "encode": (data.EncodeArgs, data.encode),
    "plan": (training.PlanArgs, training.plan),
    "evaluate": (measuring.EvaluateArgs, measuring.evaluate),
    "statistics": (measuring.StatisticsArgs, measuring.statistics),
    "probe": (measuring.ProbeArgs, measuring.probe),
    "report": (measuring.ReportArgs, measuring.report),
    "import": (public.ImportArgs, public.import_),
    "export": (public.ExportArgs, public.export),
    "demo": (training.DemoArgs, training.run_demo),
    "doctor": (training.DoctorArgs, training.doctor),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; see `exits.explained` for how it ends."""
    with explained():
        _dispatch(list(sys.argv[1:] if argv is None else argv))


def _dispatch(argv: list[str]) -> None:
    if argv and argv[0] in COMMANDS:
        arguments, command = COMMANDS[argv[0]]
        if command is training.train:
            return training.train(argv[1:])
        return command(tyro.cli(arguments, prog=f"dynamics {argv[0]}", args=argv[1:]))
    if argv and not argv[0].startswith("-"):
        raise invalid("command", argv[0], ", ".join(COMMANDS), "dynamics --help")
    print("usage: dynamics COMMAND [options]      training dynamics of one-step generative models\n")
    for name, (arguments, _) in COMMANDS.items():
        print(f"  {name:10} {(arguments.__doc__ or '').splitlines()[0]}")
    print("\ndynamics COMMAND --help explains a command.")
    raise SystemExit(0 if argv and argv[0] in ("-h", "--help") else BAD_INPUT)
