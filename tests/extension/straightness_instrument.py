"""An instrument in one file: how straight the path of the network's own v is, by time."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import xarray as xr
from pydantic import Field

from dynamics.instruments import InstrumentOptions, Probe
from dynamics.instruments.instrument import said
from dynamics.rng import generator
from dynamics.training import Recipe, TrainState


class StraightnessOptions(InstrumentOptions):
    """Mean squared distance of v along the network's own path to the path's mean velocity."""

    kind: Literal["straightness"] = "straightness"
    every: int = Field(default=100, gt=0)
    """Steps between measurements; the last step is always measured."""
    num_rows: int = Field(default=32, gt=1)
    """Paths."""
    num_steps: int = Field(default=8, gt=0)
    """Euler steps of each."""

    def observer(self, recipe: Recipe, progress: bool = False) -> "StraightnessProbe":
        return StraightnessProbe(recipe, self, progress)


@dataclass(frozen=True)
class StraightnessProbe(Probe[StraightnessOptions]):
    """Follows paths from the same noise at every measurement."""

    def measure(self, state: TrainState) -> xr.Dataset:
        o, recipe, net = self.options, self.recipe, state.network("ema")
        device = next(state.model.parameters()).device
        start = torch.randn(o.num_rows, *recipe.data.shape, generator=generator(recipe.seed, "straightness"))
        conditions = recipe.condition.draw(o.num_rows, "uniform", generator(recipe.seed, "straightness", "c"))
        z, c, h = start.to(device), conditions.to(device), 1 / o.num_steps
        times = [1 - i * h for i in range(o.num_steps)]
        velocities = []
        for t in (torch.full((o.num_rows,), time, device=device) for time in times):
            velocities.append(net.frozen(z, t, t, c))
            z = z - h * velocities[-1]
        mean = start.to(device) - z  # from t = 1 to 0
        bends = torch.stack([(v - mean).flatten(1).square().sum(1) for v in velocities]).double().cpu()
        unit = {"units": "squared pixel"}
        text = "squared distance of v to the mean velocity of its path"
        content = {
            "bend": (("t",), bends.mean(1).numpy(), {**unit, "long_name": text}),
            "bend_sem": (
                ("t",),
                (bends.std(1) / math.sqrt(o.num_rows)).numpy(),
                {**unit, "long_name": f"{text}, standard error over paths"},
            ),
        }
        return xr.Dataset(content, {"t": ("t", times, {"units": "1", "long_name": "time t"})}, said(o))
