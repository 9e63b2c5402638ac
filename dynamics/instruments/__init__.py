"""Instruments: what measures a run while it trains, or a checkpoint afterwards, and never changes it."""

from typing import Annotated, assert_never

from pydantic import Field

from dynamics.data import DataSource
from dynamics.flow.times import TimeLaw
from dynamics.instruments.cells import CellsOptions, CellsProbe
from dynamics.instruments.decomposition import DecompositionOptions, DecompositionProbe
from dynamics.instruments.gaps import GapProbe, GapsOptions
from dynamics.instruments.gram import GramOptions, GramProbe
from dynamics.instruments.lookahead import LookaheadOptions, LookaheadProbe
from dynamics.instruments.row_gram import RowGramOptions, RowGramProbe
from dynamics.instruments.settings import settings
from dynamics.objectives import Objective
from dynamics.training import Observer

AnyOptions = GapsOptions | CellsOptions | GramOptions | RowGramOptions | LookaheadOptions | DecompositionOptions
ObserverOptions = Annotated[AnyOptions, Field(discriminator="kind")]

__all__ = [
    "AnyOptions",
    "CellsOptions",
    "CellsProbe",
    "DecompositionOptions",
    "DecompositionProbe",
    "GapProbe",
    "GapsOptions",
    "GramOptions",
    "GramProbe",
    "LookaheadOptions",
    "LookaheadProbe",
    "ObserverOptions",
    "RowGramOptions",
    "RowGramProbe",
    "observer",
    "settings",
]


def observer(
    options: AnyOptions, data: DataSource, objective: Objective, law: TimeLaw, seed: int, progress: bool = False
) -> Observer:
    """Build the observer that `options` describe.

    Args:
        options: Of any kind.
        data: The run's data.
        objective: The run's objective.
        law: The run's law of (t, r).
        seed: The run's seed; every observer draws from streams of its own.
        progress: Show a bar while gradients are taken.
    """
    match options:
        case CellsOptions():
            return CellsProbe(options)
        case GapsOptions():
            return GapProbe(data, objective, options, seed)
        case GramOptions():
            return GramProbe(data, objective, law, options, seed, progress)
        case RowGramOptions():
            return RowGramProbe(data, objective, law, options, seed, progress)
        case LookaheadOptions():
            return LookaheadProbe(data, objective, law, options, seed, progress)
        case DecompositionOptions():
            return DecompositionProbe(data, objective, law, options, seed, progress)
        case _:
            assert_never(options)
