"""Starting a run from another run's checkpoint."""

from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from safetensors.torch import load_file

from dynamics.options import Options, invalid
from dynamics.training.checkpoint import Checkpoints, check_model, weights_file
from dynamics.training.state import TrainState, load_weights, weights_of


class StartOptions(Options):
    """Where the first weights come from: drawn at random, or taken from another run."""

    run: str | None = None
    """run_id of the finished run to start from, whose folder is beside this one's; none draws the weights at random."""
    step: int | None = Field(default=None, ge=0)
    """Which of its checkpoints; none takes the last."""
    weights: Literal["model", "ema"] = "model"
    """Which of its weights: the raw ones, or their first average."""
    optimizer: Literal["fresh", "carried"] = "fresh"
    """Moments of the optimiser: zero, or those of the checkpoint."""

    @model_validator(mode="after")
    def _only_with_a_run(self) -> Self:
        changed = {name: value for name, value in self if value != type(self).model_fields[name].default}
        if self.run is None and changed:
            raise invalid("start", changed, "no change while start.run is none", "set start.run to a run_id")
        return self


@dataclass(frozen=True)
class Origin:
    """The checkpoint that a run started from."""

    step: int
    """Its step."""
    sha256: str
    """Hash of the file of weights."""


def inherit(state: TrainState, parent: Checkpoints, options: StartOptions) -> Origin:
    """Put another run's weights into a state before its first step; every average starts at them.

    Args:
        state: As `start` returns it; changed in place. Step, curricula and sums stay those of a run that begins.
        parent: Checkpoints of the other run.
        options: Which of them, and what to take.

    Raises:
        ValueError: There is no such checkpoint, or it belongs to another model.
        DamagedCheckpointError: It fails its checksums. No other one takes its place: this would be another experiment.
    """
    assert state.step == 0, "only a run that has not begun can start from another one"
    step = parent.last() if options.step is None else options.step
    content = parent.verify(step)
    folder, name = parent.path(step), weights_file(content["emas"], options.weights)
    weights = load_file(folder / name)
    check_model(folder, state, weights)
    load_weights(state.model, weights)
    state.emas = {decay: weights_of(state.model) for decay in state.emas}
    if options.optimizer == "carried":
        moments = torch.load(folder / "optimizer.pt", weights_only=True)["state"]
        # step size, decay rates and the like are this run's own
        state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": moments})
    return Origin(step, content["sha256"][name])
