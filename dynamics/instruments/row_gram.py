"""The Gram of single rows: any partition of (t, r) into tasks is chosen afterwards."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import xarray as xr
from pydantic import Field
from torch import Tensor

from dynamics.data import DataSource
from dynamics.flow.rows import Rows
from dynamics.flow.times import TimeLaw, UniformGap
from dynamics.instruments.gram import Array, GradientOptions, Group, check_memory, collect, products
from dynamics.instruments.settings import settings
from dynamics.objectives import Objective
from dynamics.rng import generator
from dynamics.training import TrainState


class RowGramOptions(GradientOptions):
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


@dataclass(frozen=True)
class RowGramProbe:
    """Measures the Gram of single rows (see `training.Observer`)."""

    data: DataSource
    objective: Objective
    law: TimeLaw
    """The training law of (t, r)."""
    options: RowGramOptions
    seed: int
    progress: bool = False
    """Show a bar while gradients are taken."""

    group = "gram_rows"

    def due(self, step: int, num_steps: int) -> bool:
        """Whether to measure after `step` steps; Adam's preconditioner exists from the first step on."""
        if step == 0 and self.options.precondition == "adam":
            return False
        return step % self.options.every == 0 or step == num_steps

    def measure(self, state: TrainState) -> xr.Dataset:
        """Return the Gram of single rows, those with r = t first.

        Returns:
            `gram` [group, row, row2]; `product_error` of the same shape, the sketch's standard error (0 when exact);
            `t`, `r`, `y` and the raw `loss` of each row.
        """
        check_memory(self.options.num_rows, state.model, self.options)
        rows = self.rows()
        groups = [Group(rows.part(i, i + 1), "meanflow") for i in range(len(rows))]
        collected, losses = collect(state, groups, self.data, self.objective, self.options, self.seed, self.progress)
        labels, gram, error = products(collected, self.options.groups, num_tasks=len(rows))
        row = {"units": "1", "long_name": "row"}
        columns: dict[str, tuple[Tensor, str, str]] = {
            "t": (rows.t, "1", "later time t"),
            "r": (rows.r, "1", "earlier time r"),
            "y": (rows.y, "1", "label"),
            "loss": (torch.from_numpy(losses), "squared pixel", "raw loss"),
        }
        said = {"units": "squared gradient norm", "long_name": "inner product of the gradients of two rows"}
        content: dict[str, tuple[tuple[str, ...], Array, dict[str, str]]] = {}
        content["gram"] = (("group", "row", "row2"), gram, said)
        error_said = {**said, "long_name": "standard error of the inner product, by the sketch"}
        content["product_error"] = (("group", "row", "row2"), error, error_said)
        for name, (values, units, text) in columns.items():
            content[name] = (("row",), values.double().numpy(), {"units": units, "long_name": text})
        coords = {
            "group": ("group", labels, {"long_name": "part of the model"}),
            **{dim: (dim, np.arange(len(rows)), row) for dim in ("row", "row2")},
        }
        return xr.Dataset(content, coords, attrs=settings(self.options))

    def rows(self) -> Rows:
        """Draw the rows, each independent of the others."""
        o, num_equal = self.options, max(1, round(self.options.equal_share * self.options.num_rows))
        seeds = [generator(self.seed, "row gram", i).initial_seed() for i in range(o.num_rows)]
        images = [self.data.batch(seed, 0, 1) for seed in seeds]
        x, y = (torch.cat(parts) for parts in zip(*images, strict=True))
        e = torch.randn(x.shape, generator=generator(self.seed, "row gram", "noise"))
        times = generator(self.seed, "row gram", "times")
        gap_law = self.law if o.t_law == "training" else UniformGap()
        equal_law = self.law if o.t_law == "training" else UniformGap(low=0, high=0)
        t_equal, _ = equal_law.sample(num_equal, times)
        t, r = gap_law.sample(o.num_rows - num_equal, times)
        dropped = torch.zeros(o.num_rows, dtype=torch.bool)
        return Rows(x, e, torch.cat([t_equal, t]), torch.cat([t_equal, r]), y, dropped, num_equal)
