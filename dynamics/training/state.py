"""The one mutable object of training."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dynamics.curricula import Curriculum, State
from dynamics.models import Network, bound
from dynamics.options import invalid
from dynamics.record import no_rows
from dynamics.training.distributed import local
from dynamics.training.optimisation import TrainingOptions
from dynamics.training.power_averages import decay_in_step

Weights = dict[str, Tensor]


@dataclass
class TrainState:
    """Everything that changes while a run trains; changed only by `training.step`."""

    model: nn.Module
    optimizer: torch.optim.AdamW
    emas: dict[str, Weights]
    """Averaged weights by name: the decay's decimal text, then "length0.05" of power functions of time."""
    curricula: list[State] = field(default_factory=list)
    """What each curriculum remembers."""
    step: int = 0
    """Optimiser steps done."""
    cells: Tensor = field(default_factory=no_rows)
    """Sums over all rows since step 0 [quantity, t bin, gap bin], see `record.row_table`; never reset."""
    blank: nn.Module | None = None
    """While weights are split over the ranks: the model without its weights, see `sharding`."""

    def average(self, which: str = "ema") -> Weights:
        """Return averaged weights by name: the first average ("ema"), or one such as "0.999" or "length0.05"."""
        decay = next(iter(self.emas)) if which == "ema" else which
        if decay not in self.emas:
            allowed = ", ".join(("model", "ema", *self.emas))
            raise invalid("weights", which, allowed, "name a recorded average (training.ema_decays)")
        return self.emas[decay]

    def weights(self, which: str) -> Weights:
        """Return the raw weights ("model") or an average by name, without gradient and without copying."""
        if which != "model":
            return self.average(which)
        return {name: parameter.detach() for name, parameter in self.model.named_parameters()}

    def network(self, which: str, weights: Weights | None = None) -> Network:
        """Return what an instrument may do with some weights; the averages are its teachers.

        Args:
            which: "model" for the raw weights, "ema" for the first average, or a decay such as "0.999".
            weights: Those weights by name, if a backward pass is not to reach the model's own parameters.
        """
        averages = {decay: bound(self.model, weights) for decay, weights in self.emas.items()}
        if weights is None and which == "model":
            return Network(self.model, averages)
        return Network(bound(self.model, weights or self.weights(which)), averages)


def start(model: nn.Module, options: TrainingOptions, curricula: tuple[Curriculum, ...]) -> TrainState:
    """Return the state before the first step; every average starts at the initial weights."""
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=options.learning_rate,
        betas=options.betas,
        weight_decay=options.weight_decay,
        foreach=True,
    )
    emas = {average: weights_of(model) for average in options.averages}
    return TrainState(model, optimizer, emas, [c.initial_state() for c in curricula])


def weights_of(model: nn.Module) -> Weights:
    """Return detached copies of the model's parameters by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def update_emas(state: TrainState, averages: Iterable[str] | None = None) -> None:
    """ema <- decay * ema + (1 - decay) * weights, for every average or those named; the step's number counts from 0."""
    with torch.no_grad():
        parameters = [local(p.detach()) for p in state.model.parameters()]
        for average in state.emas if averages is None else averages:
            decay = decay_in_step(average, state.step + 1)
            torch._foreach_lerp_([local(weight) for weight in state.emas[average].values()], parameters, 1 - decay)
