"""Instruments: what measures a run while it trains, or a checkpoint afterwards, and never changes it."""

from typing import Annotated

from pydantic import Field

from dynamics.data import DataSource
from dynamics.instruments.gaps import GapProbe, GapsOptions
from dynamics.objectives import Objective
from dynamics.training import Observer

# a second observer turns this into a union with discriminator "kind"
ObserverOptions = Annotated[GapsOptions, Field()]

__all__ = ["GapProbe", "GapsOptions", "ObserverOptions", "observer"]


def observer(options: GapsOptions, data: DataSource, objective: Objective, seed: int) -> Observer:
    """Build the observer that `options` describe."""
    return GapProbe(data, objective, options, seed)
