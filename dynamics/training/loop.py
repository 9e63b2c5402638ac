"""The training loop: plan, draw, step, observe, checkpoint."""

from collections.abc import Callable, Collection, Sequence
from signal import Signals
from typing import Protocol

import xarray as xr

from dynamics.curricula import Curriculum, Progress, plan_for
from dynamics.data import DataSource
from dynamics.flow.times import TimesOptions
from dynamics.objectives import Objective
from dynamics.training.checkpoint import Checkpoints
from dynamics.training.distributed import largest, on_first, world
from dynamics.training.options import TrainingOptions
from dynamics.training.record import StepRecord
from dynamics.training.sharding import gathered, split
from dynamics.training.state import TrainState
from dynamics.training.step import draw, passes, train_step
from dynamics.training.stop import StopRequest


class Observer(Protocol):
    """Something that measures a run while it trains and never changes it."""

    group: str
    """Group of the run's file that takes the measurements."""

    def due(self, step: int, num_steps: int) -> bool:
        """Whether to measure after `step` optimiser steps."""
        ...

    def measure(self, state: TrainState) -> xr.Dataset:
        """Return this step's measurement, without a step dimension; must draw from streams of its own."""
        ...


class Interrupted(RuntimeError):
    """The run stopped on a signal, with a checkpoint."""

    def __init__(self, signal: Signals, step: int) -> None:
        super().__init__(signal, step)
        self.signal, self.step = signal, step

    def __str__(self) -> str:
        return f"stopped by {self.signal.name} at step {self.step}, checkpoint written"


def fit(
    state: TrainState,
    data: DataSource,
    objective: Objective,
    times: TimesOptions,
    curricula: tuple[Curriculum, ...],
    options: TrainingOptions,
    seed: int,
    checkpoints: Checkpoints,
    observers: Sequence[Observer] = (),
    on_step: Callable[[StepRecord], None] = lambda record: None,
    on_measurement: Callable[[str, int, xr.Dataset], None] = lambda group, step, dataset: None,
    before_checkpoint: Callable[[], None] = lambda: None,
    going_on: Collection[Signals] = (),
) -> None:
    """Train from state.step to options.num_steps; every rank calls this, with an equal state.

    Records go out in order: measurements of a step follow the step's record, and both precede its checkpoint, so that
    whoever keeps them (and puts them on the disk in `before_checkpoint`) can rewind to any checkpoint. Of several ranks
    the first one alone hands out records, measures and saves; if that fails, all raise its error.

    Raises:
        Interrupted: on SIGTERM, SIGUSR2 or Ctrl-C, after a checkpoint; those among `going_on` only write a checkpoint.
        NonFiniteLossError: from the step that met it.
    """
    if world().size > 1 and options.parallel == "fsdp":
        split(state)
    ways = passes(state.model, options)

    def watch(record: StepRecord | None) -> None:
        due = [observer for observer in observers if observer.due(state.step, options.num_steps)]
        seen = gathered(state) if due else state

        def act() -> None:
            if record is not None:
                on_step(record)
            for observer in due:
                on_measurement(observer.group, state.step, observer.measure(seen))

        on_first(act)

    with StopRequest(going_on) as stop:
        if state.step == 0:
            watch(None)
        while state.step < options.num_steps:
            plan = plan_for(times, curricula, Progress(state.step, options.num_steps), state.curricula)
            rows = draw(data, plan, objective, options.batch_size, seed, state.step)
            watch(train_step(state, ways, objective, plan, rows, options, curricula, data.num_classes))
            # a signal reaches the ranks at different steps, or only one of them: all stop at the same one
            signal, asked = divmod(largest(2 * int(stop.received or 0) + stop.asked), 2)
            finished = state.step == options.num_steps
            if finished or signal or asked or state.step % options.checkpoint_every == 0:
                _save(state, checkpoints, before_checkpoint)
                stop.asked = False
            if signal and not finished:
                raise Interrupted(Signals(signal), state.step)


def _save(state: TrainState, checkpoints: Checkpoints, before: Callable[[], None]) -> None:
    seen = gathered(state)

    def act() -> None:
        before()
        checkpoints.save(seen)

    on_first(act)
