"""A finished run as measurements need it: its network or state at a checkpoint, and what was measured before."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import xarray as xr

from dynamics.config import RunConfig
from dynamics.data import dimensions, load
from dynamics.flow.path import Velocity
from dynamics.models import Model, build
from dynamics.options import invalid
from dynamics.runner.run_folder import RunFolder
from dynamics.store import read_run
from dynamics.training import TrainState, bound, device_for, start


def load_network(run_dir: Path, weights: str = "ema", checkpoint: int | None = None) -> tuple[Velocity, int]:
    """Return u(z, t, r, y) of a run and the step of its checkpoint."""
    folder = RunFolder(Path(run_dir))
    config = folder.read_config()
    model: Model = build(config.model, *dimensions(config.data), config.seed)
    step, tensors = folder.checkpoints().weights(checkpoint, weights)
    device = device_for(config.training)
    u = bound(model.to(device), {name: tensor.to(device) for name, tensor in tensors.items()})
    return u, step


def restored(config: RunConfig, folder: RunFolder, checkpoint: int | None = None) -> TrainState:
    """Return the training state of a run's checkpoint.

    Raises:
        ValueError: There is no such checkpoint, or it belongs to another model.
    """
    data = load(config.data)
    model = build(config.model, data.shape, data.num_classes, config.seed).to(device_for(config.training))
    state = start(model, config.training, config.curricula)
    if not folder.checkpoints().restore(state, checkpoint):
        raise invalid("run", str(folder.path), "a run with an intact checkpoint", "train it first")
    return state


def evaluated(run_dir: Path) -> bool:
    """Whether a finished run has been evaluated."""
    return "evaluation" in read_run(RunFolder(Path(run_dir)).result).children


def earlier(folder: RunFolder, group: str, about: Mapping[str, object]) -> xr.Dataset | None:
    """Return what was measured before in the same way, None if there is nothing.

    Args:
        folder: The run.
        group: Group of run.nc.
        about: Attributes that say how it is measured. A group where one differs is passed over with a warning.
    """
    tree = read_run(folder.result)
    if group not in tree.children:
        return None
    before = tree[group].to_dataset()
    if different := [name for name, value in about.items() if before.attrs.get(name) != value]:
        warnings.warn(f"the earlier group {group} had another {', '.join(different)} and is replaced", stacklevel=3)
        return None
    return before


def beside(before: xr.Dataset | None, now: xr.Dataset) -> xr.Dataset:
    """Return new settings and those measured before, in the order of their numbers of evaluations.

    Pictures that a setting lacks are black; attributes are those of the new ones.
    """
    if before is None:
        return now
    joined = now.combine_first(before).sortby("nfe")
    if "samples" in joined:  # not of latents
        joined["samples"] = joined["samples"].fillna(0).astype("uint8")
    for name in joined.variables:
        joined[name].attrs = now[name].attrs
    return joined.assign_attrs(now.attrs)
