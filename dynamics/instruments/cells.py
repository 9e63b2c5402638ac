"""Sums of losses over every training row so far, by time and by gap."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import xarray as xr
from pydantic import Field

from dynamics.instruments.gaps import bin_coordinates
from dynamics.instruments.instrument import InstrumentOptions, Probe
from dynamics.record import GAP_EDGES, QUANTITIES, T_EDGES
from dynamics.training import Recipe, TrainState

_TEXTS = {
    "count": ("rows", "number of training rows"),
    "raw": ("squared pixel", "raw training loss"),
    "weighted": ("1", "training loss with its adaptive and curriculum weights"),
    "target_norm": ("pixel", "norm of the target"),
    "du_dt_norm": ("pixel", "norm of du/dt"),
}


class CellsOptions(InstrumentOptions):
    """Losses of all training rows by time and gap bin."""

    WHILE_TRAINING: ClassVar[bool] = True

    kind: Literal["cells"] = "cells"
    every: int = Field(default=50, gt=0)
    """Steps between records; the first and the last step are always recorded."""

    def observer(self, recipe: Recipe, progress: bool = False) -> "CellsProbe":
        return CellsProbe(recipe, self, progress)


@dataclass(frozen=True)
class CellsProbe(Probe[CellsOptions]):
    """Records what training itself has summed up."""

    def measure(self, state: TrainState) -> xr.Dataset:
        """Return sums over all rows of all steps so far; two records differ by the rows between them.

        Returns:
            `count` and the sums `raw`, `weighted`, `target_norm`, `du_dt_norm` [t_bin, gap_bin]. The first gap bin,
            from 0 to 0, holds the r = t rows, for which du/dt is not computed. `analysis.loss_cells` makes means of it.
        """
        content = {}
        for name, sums in zip(QUANTITIES, state.cells.clone().numpy(), strict=True):
            units, text = _TEXTS[name]
            attrs = {"units": units, "long_name": f"{text}, sum over all rows since step 0"}
            content[name] = (("t_bin", "gap_bin"), sums, attrs)
        return xr.Dataset(content, bin_coordinates(T_EDGES, (0.0, *GAP_EDGES)))
