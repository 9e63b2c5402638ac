"""Objectives and curricula that exist for tests alone: they use what the toolkit's own ones leave unused."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dynamics.curricula import Progress
from dynamics.flow.path import expand
from dynamics.flow.rows import Rows
from dynamics.models import Network
from dynamics.objectives import Adaptive, LossTerms, Objective, squared_error
from dynamics.oracles import Oracle


class Picky(Objective):
    """Asks the network about some rows only, those of late times: how many there are depends on the draw.

    `passes` says by which way gradients reach the weights: an ordinary pass, beside a derivative, the model's own
    answer and a teacher's, all three without gradient; the value and the slope of a differentiable derivative; its
    slope alone, which does not depend on every weight; or an ordinary pass and a differentiable derivative together.
    """

    SERIES: ClassVar[Mapping[str, tuple[str, str]]] = {
        "picked": ("1", "share of rows that the network was asked about")
    }

    kind: Literal["picky"] = "picky"
    passes: Literal["ordinary", "derivative", "slope", "both"] = "ordinary"
    late: float = 0.8
    """Rows with t above are asked about."""

    def loss(self, net: Network, rows: Rows, now: Progress) -> LossTerms:
        z, v = rows.path()
        pick = (rows.t > self.late).nonzero()[:, 0]
        few, t, r, c = z[pick], rows.t[pick], rows.r[pick], rows.c[pick]
        found, wanted = getattr(self, f"_{self.passes}")(net, few, t, r, c, v[pick])
        prediction = torch.zeros_like(z).index_put((pick,), found)
        target = torch.zeros_like(z).index_put((pick,), wanted)
        raw = squared_error(prediction, target)
        picked = (rows.t > self.late).float()
        return LossTerms(raw, Adaptive(p=0.0).weight(raw), prediction, target, extras={"picked": picked})

    def _ordinary(self, net: Network, *rows: Any) -> tuple[Tensor, Tensor]:
        z, t, r, c, v = rows
        own, teacher = net.frozen(z, t, r, c), net.frozen(z, t, t, c, weights="ema")
        _, du_dt = net.jvp(z, t, r, c, dz=v)
        return net(z, t, r, c), v - expand(t - r, v) * du_dt + 0.5 * (teacher - own)

    def _derivative(self, net: Network, *rows: Any) -> tuple[Tensor, Tensor]:
        z, t, r, c, v = rows
        u, du_dt = net.jvp(z, t, r, c, dz=v, differentiable=True)
        # a pass without gradient after it, which must not leave anything behind
        return u + expand(t - r, v) * du_dt, v + 0.1 * net.frozen(z, t, t, c)

    def _slope(self, net: Network, *rows: Any) -> tuple[Tensor, Tensor]:
        z, t, r, c, v = rows
        return net.jvp(z, t, r, c, dz=v, differentiable=True)[1], v

    def _both(self, net: Network, *rows: Any) -> tuple[Tensor, Tensor]:
        z, t, r, c, v = rows
        slope = net.jvp(z, t, r, c, dz=torch.zeros_like(v), dt=0.0, dr=1.0, differentiable=True)[1]
        return net(z, t, r, c) - expand(t - r, v) * slope, v

    def truth(self, oracle: Oracle) -> Oracle:
        return oracle

    def measured(self, guidance: Literal["run", "off"]) -> Objective:
        return self
