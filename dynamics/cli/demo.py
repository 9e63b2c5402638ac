"""The main job on the embedded data: baseline, improved schedule and gap law, trained, evaluated and compared."""

from collections.abc import Sequence
from pathlib import Path

from dynamics.analysis import write_report
from dynamics.config import RunConfig, with_values
from dynamics.evaluation import EvaluationOptions
from dynamics.presets import preset
from dynamics.runner import evaluate_run, evaluated, run

DEMO_PRESETS = ("digits-meanflow", "digits-improved", "digits-gap-law")
"""Same seed, data order, initialisation, noise and number of steps; the first is the baseline."""


def demo(
    out: Path,
    num_steps: int | None = None,
    presets: Sequence[str] = DEMO_PRESETS,
    options: EvaluationOptions = EvaluationOptions(),  # noqa: B008 - frozen
    progress: bool = True,
) -> Path:
    """Train, evaluate and report; a finished part is not done again.

    Args:
        out: Folder of the runs and the report.
        num_steps: Steps of each run; None takes the presets'.
        presets: Which presets to compare.
        options: How each run is evaluated.
        progress: Show bars.

    Returns:
        Path of report.md.
    """
    folders = []
    for name in presets:
        config = preset(name)
        if num_steps is not None:
            config = with_steps(config, num_steps)
        folders.append(run(config, out / name, progress))
    for folder in folders:
        if not evaluated(folder):
            evaluate_run(folder, options, progress=progress)
    return write_report(folders, out, title="MeanFlow on 8x8 digits: baseline and schedules", baseline=presets[0])


def with_steps(config: RunConfig, num_steps: int) -> RunConfig:
    """Return the config with another number of steps."""
    return with_values(config, {"training.num_steps": num_steps}, "num_steps")
