"""A finished run as measurements need it: its network or state at a checkpoint, and what was measured before."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr
from torch import Tensor, nn

from dynamics.config import RunConfig
from dynamics.flow.path import Velocity
from dynamics.models import Network, bound, build
from dynamics.objectives import Objective
from dynamics.options import invalid
from dynamics.runner.run_folder import RunFolder
from dynamics.store import read_run
from dynamics.training import TrainState, device_for, start


def load_network(run_dir: Path, weights: str = "ema", checkpoint: int | None = None) -> tuple[Velocity, int]:
    """Return u(z, t, r, c) of a run, c being a condition of its data, and the step of its checkpoint."""
    folder = RunFolder(Path(run_dir))
    config = folder.read_config()
    net, step = network_at(folder, config, weights, checkpoint)
    return asked_by_data(net, config.objective), step


def network_at(
    folder: RunFolder, config: RunConfig, weights: str = "ema", checkpoint: int | None = None
) -> tuple[Network, int]:
    """Return what may be done with a run's weights, its first average being a teacher, and the checkpoint's step."""
    model = _model(config)
    device = next(model.parameters()).device

    def of(which: str, step: int | None) -> tuple[int, Velocity]:
        found, tensors = folder.checkpoints().weights(step, which)
        return found, bound(model, {name: tensor.to(device) for name, tensor in tensors.items()})

    step, chosen = of(weights, folder.step_to_measure(config, checkpoint))
    average = chosen if weights == "ema" else of("ema", step)[1]
    return Network(chosen, {str(config.training.ema_decays[0]): average}), step


def asked_by_data(net: Network, objective: Objective) -> Velocity:
    """Return the velocity for conditions of the data, where the network is conditioned on more."""

    def u(z: Tensor, t: Tensor, r: Tensor, c: Any) -> Tensor:
        return net(z, t, r, objective.ask(c))

    return u


def restored(config: RunConfig, folder: RunFolder, checkpoint: int | None = None) -> TrainState:
    """Return the training state of a run's checkpoint.

    Raises:
        ValueError: There is no such checkpoint, or it belongs to another model.
        DamagedCheckpointError: It is damaged; of a finished run no older one takes its place.
    """
    state = start(_model(config), config.training, config.curricula)
    if not folder.checkpoints().restore(state, folder.step_to_measure(config, checkpoint)):
        raise invalid("run", str(folder.path), "a run with an intact checkpoint", "train it first")
    for group in state.optimizer.param_groups:
        group["lr"] = config.training.rate(state.step - 1)
    return state


def _model(config: RunConfig) -> nn.Module:
    shape, condition = config.data.dimensions()
    model = build(config.model, shape, config.objective.condition(condition), config.seed)
    return model.to(device_for(config.training))


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
