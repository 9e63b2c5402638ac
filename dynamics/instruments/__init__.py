"""Instruments: what measures a run while it trains, or a checkpoint afterwards, and never changes it."""

from dynamics.instruments.cells import CellsOptions, CellsProbe
from dynamics.instruments.decomposition import DecompositionOptions, DecompositionProbe
from dynamics.instruments.gaps import GapProbe, GapsOptions
from dynamics.instruments.gram import GramOptions, GramProbe
from dynamics.instruments.instrument import InstrumentOptions, Probe, said
from dynamics.instruments.lookahead import LookaheadOptions, LookaheadProbe
from dynamics.instruments.row_gram import RowGramOptions, RowGramProbe
from dynamics.options import import_all

import_all(__name__, __path__)

__all__ = [
    "CellsOptions",
    "CellsProbe",
    "DecompositionOptions",
    "DecompositionProbe",
    "GapProbe",
    "GapsOptions",
    "GramOptions",
    "GramProbe",
    "InstrumentOptions",
    "LookaheadOptions",
    "LookaheadProbe",
    "Probe",
    "RowGramOptions",
    "RowGramProbe",
    "said",
]
