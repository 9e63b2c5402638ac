"""The Gram of single rows: any partition of (t, r) into tasks is chosen afterwards."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import xarray as xr
from pydantic import Field
from torch import Tensor

from dynamics.flow.condition import ClassLabels, concatenated
from dynamics.flow.rows import Rows
from dynamics.flow.times import UniformGap
from dynamics.instruments.gram import products
from dynamics.instruments.group_gradients import Array, GradientOptions, Group, check_memory, collect
from dynamics.instruments.instrument import InstrumentOptions, Probe, asking, said
from dynamics.rng import generator
from dynamics.training import Recipe, TrainState


class RowGramOptions(GradientOptions, InstrumentOptions):
    """Inner products between the gradients of single rows, each with its (t, r)."""

    kind: Literal["gram_rows"] = "gram_rows"
    every: int = Field(default=500, gt=0)
    """Steps between measurements; the last step is always measured."""
    num_rows: int = Field(default=192, ge=4)
    """Rows; the result has their square."""
    equal_share: float = Field(default=0.25, gt=0, lt=1)
    """Share of rows with r = t."""
    t_law: Literal["training", "uniform"] = "uniform"
    """Law of (t, r): the run's own, which hardly draws large gaps, or uniform gaps."""

    def observer(self, recipe: Recipe, progress: bool = False) -> "RowGramProbe":
        self.objective(recipe.objective)  # what cannot be measured fails here, before any work
        return RowGramProbe(recipe, self, progress)


@dataclass(frozen=True)
class RowGramProbe(Probe[RowGramOptions]):
    """Measures the Gram of single rows."""

    def measure(self, state: TrainState) -> xr.Dataset:
        """Return the Gram of single rows, those with r = t first.

        Returns:
            `gram` [group, row, row2]; `product_error` of the same shape, the sketch's standard error (0 when exact);
            `t`, `r`, `y` and the raw `loss` of each row.
        """
        check_memory(self.options.num_rows, state.model, self.options)
        rows = self.rows()
        groups = [Group(rows.part(i, i + 1)) for i in range(len(rows))]
        collected, losses = collect(state, groups, self.recipe, self.options, self.progress)
        parts, gram, error = products(collected, self.options.groups, num_tasks=len(rows))
        row = {"units": "1", "long_name": "row"}
        columns: dict[str, tuple[Tensor, str, str]] = {
            "t": (rows.t, "1", "later time t"),
            "r": (rows.r, "1", "earlier time r"),
            **labels_of(rows),
            "loss": (torch.from_numpy(losses), "squared pixel", "raw loss"),
        }
        about = {"units": "squared gradient norm", "long_name": "inner product of the gradients of two rows"}
        content: dict[str, tuple[tuple[str, ...], Array, dict[str, str]]] = {}
        content["gram"] = (("group", "row", "row2"), gram, about)
        about_error = {**about, "long_name": "standard error of the inner product, by the sketch"}
        content["product_error"] = (("group", "row", "row2"), error, about_error)
        for name, (values, units, text) in columns.items():
            content[name] = (("row",), values.double().numpy(), {"units": units, "long_name": text})
        coords = {
            "group": ("group", parts, {"long_name": "part of the model"}),
            **{dim: (dim, np.arange(len(rows)), row) for dim in ("row", "row2")},
        }
        return xr.Dataset(content, coords, attrs=said(self.options))

    def rows(self) -> Rows:
        """Draw the rows, each independent of the others."""
        o, num_equal = self.options, max(1, round(self.options.equal_share * self.options.num_rows))
        recipe, seed, laws = self.recipe, self.recipe.seed, self.recipe.times
        seeds = [generator(seed, "row gram", i).initial_seed() for i in range(o.num_rows)]
        images, conditions = zip(*(recipe.data.batch(own, 0, 1) for own in seeds), strict=True)
        x, c = torch.cat(images), concatenated(conditions)
        e = torch.randn(x.shape, generator=generator(seed, "row gram", "noise"))
        times = generator(seed, "row gram", "times")
        gap_law = laws.law if o.t_law == "training" else UniformGap()
        equal_law = laws.equal_law or laws.law if o.t_law == "training" else UniformGap(low=0, high=0)
        t_equal, _ = equal_law.sample(num_equal, times)
        t, r = gap_law.sample(o.num_rows - num_equal, times)
        dropped = torch.zeros(o.num_rows, dtype=torch.bool)
        t, r = torch.cat([t_equal, t]), torch.cat([t_equal, r])
        rows = Rows(x, e, t, r, c, dropped, num_equal, recipe.data.condition)
        return asking(rows, o.objective(recipe.objective), seed, "row gram", "more")


def labels_of(rows: Rows) -> dict[str, tuple[Tensor, str, str]]:
    """Return the class labels of rows, if they have any, to be recorded."""
    labels = isinstance(rows.condition, ClassLabels)
    return {"y": (rows.c, "1", "label")} if labels else {}
