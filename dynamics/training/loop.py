"""The training loop: plan, draw, step, observe, checkpoint."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from signal import Signals
from typing import Protocol

import xarray as xr

from dynamics.curricula import Curriculum, State
from dynamics.record import StepRecord
from dynamics.training.ahead import Ahead
from dynamics.training.checkpoint import Checkpoints
from dynamics.training.disk import checkpoint_bytes, room_for, snapshot_bytes
from dynamics.training.distributed import largest, on_first
from dynamics.training.optimisation import TrainingOptions
from dynamics.training.recipe import Recipe
from dynamics.training.sharding import gathered
from dynamics.training.snapshots import Snapshots
from dynamics.training.state import TrainState
from dynamics.training.step import NonFiniteLossError, draw, images, skip, train_step
from dynamics.training.stop import TIME_IS_UP, StopRequest, TimeLimit
from dynamics.training.training_network import TrainingNetwork


class Observer(Protocol):
    """Something that measures a run while it trains and never changes it; a curriculum may learn from what it finds."""

    @property
    def group(self) -> str:
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

    def on_skip(self, error: NonFiniteLossError) -> tuple[int, int]:
        """Take a step that is to be left out; return how many there are in a row and in all, of all attempts."""
        return 1, 1

    def before_measurement(self, group: str) -> None:
        """Hear that a measurement begins."""

    def on_measurement(self, group: str, step: int, dataset: xr.Dataset) -> None:
        """Take what an observer measured."""

    def before_checkpoint(self, step: int) -> str | None:
        """Put on the disk what belongs to the steps so far; return where the log is, for the checkpoint to say."""
        return None

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
    recipe: Recipe,
    checkpoints: Checkpoints,
    observers: Sequence[Observer] = (),
    recorder: Recorder | None = None,
    going_on: Collection[Signals] = (),
    limit: TimeLimit | None = None,
    snapshots: Snapshots | None = None,
) -> None:
    """Train from state.step to recipe.training.num_steps; every rank calls this, with an equal state or its part of it.

    Of several ranks the first one alone speaks to the recorder, measures and saves; if that fails, all raise its error.

    Raises:
        Interrupted: on SIGTERM, SIGUSR2 or Ctrl-C, after a checkpoint; those among `going_on` only write a checkpoint.
            Also when the limit is near.
        NonFiniteLossError: from the step that met it, or the last of those that were left out.
        DiskFullError: there was no room for a checkpoint or a record.
    """
    recorder, limit, options = recorder or Recorder(), limit or TimeLimit(), recipe.training
    net, kept = TrainingNetwork(state, options), frozenset(options.snapshot_steps)
    ahead_of_time = recipe.data.drawn_by_rank
    with StopRequest(going_on) as stop, Ahead(partial(images, recipe), options.num_steps, on=ahead_of_time) as ahead:
        if state.step == 0:
            _measure(state, recipe, observers, recorder)
        while state.step < options.num_steps:
            plan = recipe.plan(state.step, state.curricula)
            rows = draw(recipe, plan, state.step, drawn=ahead.take(state.step))
            try:
                record = train_step(state, net, recipe, plan, rows)
            except NonFiniteLossError as error:
                _skip(state, error, options, recorder)
            else:
                on_first(partial(recorder.on_step, record))
            _measure(state, recipe, observers, recorder)
            if snapshots is not None and state.step in kept:  # before the checkpoint that is past it
                with room_for(f"the snapshot of step {state.step}", snapshots.folder, snapshot_bytes(state, options)):
                    snapshots.save(state, options)
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
    if not options.skip_nonfinite:
        raise error
    in_a_row, in_all = on_first(lambda: recorder.on_skip(error))
    if in_a_row > options.skip_nonfinite or in_all > options.num_steps / 2:
        error.add_skipped(in_a_row, in_all, options.num_steps)
        raise error
    skip(state)


def _measure(state: TrainState, recipe: Recipe, observers: Sequence[Observer], recorder: Recorder) -> None:
    """Let the observers that are due measure, and the curricula learn from what they read."""
    due = [observer for observer in observers if observer.due(state.step, recipe.training.num_steps)]
    if not due:
        return
    seen = gathered(state)
    read = frozenset().union(*(curriculum.READS for curriculum in recipe.curricula))

    def act() -> dict[str, xr.Dataset]:
        kept = {}
        for observer in due:
            recorder.before_measurement(observer.group)
            measured = observer.measure(seen)
            recorder.on_measurement(observer.group, state.step, measured)
            if observer.group in read:
                kept[observer.group] = measured
        return kept

    if measured := on_first(act):
        state.curricula = [
            _learned(curriculum, memory, measured)
            for curriculum, memory in zip(recipe.curricula, state.curricula, strict=True)
        ]


def _learned(curriculum: Curriculum, memory: State, measured: Mapping[str, xr.Dataset]) -> State:
    mine = {group: dataset for group, dataset in measured.items() if group in curriculum.READS}
    return curriculum.learn(memory, mine) if mine else memory


def _save(state: TrainState, checkpoints: Checkpoints, recorder: Recorder) -> None:
    mark = on_first(lambda: recorder.before_checkpoint(state.step))
    with room_for(f"the checkpoint of step {state.step}", checkpoints.folder, checkpoint_bytes(state)):
        checkpoints.save(state, mark)
    on_first(lambda: recorder.after_checkpoint(state.step))
