"""The training loop: plan, draw, step, observe, checkpoint."""

from collections.abc import Collection, Sequence
from functools import partial
from signal import Signals
from typing import Protocol

import xarray as xr

from dynamics.curricula import Curriculum, Progress, plan_for
from dynamics.data import DataSource
from dynamics.flow.times import TimesOptions
from dynamics.objectives import Objective
from dynamics.training.ahead import Ahead
from dynamics.training.checkpoint import Checkpoints
from dynamics.training.disk import checkpoint_bytes, room_for
from dynamics.training.distributed import largest, on_first
from dynamics.training.options import TrainingOptions
from dynamics.training.record import StepRecord
from dynamics.training.sharding import gathered
from dynamics.training.state import TrainState
from dynamics.training.step import NonFiniteLossError, draw, images, passes, skip, train_step
from dynamics.training.stop import TIME_IS_UP, StopRequest, TimeLimit


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


class Recorder:
    """Who keeps what a run yields: told on the first rank alone, in order. This one keeps nothing.

    Measurements of a step follow the step's record, and both precede its checkpoint, so that whoever keeps them (and
    puts them on the disk in `before_checkpoint`) can rewind to any checkpoint.
    """

    def on_step(self, record: StepRecord) -> None:
        """Take the record of a step that was done."""

    def on_skip(self, error: NonFiniteLossError) -> int:
        """Take a step that is to be left out; return how many in a row there are, those of earlier attempts counted."""
        return 1

    def before_measurement(self, group: str) -> None:
        """Hear that a measurement begins."""

    def on_measurement(self, group: str, step: int, dataset: xr.Dataset) -> None:
        """Take what an observer measured."""

    def before_checkpoint(self, step: int) -> None:
        """Put on the disk what belongs to the steps so far."""

    def after_checkpoint(self, step: int) -> None:
        """Hear that a checkpoint is complete."""


class Interrupted(RuntimeError):
    """The run stopped on a signal or before a time limit, which counts as SIGUSR2, with a checkpoint."""

    def __init__(self, signal: Signals, step: int, time_is_up: bool = False) -> None:
        super().__init__(signal, step, time_is_up)
        self.signal, self.step, self.time_is_up = signal, step, time_is_up

    def __str__(self) -> str:
        why = "before the time limit" if self.time_is_up else f"by {self.signal.name}"
        return f"stopped {why} at step {self.step}, checkpoint written"


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
    recorder: Recorder | None = None,
    going_on: Collection[Signals] = (),
    limit: TimeLimit | None = None,
) -> None:
    """Train from state.step to options.num_steps; every rank calls this, with an equal state or its part of it.

    Of several ranks the first one alone speaks to the recorder, measures and saves; if that fails, all raise its error.

    Raises:
        Interrupted: on SIGTERM, SIGUSR2 or Ctrl-C, after a checkpoint; those among `going_on` only write a checkpoint.
            Also when the limit is near.
        NonFiniteLossError: from the step that met it, or the last of those that were left out.
        DiskFullError: there was no room for a checkpoint or a record.
    """
    recorder, limit = recorder or Recorder(), limit or TimeLimit()
    ways = passes(state.model, options)
    of_step = partial(images, data, options.batch_size, seed)
    with StopRequest(going_on) as stop, Ahead(of_step, options.num_steps, on=data.drawn_by_rank) as ahead:
        if state.step == 0:
            _measure(state, observers, options, recorder)
        while state.step < options.num_steps:
            plan = plan_for(times, curricula, Progress(state.step, options.num_steps), state.curricula)
            drawn = ahead.take(state.step)
            rows = draw(data, plan, objective, options.batch_size, seed, state.step, drawn=drawn)
            try:
                record = train_step(state, ways, objective, plan, rows, options, curricula, data.num_classes)
            except NonFiniteLossError as error:
                _skip(state, error, options, recorder)
            else:
                on_first(partial(recorder.on_step, record))
            _measure(state, observers, options, recorder)
            # a signal reaches the ranks at different steps, or only one of them: all stop at the same one
            wish = TIME_IS_UP if limit.near() else int(stop.received or 0)
            wish, asked = divmod(largest(2 * wish + stop.asked), 2)
            finished = state.step == options.num_steps
            if finished or wish or asked or state.step % options.checkpoint_every == 0:
                with limit.saving():
                    _save(state, checkpoints, recorder)
                stop.asked = False
            if wish and not finished:
                raise Interrupted(
                    Signals.SIGUSR2 if wish == TIME_IS_UP else Signals(wish), state.step, wish == TIME_IS_UP
                )


def _skip(state: TrainState, error: NonFiniteLossError, options: TrainingOptions, recorder: Recorder) -> None:
    """Leave a step out, if that is allowed."""
    if not options.skip_nonfinite or on_first(lambda: recorder.on_skip(error)) > options.skip_nonfinite:
        raise error
    skip(state)


def _measure(state: TrainState, observers: Sequence[Observer], options: TrainingOptions, recorder: Recorder) -> None:
    """Let the observers that are due measure."""
    due = [observer for observer in observers if observer.due(state.step, options.num_steps)]
    if not due:
        return
    seen = gathered(state)

    def act() -> None:
        for observer in due:
            recorder.before_measurement(observer.group)
            recorder.on_measurement(observer.group, state.step, observer.measure(seen))

    on_first(act)


def _save(state: TrainState, checkpoints: Checkpoints, recorder: Recorder) -> None:
    on_first(lambda: recorder.before_checkpoint(state.step))
    with room_for(f"the checkpoint of step {state.step}", checkpoints.folder, checkpoint_bytes(state)):
        checkpoints.save(state)
    on_first(lambda: recorder.after_checkpoint(state.step))
