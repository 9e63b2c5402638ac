"""Losses and exact velocity errors by time and by gap, measured on rows drawn directly inside each bin."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, Self

import numpy as np
import torch
import xarray as xr
from pydantic import Field, model_validator
from torch import Tensor

from dynamics.data import DataSource
from dynamics.flow.condition import tensors
from dynamics.flow.progress import Progress
from dynamics.flow.rows import Rows
from dynamics.flow.times import UniformGap
from dynamics.instruments.instrument import InstrumentOptions, Probe, asking, said
from dynamics.instruments.kept_solutions import kept
from dynamics.models import Network
from dynamics.objectives import Objective
from dynamics.options import Options, check_edges
from dynamics.rng import generator
from dynamics.training import Recipe, TrainState

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


class GapsOptions(BinOptions, InstrumentOptions):
    """Losses and exact errors per time and gap bin."""

    kind: Literal["gaps"] = "gaps"
    every: int = Field(default=250, gt=0)
    """Steps between measurements; the first and the last step are always measured."""
    by_time: bool = False
    """Also measure u in every cell of a t bin and a gap bin."""
    weights: Literal["ema", "model"] = "ema"
    """Which weights are measured: the first average, or the raw ones."""

    def observer(self, recipe: Recipe, progress: bool = False) -> "GapProbe":
        return GapProbe(recipe, self, progress)

    @property
    def cells(self) -> list[tuple[int, int]]:
        """Indices (t bin, gap bin) of the cells that hold any gap <= t; none unless `by_time` asks for them."""
        pairs = [(i, j) for i in range(len(self.t_edges) - 1) for j in range(len(self.gap_edges) - 1)]
        return [(i, j) for i, j in pairs if self.t_edges[i + 1] > self.gap_edges[j]] if self.by_time else []


@dataclass(frozen=True)
class GapProbe(Probe[GapsOptions]):
    """Measures one network after another on the same rows; their exact velocities are solved for once."""

    def measure(self, state: TrainState) -> xr.Dataset:
        """Measure a run while it trains; see `errors`."""
        device, now = next(state.model.parameters()).device, self.recipe.progress(state.step)
        return self.errors(state.network(self.options.weights), now, device)

    @property
    def rows(self) -> Rows:
        """Rows in the layout [t bins | gap bins | cells | one-step rows at (1, 0)], `rows_per_bin` each."""
        recipe = self.recipe
        return asking(
            _bin_rows(recipe.data, self.options, recipe.seed), recipe.objective, recipe.seed, "gap probe more"
        )

    @property
    def exact(self) -> Tensor | None:
        """u* of the rows (v* of the r = t rows), [B, C, H, W]; None where nobody knows the exact velocities."""
        return _truth(self.recipe.data, self.recipe.objective, self.options, self.recipe.seed)[0]

    @property
    def noise(self) -> Tensor | None:
        """What e - x of each r = t row has beyond its mean given z_t, [n, C, H, W]; None as for `exact`."""
        return _truth(self.recipe.data, self.recipe.objective, self.options, self.recipe.seed)[1]

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
        if o.cells:
            parts["cell"] = (slice(n + m, -k), ("t_bin", "gap_bin"))
        return parts

    def errors(self, net: Network, now: Progress, device: torch.device = CPU) -> xr.Dataset:
        """Return losses and exact squared errors of a network, mean and standard error per bin.

        Args:
            net: The network.
            now: Where its training stands.
            device: Where it computes.

        Returns:
            `v_*` [t_bin], `u_*` [gap_bin], `one_step_*` of the rows (t, r) = (1, 0) and, if asked for, `cell_*` [t_bin,
            gap_bin]: loss (raw), weighted (by the adaptive weight), error and scale (squared distance to the exact
            velocity, and its squared norm), target_norm, du_dt_norm (not for v), in pixels summed over C, H, W;
            `*_sem` are standard errors over rows. v_loss = v_irreducible + v_excess + v_cross: the variance of the
            target given z_t, which no network can learn; the squared distance to the target's mean given z_t, which is
            v_error where the target is not guided; and a rest of expectation 0. Every bin has `rows_per_bin` rows.
            Where nobody knows the exact velocities there is no error, scale, irreducible, excess and cross; of r < t
            rows for which what is measured has no loss (TAKES_GAPS) there is the error alone.
        """
        rows, exact, noise = self.rows.to(device), self.exact, self.noise
        n, objective = rows.num_equal, self.recipe.objective.measured("run")
        trained = rows if objective.TAKES_GAPS else rows.part(0, n)
        with torch.no_grad():
            terms = objective.loss(net, trained, now)
            u = _velocities(net, rows, terms.u)
        columns = {"loss": terms.raw, "weighted": terms.raw * terms.adaptive}
        if exact is not None:
            columns["error"] = squared_norm(u - exact.to(device))
            columns["scale"] = squared_norm(exact.to(device))
        columns["target_norm"] = terms.target_norm
        columns["du_dt_norm"] = terms.du_dt_norm
        table = Table(self.options)
        for part, (where, dims) in self.parts.items():
            for name, values in columns.items():
                known = part == "v" or len(values) == len(rows)
                if known and (part, name) != ("v", "du_dt_norm"):
                    table.add(part, name, dims, values[where], self.options.cells)
            if part != "cell" and exact is not None:
                table.add_covariance(part, dims, columns["error"][where], columns["scale"][where])
        if noise is not None:
            noise = self.recipe.objective.at(now).target_noise(noise, self.rows.part(0, n))
            irreducible = squared_norm(noise.to(device))
            excess = squared_norm(terms.prediction[:n] - (terms.target[:n] - noise.to(device)))
            table.add("v", "irreducible", ("t_bin",), irreducible)
            table.add("v", "excess", ("t_bin",), excess)
            table.add("v", "cross", ("t_bin",), terms.raw[:n] - irreducible - excess)
        return table.dataset(said(self.options))


def _velocities(net: Network, rows: Rows, known: Tensor | None) -> Tensor:
    """Return u of all rows, [B, C, H, W]; `known` are those of the first ones, if the loss has computed them."""
    z, _ = rows.path()
    done = 0 if known is None else len(known)
    rest = net.frozen(z[done:], rows.t[done:], rows.r[done:], rows.c[done:]).to(z.dtype)
    return rest if known is None else torch.cat([known, rest])


@lru_cache(maxsize=32)
def _bin_rows(data: DataSource, o: GapsOptions, seed: int) -> Rows:
    """Draw the rows; runs of one study ask for the same ones."""
    n = o.rows_per_bin
    times = generator(seed, "gap probe", "times")
    t, r = [], []
    for low, high in pairwise(o.t_edges):
        t.append(low + (high - low) * torch.rand(n, generator=times))
        r.append(t[-1])
    for low, high in pairwise(o.gap_edges):
        drawn = UniformGap(low=low, high=high).sample(n, times)
        t.append(drawn[0])
        r.append(drawn[1])
    for i, j in o.cells:
        low, a, b = max(o.t_edges[i], o.gap_edges[j]), *torch.rand(2, n, generator=times)
        t.append(low + (o.t_edges[i + 1] - low) * a)
        gap = o.gap_edges[j] + (t[-1].clamp(max=o.gap_edges[j + 1]) - o.gap_edges[j]) * b
        r.append((t[-1] - gap).clamp(min=0))
    t.append(torch.ones(n))
    r.append(torch.zeros(n))
    total, num_equal = n * len(t), n * (len(o.t_edges) - 1)
    own_seed = generator(seed, "gap probe", "images").initial_seed()
    x, c = data.batch(own_seed, 0, total)
    e = torch.randn(x.shape, generator=generator(seed, "gap probe", "noise"))
    dropped = torch.zeros(total, dtype=torch.bool)
    return Rows(x, e, torch.cat(t), torch.cat(r), c, dropped, num_equal, data.condition)


@lru_cache(maxsize=32)
def _truth(data: DataSource, objective: Objective, o: GapsOptions, seed: int) -> tuple[Tensor | None, Tensor | None]:
    """Solve for what the objective converges to on the rows, and say what noise v has on those with r = t."""
    oracle = data.oracle()
    if oracle is None:
        return None, None
    rows = _bin_rows(data, o, seed)
    n, (z, v) = rows.num_equal, rows.path()
    truth, c = objective.truth(oracle), objective.ask(rows.c)
    equal = truth.v(z[:n], rows.t[:n], c[:n])
    asked = (z[n:], rows.t[n:], rows.r[n:], *tensors(c[n:]))
    average = kept(
        lambda: data.sha256 if truth is oracle else f"{data.sha256} {objective.model_dump_json()}",
        asked,
        lambda: truth.u(z[n:], rows.t[n:], rows.r[n:], c[n:]),
    )
    exact = torch.cat([equal, average])
    sample_noise = v[:n] - (equal if truth is oracle else oracle.v(z[:n], rows.t[:n], rows.c[:n]))
    return exact, sample_noise


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
