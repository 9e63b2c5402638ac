"""Where losses and errors come from: what can be learned, what u inherits from v, and two forces in one gradient."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
import xarray as xr
from pydantic import Field
from torch import Tensor

from dynamics.flow.integrator import follow, runge_kutta
from dynamics.flow.path import Velocity
from dynamics.instruments.gaps import BinOptions, GapProbe, GapsOptions, Table, squared_norm
from dynamics.instruments.gram import TaskInstrument, TaskProbe, task_gram
from dynamics.instruments.group_gradients import GradientOptions
from dynamics.instruments.instrument import said
from dynamics.instruments.tasks import Task, binned_tasks
from dynamics.models import Network
from dynamics.training import Recipe, TrainState


class DecompositionOptions(BinOptions, GradientOptions, TaskInstrument):
    """The parts of the loss of v, of the error of u, and of the MeanFlow gradient, by time and gap."""

    kind: Literal["decomposition"] = "decomposition"
    every: int = Field(default=2000, gt=0)
    """Steps between measurements; the last step is always measured."""
    gap_edges: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """Edges of the bins of the gap t - r."""
    ode_steps: int = Field(default=16, ge=2, multiple_of=2)
    """Runge-Kutta steps along the path of the network's own v."""

    def observer(self, recipe: Recipe, progress: bool = False) -> "DecompositionProbe":
        return DecompositionProbe(recipe, self, progress)


@dataclass(frozen=True)
class DecompositionProbe(TaskProbe[DecompositionOptions]):
    """Measures the decompositions."""

    @cached_property
    def tasks(self) -> list[Task]:
        """Trajectory flow matching in each gap bin, then trajectory consistency."""
        o, law = self.options, self.recipe.times.law
        return [
            *binned_tasks(o, law, "flow_matching", "matching"),
            *binned_tasks(o, law, "consistency", "consistency"),
        ]

    @cached_property
    def gaps(self) -> GapProbe:
        """The rows on which errors are taken apart, with their exact velocities."""
        o = self.options
        bins = GapsOptions(rows_per_bin=o.rows_per_bin, gap_edges=o.gap_edges, t_edges=o.t_edges)
        return GapProbe(self.recipe, bins)

    def measure(self, state: TrainState) -> xr.Dataset:
        """Return the decompositions of a state.

        Returns:
            * the loss of v: v_loss = v_irreducible + v_excess + v_cross [t_bin], see `GapProbe.errors`;
            * the error of u: see `errors_of_u`;
            * the MeanFlow gradient of each gap bin as the sum of two: `gram`, `loss` as in `gram.task_gram`, with the
              tasks "matching a-b" (trajectory flow matching, grad ||u - v||^2) and "consistency a-b" (trajectory
              consistency, grad 2 (t - r) <u, sg du/dt>).
        """
        o, device = self.options, next(state.model.parameters()).device
        net = state.network(o.weights)
        by_time = self.gaps.errors(net, self.recipe.progress(state.step), device)
        kept = [name for name in by_time.data_vars if str(name).startswith("v_")]
        forces = task_gram(state, self.tasks, self.recipe, o, o, self.progress)
        parts = [forces, by_time[kept], self.errors_of_u(net, device)]
        return xr.merge(parts, compat="equals", join="exact", combine_attrs="override").assign_attrs(said(o))

    def errors_of_u(self, net: Network, device: torch.device) -> xr.Dataset:
        """Split the error of u into what contradicts the network's own v, and what that v itself has wrong.

        With ubar the average of the network's own v = u(z, t, t) along its path from t to r,
        u - u* = (u - ubar) + (ubar - u*).

        Returns:
            `u_error` = `u_inconsistency` + `u_inherited` + `u_error_cross` [gap_bin] and the same of the rows (t, r) =
            (1, 0) as `one_step_*`, squared pixels summed over C, H, W, with standard errors over rows; `*_ode_error`:
            squared change of ubar when its number of steps is halved. Of latents there is nothing that needs u*: only
            `*_inconsistency` and `*_ode_error`.
        """
        probe, n = self.gaps, self.gaps.rows.num_equal
        rows, exact = probe.rows.part(n, len(probe.rows)).to(device), probe.exact
        z, _ = rows.path()
        prediction = net.frozen(z, rows.t, rows.r, rows.c)
        own, coarse = (
            own_average(net.frozen, z, rows.t, rows.r, rows.c, steps)
            for steps in (self.options.ode_steps, self.options.ode_steps // 2)
        )
        columns = {
            "inconsistency": squared_norm(prediction - own),
            "ode_error": squared_norm(own - coarse),
        }
        if exact is not None:
            exact = exact[n:].to(device)
            columns["error"] = squared_norm(prediction - exact)
            columns["scale"] = squared_norm(exact)
            columns["inherited"] = squared_norm(own - exact)
            columns["error_cross"] = columns["error"] - columns["inconsistency"] - columns["inherited"]
        table, k = Table(self.options), self.options.rows_per_bin
        for part, where, dims in (("u", slice(0, -k), ("gap_bin",)), ("one_step", slice(-k, None), ())):
            for name, values in columns.items():
                table.add(part, name, dims, values[where])
        return table.dataset({})


def own_average(u: Velocity, z: Tensor, t: Tensor, r: Tensor, c: Any, num_steps: int) -> Tensor:
    """Average the network's instantaneous velocity along its own path from t down to r, by classical Runge-Kutta.

    ubar = (z_t - z_r) / (t - r) with dz/ds = u(z, s, s): what u(z, t, r) would be if it agreed with its r = t values.

    Args:
        u: The network.
        z: z_t, [B, ...].
        t: [B].
        r: [B], r < t.
        c: Condition of B rows.
        num_steps: Steps of (t - r) / num_steps each.

    Returns:
        ubar [B, ...].

    Example:
        >>> from dynamics.oracles import GaussianOracle
        >>> oracle, z = GaussianOracle(0.5), torch.ones(1, 3, dtype=torch.float64)
        >>> t, r = torch.tensor([0.9]).double(), torch.tensor([0.2]).double()
        >>> bool((own_average(oracle.u, z, t, r, None, 32) - oracle.u(z, t, r)).abs().max() < 1e-5)
        True
    """
    k = torch.arange(num_steps + 1, dtype=t.dtype, device=t.device)[:, None]
    return follow(runge_kutta(lambda z, s: u(z, s, s, c)), z, t - (t - r) * k / num_steps)[0]
