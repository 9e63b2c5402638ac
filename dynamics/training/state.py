"""The one mutable object of training."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.func import functional_call

from dynamics.curricula import Curriculum, State
from dynamics.flow.path import Velocity
from dynamics.models import Model
from dynamics.training.cells import no_rows
from dynamics.training.distributed import local
from dynamics.training.options import TrainingOptions

Weights = dict[str, Tensor]


@dataclass
class TrainState:
    """Everything that changes while a run trains; changed only by `training.step`."""

    model: Model
    optimizer: torch.optim.AdamW
    emas: dict[str, Weights]
    """Averaged weights by the decay's decimal text."""
    curricula: list[State] = field(default_factory=list)
    """What each curriculum remembers."""
    step: int = 0
    """Optimiser steps done."""
    cells: Tensor = field(default_factory=no_rows)
    """Sums over all rows since step 0 [quantity, t bin, gap bin], see `training.cells`; never reset."""
    blank: Model | None = None
    """On the first rank, while weights are split over the ranks: the model without its weights, see `sharding`."""


def start(model: Model, options: TrainingOptions, curricula: tuple[Curriculum, ...]) -> TrainState:
    """Return the state before the first step; every average starts at the initial weights."""
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=options.learning_rate,
        betas=options.betas,
        weight_decay=options.weight_decay,
        foreach=True,
    )
    emas = {str(decay): weights_of(model) for decay in options.ema_decays}
    return TrainState(model, optimizer, emas, [c.initial_state() for c in curricula])


def weights_of(model: Model) -> Weights:
    """Return detached copies of the model's parameters by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def update_emas(state: TrainState) -> None:
    """ema <- decay * ema + (1 - decay) * weights, for every decay."""
    with torch.no_grad():
        parameters = [local(p.detach()) for p in state.model.parameters()]
        for decay, ema in state.emas.items():
            torch._foreach_lerp_([local(weight) for weight in ema.values()], parameters, 1 - float(decay))


def bound(model: Model, weights: Weights) -> Velocity:
    """Return u(z, t, r, y) of the model with other weights, without copying them into it."""

    def u(z: Tensor, t: Tensor, r: Tensor, y: Tensor) -> Tensor:
        out: Tensor = functional_call(model, weights, (z, t, r, y))
        return out

    return u


def network(state: TrainState, which: str) -> Velocity:
    """Return u of a running state: "model" for the raw weights, "ema" for the first average."""
    return bound(state.model, next(iter(state.emas.values()))) if which == "ema" else state.model
