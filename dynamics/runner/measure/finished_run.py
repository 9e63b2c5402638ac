"""A finished run as measurements need it: its network or state at a checkpoint, and what was measured before."""

import sys
from collections.abc import Mapping, Sequence
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
from dynamics.store import group_of_protocol, protocol_name, read_run
from dynamics.training import TrainState, device_for, length_in, start


def load_network(
    run_dir: Path,
    weights: str = "ema",
    checkpoint: int | None = None,
    guidance_scale: float | None = None,
    guidance_interval: tuple[float, float] | None = None,
) -> tuple[Velocity, int]:
    """Return u(z, t, r, c) of a run, c being a condition of its data, and the step of its checkpoint."""
    folder = RunFolder(Path(run_dir))
    config = folder.read_config()
    objective = config.objective.asking_for(guidance_scale, guidance_interval)
    net, step = network_at(folder, config, weights, checkpoint)
    return asked_by_data(net, objective), step


def network_at(
    folder: RunFolder, config: RunConfig, weights: str = "ema", checkpoint: int | None = None
) -> tuple[Network, int]:
    """Return what may be done with a run's weights, and the checkpoint's step; teachers are its first average and those
    that its objective names.

    Weights such as "length0.05" are rebuilt from the run's snapshots, and teach themselves where "ema" is asked for.
    """
    model = _model(config)
    device = next(model.parameters()).device

    def of(which: str, step: int | None) -> tuple[int, Velocity]:
        length = length_in(which)
        if length is None:
            found, tensors = folder.checkpoints(config).weights(step, which)
        else:
            found, tensors = folder.snapshots(config).rebuilt_weights(length, step)
        return found, bound(model, {name: tensor.to(device) for name, tensor in tensors.items()})

    step, chosen = of(weights, folder.step_to_measure(config, checkpoint))
    teaches_itself = weights == "ema" or length_in(weights) is not None
    average = chosen if teaches_itself else of("ema", step)[1]
    averages = {str(config.training.ema_decays[0]): average}
    others = set(config.objective.teachers()) - {"model", "ema", *averages}
    return Network(chosen, averages | {name: of(name, step)[1] for name in sorted(others)}), step


def check_ema_lengths(run_dir: Path, lengths: Sequence[float], checkpoint: int | None = None) -> None:
    """Refuse lengths of averages that a finished run's snapshots do not carry, before any of them is measured.

    Raises:
        ValueError: Naming the first.
    """
    folder = RunFolder(Path(run_dir))
    for length in lengths:
        config = folder.finished_config()
        folder.snapshots(config).summands(length, folder.step_to_measure(config, checkpoint))


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
    if not folder.checkpoints(config).restore(state, folder.step_to_measure(config, checkpoint)):
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


def earlier(
    folder: RunFolder, stem: str, about: Mapping[str, object], last_step: int, replace: bool = False
) -> tuple[str, xr.Dataset | None]:
    """Return the group of run.nc for measurements of a protocol, and what it holds; None if there is nothing.

    Args:
        folder: The run.
        stem: evaluation or fid.
        about: Attributes that say how it is measured; those that the user chooses name the protocol.
        last_step: Steps of the run.
        replace: Whether a group of the same protocol that was made with other files may go.

    Raises:
        ValueError: Without `replace`, if there is one, made with another extractor, say.
    """
    groups = {name: child.to_dataset() for name, child in read_run(folder.result).children.items()}
    name = group_of_protocol(groups, stem, protocol_name(about, last_step), last_step)
    before = groups.get(name)
    there = {} if before is None else before.attrs
    different = {key: there[key] for key, value in about.items() if key in there and there[key] != value}
    if different and not replace:
        allowed = ", ".join(f"{key} {value}" for key, value in different.items())
        received = ", ".join(f"{key} {about[key]}" for key in different)
        remedy = "measure as before, or --replace, which drops those"
        raise invalid(f"protocol of the group {name}", received, f"{allowed}, as earlier measurements had", remedy)
    return name, None if different else before


def still_missing(
    before: xr.Dataset | None, field: str, nfe: Sequence[int], replace: bool = False, say: bool = True
) -> tuple[int, ...]:
    """Return the numbers of evaluations that a group does not hold yet, all of them where they are to be replaced.

    Args:
        before: The group, None if there is none.
        field: Sampled velocity.
        nfe: Numbers of evaluations that are asked for.
        replace: Whether what is there is measured anew.
        say: Say which were measured before.
    """
    asked = tuple(dict.fromkeys(nfe))
    there = [] if before is None or replace else [n for n in asked if _measured(before, field, n)]
    if there and say:
        numbers = ", ".join(map(str, there))
        print(f"NFE {numbers} of {field} was measured before in this way and stays (--replace)", file=sys.stderr)
    return tuple(n for n in asked if n not in there)


def _measured(before: xr.Dataset, field: str, nfe: int) -> bool:
    if field not in before["field"].values or nfe not in before["nfe"].values:
        return False
    one = before.sel(field=field, nfe=nfe)
    numbers = [one[name] for name in map(str, before.data_vars) if {"field", "nfe"} <= set(before[name].dims)]
    return not numbers or any(bool(((n > 0) if n.name == "samples" else n.notnull()).any()) for n in numbers)


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
        joined[name].attrs = (now if name in now.variables else before)[name].attrs
    return joined.assign_attrs(now.attrs)
