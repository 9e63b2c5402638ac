"""Training dynamics of one-step generative models: MeanFlow, its curricula, and the instruments to understand them.

run = dynamics.train("digits-meanflow", "runs/first")      a preset, a config or the path of a config.json
dynamics.evaluate(run, nfe=(1, 2, 32))                     distances and exact errors, into the run's own file
dynamics.probe(run, "gram", "lookahead")                   any instrument, at any checkpoint
results = dynamics.open_results(run)                       a labelled xarray tree: one run, a sweep, a study
dynamics.analysis.affinity(results)                        estimates with error bars
dynamics.plots.affinity_heatmap(...)                       figures
u = dynamics.load_model(run)                               the trained network u(z, t, r, y)
dynamics.oracles.EmpiricalOracle(x, y)                     exact velocities to compare with
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    from xarray import Dataset

    from dynamics.config import RunConfig
    from dynamics.flow.path import Velocity
    from dynamics.store import Results

__version__ = "0.2.0"
__all__ = ["analysis", "evaluate", "load_model", "open_results", "oracles", "plots", "probe", "train"]
_MODULES = {"analysis": "dynamics.analysis", "oracles": "dynamics.oracles", "plots": "dynamics.analysis.plots"}


def train(
    config: RunConfig | str | PathLike[str],
    out: str | PathLike[str],
    progress: bool = True,
    **changes: object,
) -> Path:
    """Train a run to its end and return its folder; the same call again resumes it.

    Args:
        config: A config, the name of a preset, or the path of a config.json.
        out: The run folder; made if missing.
        progress: Show a bar.
        changes: Values by dotted name, such as `**{"training.num_steps": 200, "seed": 1}`.

    Raises:
        ValueError: An unknown preset or value, or a folder that holds another run; see `dynamics.runner.run`.
    """
    from dynamics.config import with_values
    from dynamics.presets import named_config
    from dynamics.runner import run

    chosen = named_config(str(config)) if isinstance(config, str | PathLike) else config
    return run(with_values(chosen, changes), Path(out), progress=progress)


def evaluate(
    run_dir: str | PathLike[str],
    exact_rows: int = 128,
    checkpoint: int | None = None,
    weights: str = "ema",
    progress: bool = True,
    replace: bool = False,
    **options: Any,
) -> Dataset:
    """Sample a finished run, measure its samples and its exact errors, and keep that in the run's file.

    Args:
        run_dir: The run folder.
        exact_rows: Rows per bin for the exact velocity errors.
        checkpoint: Step of the checkpoint; None takes the newest.
        weights: "model", "ema" or a recorded decay.
        progress: Show a bar.
        replace: Measure anew what was measured before in the same way; it stays otherwise.
        options: Of `dynamics.evaluation.EvaluationOptions`, such as nfe=(1, 2, 32) and num_samples=2000, or
            ema_length=0.05 or guidance_scale=2.
    """
    from dynamics.evaluation import EvaluationOptions
    from dynamics.runner import evaluate_run

    asked = EvaluationOptions.model_validate(options)
    return evaluate_run(Path(run_dir), asked, exact_rows, checkpoint, weights, progress, replace)


def probe(
    run_dir: str | PathLike[str],
    *instruments: str,
    checkpoint: int | None = None,
    replace: bool = False,
    progress: bool = True,
    **options: object,
) -> dict[str, Dataset]:
    """Measure a checkpoint of a finished run with instruments, and keep that in the run's file.

    Args:
        run_dir: The run folder.
        instruments: Kinds, such as "gram" and "lookahead".
        checkpoint: Step of the checkpoint; None takes the newest.
        replace: Drop the earlier steps of a group that were measured with other settings.
        progress: Show a bar.
        options: Of the instruments that have them, such as num_splits=16; the run's own or the defaults otherwise.

    Returns:
        The measurements by kind.
    """
    from dynamics.runner.measure.probe import chosen
    from dynamics.runner.measure.probe import probe as measure

    asked = chosen(Path(run_dir), instruments, options)
    return measure(Path(run_dir), asked, checkpoint, replace, progress)


def open_results(path: str | PathLike[str]) -> Results:
    """Open a run, a merged file or a folder of runs as one labelled tree; see `dynamics.store.open_results`."""
    from dynamics.store import open_results

    return open_results(path)


def load_model(
    run_dir: str | PathLike[str],
    weights: str = "ema",
    checkpoint: int | None = None,
    ema_length: float | None = None,
    guidance_scale: float | None = None,
    guidance_interval: tuple[float, float] | None = None,
) -> Velocity:
    """Return the trained network u(z, t, r, y) of a run.

    Args:
        run_dir: The run folder.
        weights: "ema" (the first average), "model", or a recorded decay such as "0.999".
        checkpoint: Step of the checkpoint; None takes a finished run's last one, otherwise the newest intact one.
        ema_length: Instead of `weights`: length of an average, as a share of training, rebuilt from the snapshots up to
            `checkpoint`.
        guidance_scale: What a network conditioned on guidance is asked for; None as the run's config says.
        guidance_interval: First and last time at which it is asked for guidance.
    """
    from dynamics.runner import load_network
    from dynamics.training import weights_name

    which = weights_name(weights, ema_length)
    return load_network(Path(run_dir), which, checkpoint, guidance_scale, guidance_interval)[0]


def __getattr__(name: str) -> ModuleType:
    if name in _MODULES:
        return import_module(_MODULES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> Sequence[str]:
    return [*__all__, "__version__"]
