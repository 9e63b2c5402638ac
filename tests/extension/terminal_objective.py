"""An objective in one file: terminal velocity matching, with a teacher, a derivative it goes back through, progress.

The displacement f(z, t, r) = -(t - r) u(z, t, r) from t down to r ends with the velocity d_r f = u - (t - r) d_r u. On
r < t rows that terminal velocity is regressed on the instantaneous velocity of averaged weights, at the place where the
displacement ends; r = t rows learn v. A weight lets the r < t rows in as training proceeds.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field

from dynamics.flow.path import expand
from dynamics.flow.progress import Progress
from dynamics.flow.rows import Rows
from dynamics.models import Network
from dynamics.objectives import Adaptive, LossTerms, Objective, squared_error
from dynamics.oracles import Oracle


class Terminal(Objective):
    """|| u - (t - r) d_r u - sg v_ema(z_r, r) ||^2 on r < t rows, || v - (e - x) ||^2 on r = t rows."""

    SERIES: ClassVar[Mapping[str, tuple[str, str]]] = {"gap_weight": ("1", "weight of r < t rows by progress")}

    kind: Literal["terminal"] = "terminal"
    adaptive: Adaptive = Adaptive(p=0.0)
    """Adaptive weight of a row."""
    ramp: float = Field(default=0.5, gt=0, le=1)
    """Share of training over which the weight of r < t rows rises to 1."""

    def loss(self, net: Network, rows: Rows, now: Progress) -> LossTerms:
        n, (z, v) = rows.num_equal, rows.path()
        z_gap, t, r, c = z[n:], rows.t[n:], rows.r[n:], rows.c[n:]
        gap = expand(t - r, z)
        v_here = net.velocity(z[:n], rows.t[:n], rows.c[:n])
        u, d_r = net.jvp(z_gap, t, r, c, dz=torch.zeros_like(z_gap), dt=0.0, dr=1.0, differentiable=True)
        teacher = net.frozen((z_gap - gap * u).detach(), r, r, c, weights="ema")
        prediction, target = torch.cat([v_here, u - gap * d_r]), torch.cat([v[:n], teacher])
        raw = squared_error(prediction, target)
        weight = torch.ones_like(rows.t)
        weight[n:] = min(1.0, now.fraction / self.ramp)
        adaptive = weight * self.adaptive.weight(raw)
        # u of each row is known, but it is not what is regressed
        return LossTerms(raw, adaptive, prediction, target, u=torch.cat([v_here, u]), extras={"gap_weight": weight})

    def truth(self, oracle: Oracle) -> Oracle:
        return oracle

    def measured(self, guidance: Literal["run", "off"]) -> Objective:
        return self

    def forwards_per_row(self, gap_share: float) -> float:
        return 3.0 * (1 - gap_share) + (2 * 3.0 + 1.0) * gap_share
