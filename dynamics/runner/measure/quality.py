"""What a finished run's samples are worth, into the run's own file."""

import warnings
from pathlib import Path

import torch
import xarray as xr

from dynamics.data import dimensions, load
from dynamics.evaluation.evaluate import EvaluationOptions, evaluate, reference_for
from dynamics.flow.path import Velocity
from dynamics.instruments import GapProbe, GapsOptions
from dynamics.models import Model, build
from dynamics.runner.run_folder import RunFolder
from dynamics.store import read_run, update_run
from dynamics.training import bound, device_for


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
    """
    folder = RunFolder(Path(run_dir))
    config = folder.finished_config()
    torch.set_num_threads(config.training.num_threads)
    data = load(config.data)
    u, step = load_network(folder.path, weights, checkpoint)
    device = device_for(config.training)
    measured = evaluate(u, reference_for(data), options, device, progress)
    exact = GapProbe(data, config.objective, GapsOptions(rows_per_bin=exact_rows), options.seed).errors(u, device)
    content = measured.merge(exact, combine_attrs="override").assign_attrs(checkpoint=step, weights=weights)
    content.attrs["exact_rows_per_bin"] = exact_rows
    before = read_run(folder.result)
    if "evaluation" in before.children:
        content = _join(before["evaluation"].to_dataset(), content)
    update_run(folder.result, "evaluation", content)
    return content


def load_network(run_dir: Path, weights: str = "ema", checkpoint: int | None = None) -> tuple[Velocity, int]:
    """Return u(z, t, r, y) of a run and the step of its checkpoint."""
    folder = RunFolder(Path(run_dir))
    config = folder.read_config()
    model: Model = build(config.model, *dimensions(config.data), config.seed)
    step, tensors = folder.checkpoints().weights(checkpoint, weights)
    device = device_for(config.training)
    u = bound(model.to(device), {name: tensor.to(device) for name, tensor in tensors.items()})
    return u, step


def evaluated(run_dir: Path) -> bool:
    """Whether a finished run has been evaluated."""
    return "evaluation" in read_run(RunFolder(Path(run_dir)).result).children


def _join(before: xr.Dataset, now: xr.Dataset) -> xr.Dataset:
    """Keep earlier settings beside the new ones where both come from the same weights and sampling protocol."""
    keys = ("checkpoint", "weights", "num_samples", "label_mode", "method", "evaluation_seed", "extractor_sha256")
    if any(before.attrs.get(key) != now.attrs.get(key) for key in keys):
        warnings.warn("the earlier evaluation used another protocol and is replaced", stacklevel=3)
        return now
    joined = now.combine_first(before)
    if "samples" in joined:  # not of latents
        joined["samples"] = joined["samples"].fillna(0).astype("uint8")
    for name in joined.variables:
        joined[name].attrs = now[name].attrs
    return joined.assign_attrs(now.attrs)
