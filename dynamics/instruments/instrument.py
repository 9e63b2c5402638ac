"""What every instrument is: options that build an observer, and when it measures."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, TypeVar

import xarray as xr

from dynamics.flow.rows import Rows
from dynamics.objectives import Objective
from dynamics.options import Family, Options, invalid
from dynamics.rng import generator
from dynamics.training import Observer, Recipe, TrainState

UNSAID = {"kind", "every", "by_time", "num_splits", "groups", "rows_per_pass", "learning_rate"}
"""Options that leave the meaning of the values alone, or show in the result itself."""

TAKEN_GROUPS = ("training", "alarms", "nonfinite", "monitor", "evaluation", "fid")
"""Groups of a run's log or file that others write; an instrument's group is its kind."""


class InstrumentOptions(Family):
    """What to measure, and how often. A new instrument is one file: a subclass with a `kind` of its own."""

    WHILE_TRAINING: ClassVar[bool] = False
    """Whether it records what exists only while a run trains, and cannot measure a checkpoint afterwards."""

    kind: str
    every: int

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        field = cls.model_fields.get("kind")
        if field is not None and field.default in TAKEN_GROUPS:
            allowed = f"none of {', '.join(TAKEN_GROUPS)}, which are other groups of a run"
            raise invalid(f"kind of {cls.__name__}", field.default, allowed, "choose another name")
        super().__pydantic_init_subclass__(**kwargs)

    @abstractmethod
    def observer(self, recipe: Recipe, progress: bool = False) -> Observer:
        """Return what measures runs of a recipe.

        Args:
            recipe: What is trained, and how.
            progress: Show a bar while it measures.

        Raises:
            ValueError: It cannot measure such runs.
        """

    @property
    def needs_moments(self) -> bool:
        """Whether it reads the optimiser's moments, which exist from the first step on."""
        return False

    def due(self, step: int, num_steps: int) -> bool:
        """Return whether to measure after `step` steps; the last step is always measured, and the first if it can."""
        if step == 0 and self.needs_moments:
            return False
        return step % self.every == 0 or step == num_steps


O = TypeVar("O", bound=InstrumentOptions)


@dataclass(frozen=True)
class Probe(Observer, Generic[O]):
    """An observer of runs of one recipe."""

    recipe: Recipe
    options: O
    progress: bool = False
    """Show a bar while gradients are taken."""

    @property
    def group(self) -> str:
        """Group of the run's file that takes the measurements: the instrument's kind."""
        return self.options.kind

    def due(self, step: int, num_steps: int) -> bool:
        """Return whether to measure after `step` steps."""
        return self.options.due(step, num_steps)

    def measure(self, state: TrainState) -> xr.Dataset:
        """Return the measurement of a state, without a step dimension."""
        raise NotImplementedError


def asking(rows: Rows, objective: Objective, seed: int, *stream: str | int) -> Rows:
    """Return rows of the data with the condition that the objective's network takes, and what else its loss draws.

    `seed` and `stream` name the random numbers.
    """
    rows = replace(rows, c=objective.ask(rows.c), condition=objective.condition(rows.condition))
    return objective.extended(rows, generator(seed, *stream))


def said(options: Options) -> dict[str, Any]:
    """Return the attributes of a measurement; measurements of one series must agree in them.

    Example:
        >>> from dynamics.instruments import GapsOptions
        >>> said(GapsOptions(gap_edges=(0.1, 0.9), t_edges=(0.0, 1.0)))
        {'rows_per_bin': 64, 'gap_edges': [0.1, 0.9], 't_edges': [0.0, 1.0], 'weights': 'ema'}
    """
    content = {name: value for name, value in options.model_dump().items() if name not in UNSAID}
    if content.get("backend") == "exact":
        del content["sketch_size"]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in content.items()}
