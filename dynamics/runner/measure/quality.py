"""What a finished run's samples are worth, into the run's own file."""

from dataclasses import replace as changed
from pathlib import Path

import torch
import xarray as xr

from dynamics.evaluation import EvaluationOptions, evaluate, reference_for
from dynamics.evaluation.sample_quality import check_settings, sampled_as
from dynamics.instruments import GapProbe, GapsOptions
from dynamics.runner.measure.finished_run import asked_by_data, beside, earlier, network_at, still_missing
from dynamics.runner.run_folder import RunFolder
from dynamics.store import protocol_name, update_run
from dynamics.training import device_for, length_in, threads_for, weights_name

GROUP = "evaluation"


def evaluate_run(
    run_dir: Path,
    options: EvaluationOptions,
    exact_rows: int = 128,
    checkpoint: int | None = None,
    weights: str = "ema",
    progress: bool = True,
    replace: bool = False,
) -> xr.Dataset:
    """Evaluate a run's network and put the result into its run.nc, beside what was measured by other protocols.

    The first protocol of a run is the group `evaluation`; another sample count, seed, label mode, method, checkpoint,
    kind of weights, guidance or number of exact rows is a group beside it. Settings that were measured before stay.

    Args:
        run_dir: The run folder.
        options: What to sample and measure.
        exact_rows: Rows per bin for the exact velocity errors.
        checkpoint: Step of the checkpoint; None takes the newest.
        weights: "model", "ema" or a decay; left out where the options name the length of an average.
        progress: Show a bar, and say what was measured before.
        replace: Measure anew what was measured before by this protocol.

    Returns:
        All that was measured by this protocol; its attribute `protocol` names it.

    Raises:
        ValueError: The run is not finished, another process evaluates it, or the protocol's group was made with
            another extractor.
    """
    check_settings(options)
    weights = weights_name(weights, options.ema_length)
    options = options.model_copy(update={"ema_length": length_in(weights)})
    folder = RunFolder(Path(run_dir))
    config = folder.finished_config()
    objective = config.objective.asking_for(options.guidance_scale, options.guidance_interval)
    torch.set_num_threads(threads_for(config.training))
    with folder.held(GROUP, "evaluating"):
        data, device = config.data.load(), device_for(config.training)
        net, step = network_at(folder, config, weights, checkpoint)
        extractor, last = data.features(), config.training.num_steps
        about = {"checkpoint": step, "weights": weights, "exact_rows_per_bin": exact_rows, **sampled_as(options)}
        about["extractor_sha256"] = extractor.sha256 if extractor else ""
        group, content = earlier(folder, GROUP, about, last, replace)
        missing = still_missing(content, options.field, options.nfe, replace, progress)
        if content is None or missing:
            u = asked_by_data(net, objective)
            now = options.model_copy(update={"nfe": missing})
            measured = evaluate(u, reference_for(data), now, device, progress)
            if content is None or replace:
                recipe = changed(config.recipe(data), objective=objective, seed=options.seed)
                exact = GapProbe(recipe, GapsOptions(rows_per_bin=exact_rows)).errors(
                    net, recipe.progress(step), device
                )
                measured = measured.merge(exact, combine_attrs="override")
            about["protocol"] = protocol_name(about, last)
            content = beside(content, measured).assign_attrs(about)
            update_run(folder.result, group, content)
    return content
