"""Weights, averages and moments split evenly over the ranks (FSDP2), and whole again for whoever measures.

A state is split before a checkpoint is read into it, and gathered when an observer looks at it: observers know only
whole states. Checkpoints are written and read in parts, see `checkpoint`.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dynamics.training.distributed import is_split, whole, world
from dynamics.training.state import TrainState

Convert = Callable[[Tensor], Tensor]


def split(state: TrainState) -> None:
    """Split a state over all ranks, in place; each rank must hold the same one.

    The network puts its weights together while it computes: block by block, and once what is outside of the blocks.
    """
    # imported here: it takes a second, and most runs have one process
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor, Shard

    here, model = world(), state.model
    state.blank = _blank(model)
    mesh = init_device_mesh(next(model.parameters()).device.type, (here.size,))
    for block in getattr(model, "blocks", ()):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)

    def part(tensor: Tensor) -> Tensor:
        parts = tensor.chunk(here.size)
        own = parts[here.rank] if here.rank < len(parts) else tensor[:0]
        # a copy, since a view would keep the whole; split along the first dimension, as the weights are
        return DTensor.from_local(own.clone(), mesh, [Shard(0)], shape=tensor.shape, stride=tensor.stride())

    state.emas = {decay: {name: part(weight) for name, weight in ema.items()} for decay, ema in state.emas.items()}
    state.optimizer = _optimizer(model.parameters(), _converted(state.optimizer, part))


def gathered(state: TrainState) -> TrainState:
    """Return a whole state on the first rank; every rank must call this, and the others get their own part back.

    A state that is not split comes back as it is.
    """
    if not is_split(next(state.model.parameters())):
        return state
    first = world().first

    def together(tensor: Tensor) -> Tensor:
        out = whole(tensor.detach())
        return out if first else out.new_empty(0)  # the others take part, and keep nothing

    weights = [together(parameter) for parameter in state.model.parameters()]
    emas = {decay: {name: together(weight) for name, weight in ema.items()} for decay, ema in state.emas.items()}
    moments = _converted(state.optimizer, together)
    if not first or state.blank is None:
        return state
    model = copy.deepcopy(state.blank)
    for parameter, weight in zip(model.parameters(), weights, strict=True):
        parameter.data = weight
    return replace(state, model=model, emas=emas, optimizer=_optimizer(model.parameters(), moments), blank=None)


def _blank(model: nn.Module) -> nn.Module:
    """Return a copy of the model with empty weights."""
    out = copy.deepcopy(model)
    for parameter in out.parameters():
        parameter.data = parameter.data.new_empty(0)
    return out


def _converted(optimizer: torch.optim.AdamW, convert: Convert) -> dict[str, Any]:
    """Return an optimiser's state with other moments; the number of steps, a scalar, stays."""
    content = optimizer.state_dict()
    moments = {
        index: {name: convert(tensor) if tensor.dim() else tensor for name, tensor in of_parameter.items()}
        for index, of_parameter in content["state"].items()
    }
    return {**content, "state": moments}


def _optimizer(parameters: Iterable[nn.Parameter], content: dict[str, Any]) -> torch.optim.AdamW:
    out = torch.optim.AdamW(parameters)
    out.load_state_dict(content)  # with its step size, decay rates and the like
    return out
