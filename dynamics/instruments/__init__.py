"""Instruments: what measures a run while it trains, or a checkpoint afterwards, and never changes it."""

from typing import Annotated

from pydantic import Field

from dynamics.data import DataSource
from dynamics.instruments.cells import CellsOptions, CellsProbe
from dynamics.instruments.gaps import GapProbe, GapsOptions
from dynamics.objectives import Objective
from dynamics.training import Observer

ObserverOptions = Annotated[GapsOptions | CellsOptions, Field(discriminator="kind")]

__all__ = ["CellsOptions", "CellsProbe", "GapProbe", "GapsOptions", "ObserverOptions", "observer"]


def observer(options: ObserverOptions, data: DataSource, objective: Objective, seed: int) -> Observer:
    """Build the observer that `options` describe."""
    if isinstance(options, CellsOptions):
        return CellsProbe(options)
    return GapProbe(data, objective, options, seed)
