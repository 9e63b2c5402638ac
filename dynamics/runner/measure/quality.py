"""What a finished run's samples are worth, into the run's own file."""

from dataclasses import replace
from pathlib import Path

import torch
import xarray as xr

from dynamics.evaluation import EvaluationOptions, evaluate, reference_for
from dynamics.instruments import GapProbe, GapsOptions
from dynamics.runner.measure.finished_run import asked_by_data, beside, earlier, network_at
from dynamics.runner.run_folder import RunFolder
from dynamics.store import update_run
from dynamics.training import device_for, threads_for

GROUP = "evaluation"
SAMPLED_AS = ("checkpoint", "weights", "num_samples", "label_mode", "method", "evaluation_seed", "extractor_sha256")
"""Attributes in which settings agree that lie beside each other."""


def evaluate_run(
    run_dir: Path,
    options: EvaluationOptions,
    exact_rows: int = 128,
    checkpoint: int | None = None,
    weights: str = "ema",
    progress: bool = True,
) -> xr.Dataset:
    """Evaluate a run's network and put the group `evaluation` into its run.nc.

    Settings that are there already and are not measured anew stay, if seeds, sample count and checkpoint agree.

    Args:
        run_dir: The run folder.
        options: What to sample and measure.
        exact_rows: Rows per bin for the exact velocity errors.
        checkpoint: Step of the checkpoint; None takes the newest.
        weights: "model", "ema" or a decay.
        progress: Show a bar.

    Raises:
        ValueError: The run is not finished, or another process evaluates it.
    """
    folder = RunFolder(Path(run_dir))
    config = folder.finished_config()
    torch.set_num_threads(threads_for(config.training))
    with folder.held(GROUP, "evaluating"):
        data, device = config.data.load(), device_for(config.training)
        net, step = network_at(folder, config, weights, checkpoint)
        u = asked_by_data(net, config.objective)
        measured = evaluate(u, reference_for(data), options, device, progress)
        recipe = replace(config.recipe(data), seed=options.seed)
        probe = GapProbe(recipe, GapsOptions(rows_per_bin=exact_rows))
        exact = probe.errors(net, recipe.progress(step), device)
        content = measured.merge(exact, combine_attrs="override").assign_attrs(checkpoint=step, weights=weights)
        content.attrs["exact_rows_per_bin"] = exact_rows
        before = earlier(folder, GROUP, {name: content.attrs.get(name) for name in SAMPLED_AS})
        content = beside(before, content)
        update_run(folder.result, GROUP, content)
    return content
