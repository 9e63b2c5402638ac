"""Losses and exact velocity errors by time and by gap, measured on rows drawn directly inside each bin."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any, Literal, Self

import numpy as np
import torch
import xarray as xr
from pydantic import Field, model_validator
from torch import Tensor

from dynamics.data import DataSource
from dynamics.flow.oracle import GuidedOracle, Oracle, oracle_for
from dynamics.flow.path import Velocity
from dynamics.flow.rows import Rows
from dynamics.flow.times import UniformGap, check_edges
from dynamics.objectives import MeanFlow, Objective, total_derivative
from dynamics.options import Options
from dynamics.rng import generator
from dynamics.training import TrainState, network

CPU = torch.device("cpu")
Content = dict[str, tuple[tuple[str, ...], np.ndarray[Any, np.dtype[Any]]]]


class GapsOptions(Options):
    """Losses and exact errors per time and gap bin while training."""

    kind: Literal["gaps"] = "gaps"
    every: int = Field(default=250, gt=0)
    """Steps between measurements; the first and the last step are always measured."""
    rows_per_bin: int = Field(default=64, gt=1)
    """Rows drawn in each bin; the same rows at every measurement."""
    gap_edges: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    """Edges of the bins of the gap t - r."""
    t_edges: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    """Edges of the bins of t for the instantaneous velocity."""
    weights: Literal["ema", "model"] = "ema"
    """Which weights are measured: the first average, or the raw ones."""

    @model_validator(mode="after")
    def _edges(self) -> Self:
        check_edges("gap_edges", self.gap_edges)
        check_edges("t_edges", self.t_edges)
        return self


def exact_velocities(data: DataSource, objective: Objective) -> Oracle:
    """Return the oracle of what the objective converges to: guided if the objective guides."""
    oracle = oracle_for(data)
    guidance = objective.guidance
    if isinstance(objective, MeanFlow) and guidance.active:
        return GuidedOracle(oracle, guidance.w / (1 - guidance.k), guidance.t_start, guidance.t_end)
    return oracle


@dataclass(frozen=True)
class GapProbe:
    """Measures one network after another on the same rows; their exact velocities are solved for once."""

    data: DataSource
    objective: Objective
    options: GapsOptions
    seed: int

    group = "gaps"

    def due(self, step: int, num_steps: int) -> bool:
        """Whether to measure after `step` steps."""
        return step % self.options.every == 0 or step == num_steps

    def measure(self, state: TrainState) -> xr.Dataset:
        """Measure a run while it trains (see `training.Observer`)."""
        device = next(state.model.parameters()).device
        return self.errors(network(state, self.options.weights), device)

    @cached_property
    def rows(self) -> Rows:
        """Rows in the layout [t bins | gap bins | one-step rows at (1, 0)], `rows_per_bin` each."""
        n, o = self.options.rows_per_bin, self.options
        num_t, num_gap = len(o.t_edges) - 1, len(o.gap_edges) - 1
        times = generator(self.seed, "gap probe", "times")
        t, r = [], []
        for low, high in zip(o.t_edges, o.t_edges[1:], strict=False):
            t.append(low + (high - low) * torch.rand(n, generator=times))
            r.append(t[-1])
        for low, high in zip(o.gap_edges, o.gap_edges[1:], strict=False):
            drawn = UniformGap(low=low, high=high).sample(n, times)
            t.append(drawn[0])
            r.append(drawn[1])
        t.append(torch.ones(n))
        r.append(torch.zeros(n))
        total = n * (num_t + num_gap + 1)
        own_seed = generator(self.seed, "gap probe", "images").initial_seed()
        x, y = self.data.batch(own_seed, 0, total)
        e = torch.randn(x.shape, generator=generator(self.seed, "gap probe", "noise"))
        return Rows(x, e, torch.cat(t), torch.cat(r), y, torch.zeros(total, dtype=torch.bool), num_equal=n * num_t)

    @property
    def exact(self) -> Tensor:
        """u* of the rows (v* of the r = t rows), [B, C, H, W]."""
        return _exact(self)

    def errors(self, u: Velocity, device: torch.device = CPU) -> xr.Dataset:
        """Return losses and exact squared errors of a network, mean and standard error per bin.

        Args:
            u: The network.
            device: Where it computes.

        Returns:
            Variables v_loss, v_error, v_irreducible (t_bin), u_loss, u_error, u_scale (gap_bin) and the same three of
            the one-step rows (t, r) = (1, 0), in squared pixels summed over C, H, W; `*_sem` are standard errors over
            rows. v_irreducible is ||v - v*||^2: what no network can learn.
        """
        objective = self.objective if isinstance(self.objective, MeanFlow) else MeanFlow()
        rows, exact = self.rows.to(device), self.exact.to(device)
        with torch.no_grad():
            terms = objective.terms(u, partial(total_derivative, u), rows, self.data.num_classes)
        n, k = rows.num_equal, self.options.rows_per_bin
        error = _squares(terms.prediction - exact)
        scale = _squares(exact)
        _, v = rows.path()
        columns = {"loss": terms.raw, "error": error, "scale": scale}
        content: Content = {}
        parts = {"v": slice(0, n), "u": slice(n, -k), "one_step": slice(-k, None)}
        dims = {"v": ("t_bin",), "u": ("gap_bin",), "one_step": ()}
        for part, where in parts.items():
            for name, values in columns.items():
                _add(content, f"{part}_{name}", dims[part], values[where], k)
            products = (_centred(error[where], k) * _centred(scale[where], k)).sum(1) / (k * (k - 1))
            content[f"{part}_covariance"] = (dims[part], products.cpu().reshape([-1] * len(dims[part])).numpy())
        _add(content, "v_irreducible", ("t_bin",), _squares(v[:n] - exact[:n]), k)
        return _labelled(content, self.options)


@lru_cache(maxsize=4)
def _exact(probe: GapProbe) -> Tensor:
    """Solve for a probe's exact velocities; runs of one study ask for the same ones."""
    rows = probe.rows
    z, _ = rows.path()
    oracle, n = exact_velocities(probe.data, probe.objective), rows.num_equal
    u = oracle.u(z[n:], rows.t[n:], rows.r[n:], rows.y[n:])
    return torch.cat([oracle.v(z[:n], rows.t[:n], rows.y[:n]), u])


def _squares(a: Tensor) -> Tensor:
    return a.double().flatten(1).square().sum(1)


def _centred(a: Tensor, k: int) -> Tensor:
    table = a.reshape(-1, k)
    return table - table.mean(1, keepdim=True)


def _add(content: Content, name: str, dims: tuple[str, ...], values: Tensor, k: int) -> None:
    table = values.double().cpu().reshape(-1, k)
    mean, sem = table.mean(1), table.std(1) / math.sqrt(k)
    if not dims:
        mean, sem = mean[0], sem[0]
    content[name] = (dims, mean.numpy())
    content[f"{name}_sem"] = (dims, sem.numpy())


_NAMES = {
    "v": "instantaneous velocity",
    "u": "average velocity by gap",
    "one_step": "average velocity from (t, r) = (1, 0)",
    "loss": "raw training loss",
    "error": "squared distance to the exact velocity",
    "scale": "squared norm of the exact velocity",
    "irreducible": "squared distance of e - x to the exact velocity",
    "covariance": "covariance of the mean error and the mean squared norm",
}


def _labelled(content: Content, options: GapsOptions) -> xr.Dataset:
    coords = {}
    for dim, values in (("t_bin", options.t_edges), ("gap_bin", options.gap_edges)):
        low, high = np.array(values[:-1]), np.array(values[1:])
        what = "time t" if dim == "t_bin" else "gap t - r"
        for suffix, label, side in (
            ("", "middle", (low + high) / 2),
            ("_low", "lower edge", low),
            ("_high", "upper edge", high),
        ):
            coords[dim + suffix] = (dim, side, {"units": "1", "long_name": f"{label} of the bin of {what}"})
    variables = {}
    for name, (dims, mean) in content.items():
        base = name.removesuffix("_sem")
        part, quantity = base.rsplit("_", 1)
        text = f"{_NAMES[quantity]}, {_NAMES[part]}" + (", standard error over rows" if base != name else "")
        units = "squared pixel squared" if quantity == "covariance" else "squared pixel"
        variables[name] = (dims, mean, {"units": units, "long_name": text})
    attrs = {"rows_per_bin": options.rows_per_bin, "weights": options.weights}
    return xr.Dataset(variables, coords=coords, attrs=attrs)
