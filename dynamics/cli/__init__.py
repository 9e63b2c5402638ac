"""The command `dynamics`."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from dynamics.cli import data_commands, exchange_commands, measure_commands, plan_commands, train_commands
from dynamics.cli.command_line import parsed
from dynamics.cli.exits import BAD_INPUT, explained
from dynamics.options import invalid

COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "presets": (plan_commands.PresetsArgs, plan_commands.presets),
    "train": (train_commands.TrainArgs, train_commands.train),
    "encode": (data_commands.EncodeArgs, data_commands.encode),
    "plan": (plan_commands.PlanArgs, plan_commands.plan),
    "evaluate": (measure_commands.EvaluateArgs, measure_commands.evaluate),
    "statistics": (measure_commands.StatisticsArgs, measure_commands.statistics),
    "probe": (measure_commands.ProbeArgs, measure_commands.probe),
    "report": (measure_commands.ReportArgs, measure_commands.report),
    "import": (exchange_commands.ImportArgs, exchange_commands.import_),
    "export": (exchange_commands.ExportArgs, exchange_commands.export),
    "verify": (data_commands.VerifyArgs, data_commands.verify),
    "demo": (train_commands.DemoArgs, train_commands.run_demo),
    "doctor": (train_commands.DoctorArgs, train_commands.doctor),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; see `exits.explained` for how it ends."""
    words = list(sys.argv[1:] if argv is None else argv)
    with explained(" ".join(["dynamics", *(word for word in words[:1] if word in COMMANDS)])):
        _dispatch(words)


def _dispatch(argv: list[str]) -> None:
    if argv and argv[0] in COMMANDS:
        arguments, command = COMMANDS[argv[0]]
        if command is train_commands.train:
            return train_commands.train(argv[1:])
        return command(parsed(arguments, f"dynamics {argv[0]}", argv[1:]))
    if argv and not argv[0].startswith("-"):
        raise invalid("command", argv[0], ", ".join(COMMANDS), "dynamics --help")
    print("usage: dynamics COMMAND [options]      training dynamics of one-step generative models\n")
    for name, (arguments, _) in COMMANDS.items():
        print(f"  {name:10} {(arguments.__doc__ or '').splitlines()[0]}")
    print("\ndynamics COMMAND --help explains a command.")
    raise SystemExit(0 if argv and argv[0] in ("-h", "--help") else BAD_INPUT)
