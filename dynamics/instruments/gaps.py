"""Losses and exact velocity errors by time and by gap, measured on rows drawn directly inside each bin."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import pairwise
from typing import Any, Literal, Self

import numpy as np
import torch
import xarray as xr
from pydantic import Field, model_validator
from torch import Tensor

from dynamics.data import DataSource
from dynamics.flow.oracle import GuidedOracle, Oracle, oracle_for
from dynamics.flow.path import Velocity, expand
from dynamics.flow.rows import Rows
from dynamics.flow.times import UniformGap
from dynamics.instruments.settings import settings
from dynamics.objectives import MeanFlow, Objective, total_derivative
from dynamics.options import Options, check_edges
from dynamics.rng import generator
from dynamics.training import TrainState, network

CPU = torch.device("cpu")
Floats = np.ndarray[Any, np.dtype[np.float64]]


class BinOptions(Options):
    """Bins of time and gap, and the rows drawn directly inside each."""

    rows_per_bin: int = Field(default=64, gt=1)
    """Rows drawn in each bin; the same rows at every measurement."""
    gap_edges: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    """Edges of the bins of the gap t - r."""
    t_edges: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    """Edges of the bins of t for the instantaneous velocity."""

    @model_validator(mode="after")
    def _edges(self) -> Self:
        check_edges("gap_edges", self.gap_edges)
        check_edges("t_edges", self.t_edges)
        return self


class GapsOptions(BinOptions):
    """Losses and exact errors per time and gap bin."""

    kind: Literal["gaps"] = "gaps"
    every: int = Field(default=250, gt=0)
    """Steps between measurements; the first and the last step are always measured."""
    by_time: bool = False
    """Also measure u in every cell of a t bin and a gap bin."""
    weights: Literal["ema", "model"] = "ema"
    """Which weights are measured: the first average, or the raw ones."""


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
    def cells(self) -> list[tuple[int, int]]:
        """Indices (t bin, gap bin) of the cells that hold any gap <= t; none unless `by_time` asks for them."""
        o = self.options
        pairs = [(i, j) for i in range(len(o.t_edges) - 1) for j in range(len(o.gap_edges) - 1)]
        return [(i, j) for i, j in pairs if o.t_edges[i + 1] > o.gap_edges[j]] if o.by_time else []

    @cached_property
    def rows(self) -> Rows:
        """Rows in the layout [t bins | gap bins | cells | one-step rows at (1, 0)], `rows_per_bin` each."""
        n, o = self.options.rows_per_bin, self.options
        times = generator(self.seed, "gap probe", "times")
        t, r = [], []
        for low, high in pairwise(o.t_edges):
            t.append(low + (high - low) * torch.rand(n, generator=times))
            r.append(t[-1])
        for low, high in pairwise(o.gap_edges):
            drawn = UniformGap(low=low, high=high).sample(n, times)
            t.append(drawn[0])
            r.append(drawn[1])
        for i, j in self.cells:
            low, a, b = max(o.t_edges[i], o.gap_edges[j]), *torch.rand(2, n, generator=times)
            t.append(low + (o.t_edges[i + 1] - low) * a)
            gap = o.gap_edges[j] + (t[-1].clamp(max=o.gap_edges[j + 1]) - o.gap_edges[j]) * b
            r.append((t[-1] - gap).clamp(min=0))
        t.append(torch.ones(n))
        r.append(torch.zeros(n))
        total, num_equal = n * len(t), n * (len(o.t_edges) - 1)
        own_seed = generator(self.seed, "gap probe", "images").initial_seed()
        x, y = self.data.batch(own_seed, 0, total)
        e = torch.randn(x.shape, generator=generator(self.seed, "gap probe", "noise"))
        return Rows(x, e, torch.cat(t), torch.cat(r), y, torch.zeros(total, dtype=torch.bool), num_equal)

    @property
    def exact(self) -> Tensor | None:
        """u* of the rows (v* of the r = t rows), [B, C, H, W]; None of latents."""
        return None if self.data.is_latent else _exact(self)

    @property
    def noise(self) -> Tensor | None:
        """What the target of each r = t row has beyond its mean given z_t, [n, C, H, W]: w (v - v*) where guided; None
        of latents."""
        return None if self.data.is_latent else _noise(self)

    @property
    def parts(self) -> dict[str, tuple[slice, tuple[str, ...]]]:
        """Which rows belong to which part of the result, and its dimensions."""
        k, o = self.options.rows_per_bin, self.options
        n, m = k * (len(o.t_edges) - 1), k * (len(o.gap_edges) - 1)
        parts: dict[str, tuple[slice, tuple[str, ...]]] = {
            "v": (slice(0, n), ("t_bin",)),
            "u": (slice(n, n + m), ("gap_bin",)),
            "one_step": (slice(-k, None), ()),
        }
        if self.cells:
            parts["cell"] = (slice(n + m, -k), ("t_bin", "gap_bin"))
        return parts

    def errors(self, u: Velocity, device: torch.device = CPU) -> xr.Dataset:
        """Return losses and exact squared errors of a network, mean and standard error per bin.

        Args:
            u: The network.
            device: Where it computes.

        Returns:
            `v_*` [t_bin], `u_*` [gap_bin], `one_step_*` of the rows (t, r) = (1, 0) and, if asked for, `cell_*` [t_bin,
            gap_bin]: loss (raw), weighted (by the adaptive weight), error and scale (squared distance to the exact
            velocity, and its squared norm), target_norm, du_dt_norm (not for v), in pixels summed over C, H, W;
            `*_sem` are standard errors over rows. v_loss = v_irreducible + v_excess + v_cross: the variance of the
            target given z_t, which no network can learn; the squared distance to the target's mean given z_t, which is
            v_error where the target is not guided; and a rest of expectation 0. Every bin has `rows_per_bin` rows. Of
            latents there is nothing that needs exact velocities: no error, scale, irreducible, excess and cross.
        """
        objective = self.objective if isinstance(self.objective, MeanFlow) else MeanFlow()
        rows, exact, noise = self.rows.to(device), self.exact, self.noise
        with torch.no_grad():
            terms = objective.terms(u, partial(total_derivative, u), rows, self.data.num_classes)
        n = rows.num_equal
        columns = {"loss": terms.raw, "weighted": terms.raw * terms.adaptive}
        if exact is not None:
            columns["error"] = squared_norm(terms.prediction - exact.to(device))
            columns["scale"] = squared_norm(exact.to(device))
        columns["target_norm"] = terms.target_norm
        columns["du_dt_norm"] = torch.cat([torch.zeros_like(terms.raw[:n]), terms.du_dt_norm])
        table = Table(self.options)
        for part, (where, dims) in self.parts.items():
            for name, values in columns.items():
                if (part, name) != ("v", "du_dt_norm"):
                    table.add(part, name, dims, values[where], self.cells)
            if part != "cell" and exact is not None:
                table.add_covariance(part, dims, columns["error"][where], columns["scale"][where])
        if noise is not None:
            irreducible = squared_norm(noise.to(device))
            excess = squared_norm(terms.prediction[:n] - (terms.target[:n] - noise.to(device)))
            table.add("v", "irreducible", ("t_bin",), irreducible)
            table.add("v", "excess", ("t_bin",), excess)
            table.add("v", "cross", ("t_bin",), terms.raw[:n] - irreducible - excess)
        return table.dataset(settings(self.options))


@lru_cache(maxsize=32)
def _exact(probe: GapProbe) -> Tensor:
    """Solve for a probe's exact velocities; runs of one study ask for the same ones."""
    rows = probe.rows
    z, _ = rows.path()
    oracle, n = exact_velocities(probe.data, probe.objective), rows.num_equal
    u = oracle.u(z[n:], rows.t[n:], rows.r[n:], rows.y[n:])
    return torch.cat([oracle.v(z[:n], rows.t[:n], rows.y[:n]), u])


@lru_cache(maxsize=32)
def _noise(probe: GapProbe) -> Tensor:
    n = probe.rows.num_equal
    rows = probe.rows.part(0, n)
    z, v = rows.path()
    guidance = probe.objective.guidance
    if not (isinstance(probe.objective, MeanFlow) and guidance.active):
        return v - _exact(probe)[:n]
    noise = v - oracle_for(probe.data).v(z, rows.t, rows.y)
    # the network's own terms of a guided target are functions of z_t: they have no variance given it
    guided = (rows.t >= guidance.t_start) & (rows.t <= guidance.t_end)
    return torch.where(expand(guided, noise), guidance.w * noise, noise)


def squared_norm(a: Tensor) -> Tensor:
    """Sum over C, H, W of the squares, [B] float64."""
    return a.double().flatten(1).square().sum(1)


_PARTS = {
    "v": "instantaneous velocity",
    "u": "average velocity by gap",
    "cell": "average velocity by time and gap",
    "one_step": "average velocity from (t, r) = (1, 0)",
}
_SQUARED = "squared pixel"
_QUANTITIES = {
    "loss": (_SQUARED, "raw training loss"),
    "weighted": ("1", "training loss with its adaptive weight"),
    "error": (_SQUARED, "squared distance to the exact velocity"),
    "scale": (_SQUARED, "squared norm of the exact velocity"),
    "target_norm": ("pixel", "norm of the target"),
    "du_dt_norm": ("pixel", "norm of du/dt"),
    "irreducible": (_SQUARED, "variance of the target given z_t, the part of the loss that nothing can learn"),
    "excess": (_SQUARED, "squared distance to the mean of the target given z_t"),
    "cross": (_SQUARED, "loss less irreducible part less excess, 0 in expectation"),
    "covariance": ("squared pixel squared", "covariance of the mean error and the mean squared norm"),
    "inconsistency": (_SQUARED, "squared distance of u to the average of the network's own v along its path"),
    "inherited": (_SQUARED, "squared distance of that average to the exact velocity"),
    "error_cross": (_SQUARED, "error less inconsistency less inherited part"),
    "ode_error": (_SQUARED, "squared change of that average when its number of steps is halved"),
}


class Table:
    """Means over the rows of each bin, with standard errors, labelled."""

    def __init__(self, options: BinOptions) -> None:
        self.options, self.content = options, dict[str, Any]()

    def add(
        self,
        part: str,
        quantity: str,
        dims: tuple[str, ...],
        values: Tensor,
        cells: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Add the mean of a quantity over the rows of each bin, values [bins * rows_per_bin] bin by bin."""
        table = values.double().cpu().reshape(-1, self.options.rows_per_bin)
        units, text = _QUANTITIES[quantity]
        sem = table.std(1) / math.sqrt(table.shape[1])
        for suffix, numbers, kind in (("", table.mean(1), ""), ("_sem", sem, ", standard error over rows")):
            attrs = {"units": units, "long_name": f"{text}, {_PARTS[part]}{kind}"}
            self.content[f"{part}_{quantity}{suffix}"] = (dims, self._shaped(numbers.numpy(), dims, cells), attrs)

    def add_covariance(self, part: str, dims: tuple[str, ...], a: Tensor, b: Tensor) -> None:
        """Add the covariance of the means of two quantities."""
        k = self.options.rows_per_bin
        first, second = (x.double().cpu().reshape(-1, k) for x in (a, b))
        products = (first - first.mean(1, keepdim=True)) * (second - second.mean(1, keepdim=True))
        units, text = _QUANTITIES["covariance"]
        attrs = {"units": units, "long_name": f"{text}, {_PARTS[part]}"}
        numbers = (products.sum(1) / (k * (k - 1))).numpy()
        self.content[f"{part}_covariance"] = (dims, self._shaped(numbers, dims, ()), attrs)

    def dataset(self, attrs: dict[str, Any]) -> xr.Dataset:
        """Return everything added so far."""
        return xr.Dataset(self.content, bin_coordinates(self.options.t_edges, self.options.gap_edges), attrs)

    def _shaped(self, numbers: Floats, dims: tuple[str, ...], cells: Sequence[tuple[int, int]]) -> Floats:
        if len(dims) < 2:
            return numbers.reshape([-1] * len(dims))
        shape = (len(self.options.t_edges) - 1, len(self.options.gap_edges) - 1)
        grid = np.full(shape, np.nan)
        grid[tuple(np.array(cells).T)] = numbers
        return grid


def bin_coordinates(t_edges: tuple[float, ...], gap_edges: tuple[float, ...]) -> dict[str, Any]:
    """Return the labels of the dimensions t_bin and gap_bin: middle, lower and upper edges."""
    coords = {}
    for dim, what, edges in (("t_bin", "time t", t_edges), ("gap_bin", "gap t - r", gap_edges)):
        low, high = np.array(edges[:-1]), np.array(edges[1:])
        for suffix, label, side in (
            ("", "middle", (low + high) / 2),
            ("_low", "lower edge", low),
            ("_high", "upper edge", high),
        ):
            coords[dim + suffix] = (dim, side, {"units": "1", "long_name": f"{label} of the bin of {what}"})
    return coords
