"""Starting a run from another run's checkpoint."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from dynamics.options import Options, invalid, later
from dynamics.training.checkpoint import Checkpoints, fill_moments, fill_weights
from dynamics.training.checkpoint_content import weights_files
from dynamics.training.shards import Shards
from dynamics.training.state import TrainState, weights_of


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
    averages: Literal["fresh", "carried"] = later("fresh")
    """Averages of the weights: begun at the weights that are taken, or those of the checkpoint, by name.

    What is measured on averages is the same before the first step and at the end only if they are carried.
    """

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
    """Hash of the file of weights; if they are in parts, the hash of the parts' hashes."""


def check_averages(options: StartOptions, wanted: Collection[str], there: Collection[str]) -> None:
    """Refuse to carry averages that the other run does not have.

    Raises:
        ValueError: Naming them.
    """
    if options.averages == "carried" and not set(wanted) <= set(there):
        received = f"carried, with the averages {', '.join(wanted)}"
        allowed = f"carried, with averages among those of the run to start from: {', '.join(there)}"
        raise invalid("start.averages", received, allowed, "change training.ema_decays, or use fresh ones")


def inherit(state: TrainState, parent: Checkpoints, options: StartOptions) -> Origin:
    """Put another run's weights into a state before its first step; every average starts at them, or is carried.

    Args:
        state: As `start` returns it, whole or split; changed in place. Step, curricula and sums stay those of a run
            that begins.
        parent: Checkpoints of the other run.
        options: Which of them, and what to take.

    Raises:
        ValueError: There is no such checkpoint, it belongs to another model, or lacks an average that is carried.
        DamagedCheckpointError: It fails its checksums. No other one takes its place: this would be another experiment.
    """
    assert state.step == 0, "only a run that has not begun can start from another one"
    step = parent.last() if options.step is None else options.step
    content = parent.verify(step)
    folder = parent.path(step)
    check_averages(options, state.emas, content["emas"])
    fill_weights(state, folder, content, options.weights)
    state.emas = {decay: weights_of(state.model) for decay in state.emas}
    if options.averages == "carried":
        for average, weights in state.emas.items():
            shards = Shards.open(folder / name for name in weights_files(content, average))
            for name, weight in weights.items():
                shards.fill(name, weight)
    if options.optimizer == "carried":
        fill_moments(state, folder, content)  # step size, decay rates and the like are this run's own
    hashes = [content["sha256"][name] for name in weights_files(content, options.weights)]
    return Origin(step, hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest())
