"""Guidance inside the training target, and the label drop that goes with it."""

from dataclasses import replace
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from dynamics.flow.path import Velocity, expand
from dynamics.flow.rows import Rows
from dynamics.options import Options, invalid


class Guidance(Options):
    """v_g = w v + (1 - w - k) v_unc + k v_con inside [t_start, t_end], else v (Mean Flows, section 4.2 and eq. 21).

    v_unc = u(z, t, t | null) and v_con = u(z, t, t | y) come from the current weights without gradient. The effective
    guidance scale is w / (1 - k). Rows whose label was dropped keep v.
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
    label_drop: Literal["independent", "first_rows"] = "independent"
    """Which rows are dropped: each by itself, or the first rows of the batch as in the official code."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.t_start > self.t_end:
            raise invalid("guidance.t_start", self.t_start, f"<= t_end={self.t_end}", "swap the two times")
        return self

    @property
    def active(self) -> bool:
        """Whether the target differs from v at all."""
        return self.w != 1 or self.k != 0

    def drop_labels(self, rows: Rows, num_classes: int, stream: torch.Generator) -> Rows:
        """Replace labels by the null class.

        DIFFERS: the official code drops the first rows of the batch, which are also its r = t rows, so that its
        unconditional branch never sees r < t; that coupling is the option "first_rows".
        """
        dropped = torch.rand(len(rows), generator=stream) < self.label_drop_prob
        if self.label_drop == "first_rows":
            dropped = torch.arange(len(rows)) < dropped.sum()
        y = torch.where(dropped, torch.full_like(rows.y, num_classes), rows.y)
        return replace(rows, y=y, dropped=dropped)

    def velocities(self, u: Velocity, rows: Rows, z: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Compute the network's velocities that guidance needs, in one pass without gradient.

        The conditional velocity of an r = t row is the prediction itself, so only r < t rows ask for it; dropped rows
        ask for nothing, and the unconditional velocity is not needed where its weight 1 - w - k is zero.

        Args:
            u: The network.
            rows: B rows.
            z: z_t of the rows, [B, ...].
            num_classes: Number of classes, the null label.

        Returns:
            v_unc [B, ...] (zero where unused) and v_con of the r < t rows, [num_gap, ...] (zero where unused).
        """
        kept = ~rows.dropped
        is_gap = torch.arange(len(rows)) >= rows.num_equal
        none = torch.zeros(0, dtype=torch.long)
        unc = kept.nonzero()[:, 0] if abs(1 - self.w - self.k) > 1e-12 else none
        con = (kept & is_gap).nonzero()[:, 0] if self.k else none
        v_unc, v_con = torch.zeros_like(z), torch.zeros_like(z[rows.num_equal :])
        # the pass is made whichever rows were drawn: ranks that split the weights of a network all have to call it
        spare = none if len(unc) + len(con) else torch.zeros(1, dtype=torch.long)
        pick = torch.cat([unc, con, spare]).to(z.device)
        null = torch.full_like(rows.y[: len(unc)], num_classes)
        with torch.no_grad():
            t = rows.t[pick]
            out = u(z[pick], t, t, torch.cat([null, rows.y[pick[len(unc) :]]])).to(z.dtype)
        v_unc[pick[: len(unc)]] = out[: len(unc)]
        of_con = slice(len(unc), len(unc) + len(con))
        v_con[pick[of_con] - rows.num_equal] = out[of_con]
        return v_unc, v_con

    def combine(self, v: Tensor, v_unc: Tensor, v_con: Tensor, t: Tensor, dropped: Tensor) -> Tensor:
        """Return v_g [B, ...] for rows with times t [B] and dropped labels [B]."""
        guided = self.w * v + (1 - self.w - self.k) * v_unc + self.k * v_con
        inside = (t >= self.t_start) & (t <= self.t_end) & ~dropped.to(t.device)
        return torch.where(expand(inside, v), guided, v)
