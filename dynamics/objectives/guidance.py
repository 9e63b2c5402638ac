"""Guidance inside the training target, and the label drop that goes with it."""

import math
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from dynamics.flow.condition import concatenated
from dynamics.flow.path import expand
from dynamics.flow.rows import Rows
from dynamics.models import Network
from dynamics.options import Options, invalid, later
from dynamics.oracles import GuidedOracle, Oracle
from dynamics.rng import generator


class Guidance(Options):
    """v_g = w v + (1 - w - k) v_unc + k v_con inside [t_start, t_end], else v (Mean Flows, section 4.2 and eq. 21).

    v_unc = u(z, t, t | null) and v_con = u(z, t, t | y) come from the current weights without gradient. The effective
    guidance scale is w / (1 - k). Rows whose label was dropped keep v, unless `label_drop` is "guided".
    """

    w: float = Field(default=1.0, gt=0)
    """Weight of the sample velocity v."""
    k: float = Field(default=0.0, ge=0, lt=1)
    """Weight of the network's class-conditional velocity (kappa)."""
    t_start: float = Field(default=0.0, ge=0, le=1)
    """Guidance acts for t >= t_start."""
    t_end: float = Field(default=1.0, ge=0, le=1)
    """Guidance acts for t <= t_end."""
    label_drop_prob: float = Field(default=0.1, ge=0, lt=1)
    """Probability that a row's label is replaced by the null class."""
    label_drop: Literal["independent", "first_rows", "guided"] = "independent"
    """Which rows are dropped: each by itself, or the first rows of the batch as in the official code.

    "guided": each by itself where guidance acts, and the target of a dropped row stays guided, with v_unc for v_con, as
    in AlphaFlow's code.
    """
    fade: float = later(0.0, ge=0)
    """Above t_end the strength of guidance fades as 1 - exp(-fade q / (1 - q)), q = (1 - t) / (1 - t_end): what is left
    is w = 1 - k, whose effective scale is 1 (SoFlow, 0.025); 0 leaves v there."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.t_start > self.t_end:
            raise invalid("guidance.t_start", self.t_start, f"<= t_end={self.t_end}", "swap the two times")
        return self

    @property
    def active(self) -> bool:
        """Whether the target differs from v at all."""
        return self.w != 1 or self.k != 0

    @property
    def needs_null(self) -> bool:
        """Whether the unconditional velocity has a weight, 1 - w - k, other than zero."""
        return abs(1 - self.w - self.k) > 1e-12

    def inside(self, t: Tensor) -> Tensor:
        """Return whether guidance acts at times t [B]."""
        return (t >= self.t_start) & ((t <= self.t_end) | (self.fade > 0))

    def weight_of_v(self, t: Tensor) -> Tensor | float:
        """Return the weight of the sample velocity where guidance acts, at times t [B]; a number if it is w."""
        if not self.fade:
            return self.w
        q = ((1 - t) / (1 - self.t_end + 1e-12)).clamp(0, 1 - 1e-6)
        strength = torch.where(t > self.t_end, -torch.expm1(-self.fade * q / (1 - q)), 1.0).to(t.dtype)
        return 1 - self.k + strength * (self.w - (1 - self.k))

    def scale(self, t: Tensor) -> Tensor | float:
        """Return the effective guidance scale where guidance acts, at times t [B]."""
        return self.weight_of_v(t) / (1 - self.k)

    def truth(self, oracle: Oracle) -> Oracle:
        """Return the velocities to which training with this guidance converges, given those of the data: the same where
        the effective scale is 1, although targets then hold the network's own v."""
        scale = self.w / (1 - self.k)
        if math.isclose(scale, 1):
            return oracle
        if self.fade:
            return GuidedOracle(oracle, lambda t, c: self.scale(t), self.t_start, 1.0)
        return GuidedOracle(oracle, scale, self.t_start, self.t_end)

    def target_noise(self, noise: Tensor, t: Tensor) -> Tensor:
        """Return what guided targets at times t [B] have beyond their mean given z_t, from that of v, [B, ...]."""
        # the network's own terms are functions of z_t: they have no variance given it
        return torch.where(expand(self.inside(t) & self.active, noise), self._of_v(t, noise) * noise, noise)

    def forwards_per_row(self, gap_share: float) -> float:
        """Return the forward passes that a row's guidance costs: v_unc of every row, v_con of r < t rows."""
        if not self.active:
            return 0.0
        asking = 1.0 if self.label_drop == "guided" else 1 - self.label_drop_prob
        return asking * (self.needs_null + gap_share * (self.k > 0))

    def drop_conditions(self, rows: Rows, seed: int, step: int) -> Rows:
        """Replace the labels of some rows of a step by the null class.

        DIFFERS: the official code drops the first rows of the batch, which are also its r = t rows, so that its
        unconditional branch never sees r < t; that coupling is the option "first_rows".
        """
        dropped = torch.rand(len(rows), generator=generator(seed, "label drop", step)) < self.label_drop_prob
        if self.label_drop == "first_rows":
            dropped = torch.arange(len(rows)) < dropped.sum()
        if self.label_drop == "guided":
            dropped &= self.inside(rows.t).cpu()
        return rows.drop(dropped)

    def velocities(self, net: Network, rows: Rows, z: Tensor, weights: str = "model") -> tuple[Tensor, Tensor]:
        """Compute the network's velocities that guidance needs, in one pass without gradient.

        The conditional velocity of an r = t row is the prediction itself, so only r < t rows ask for it; dropped rows
        ask for nothing, and the unconditional velocity is not needed where its weight 1 - w - k is zero.

        Args:
            net: The network.
            rows: B rows.
            z: z_t of the rows, [B, ...].
            weights: Which weights compute them, see `Network.frozen`.

        Returns:
            v_unc and v_con, [B, ...] each, zero where they are not used.
        """
        v_unc, v_con = torch.zeros_like(z), torch.zeros_like(z)
        if not self.active:
            return v_unc, v_con
        kept = ~rows.dropped | (self.label_drop == "guided")
        is_gap = torch.arange(len(rows)) >= rows.num_equal
        none = torch.zeros(0, dtype=torch.long)
        unc = kept.nonzero()[:, 0] if self.needs_null else none
        con = (kept & is_gap).nonzero()[:, 0] if self.k else none
        pick = torch.cat([unc, con]).to(z.device)
        unc, con = pick[: len(unc)], pick[len(unc) :]
        t, c = rows.t[pick], concatenated([rows.condition.null(rows.c[unc]), rows.c[con]])
        # called whichever rows were drawn: ranks that split the weights of a network all have to
        out = net.frozen(z[pick], t, t, c, weights).to(z.dtype)
        v_unc[unc], v_con[con] = out[: len(unc)], out[len(unc) :]
        return v_unc, v_con

    def combine(self, v: Tensor, v_unc: Tensor, v_con: Tensor, t: Tensor, dropped: Tensor) -> Tensor:
        """Return v_g [B, ...] for rows with times t [B] and dropped labels [B]."""
        w = self._of_v(t, v)
        guided = w * v + (1 - w - self.k) * v_unc + self.k * v_con
        inside = self.inside(t) & (~dropped.to(t.device) | (self.label_drop == "guided"))
        return torch.where(expand(inside, v), guided, v)

    def _of_v(self, t: Tensor, like: Tensor) -> Tensor | float:
        w = self.weight_of_v(t)
        return expand(w, like) if isinstance(w, Tensor) else w
