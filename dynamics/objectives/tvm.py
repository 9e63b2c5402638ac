"""Terminal Velocity Matching (2511.19797; official code, training/wrapper.py)."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from dynamics.flow.path import expand
from dynamics.flow.progress import Progress
from dynamics.flow.rows import Rows
from dynamics.models import Network
from dynamics.objectives.meanflow import MeanFlow
from dynamics.objectives.terms import Adaptive, LossTerms, squared_error


class TVM(MeanFlow):
    """|| u - (t - r) d_r u - sg v_ema(z_r, r) ||^2 on r < t rows, || v - v_g ||^2 on r = t rows.

    The displacement -(t - r) u(z_t, t, r) ends at z_r with the velocity d_r (z_r) = u - (t - r) d_r u, the terminal
    velocity; the gradient goes back through the derivative. v_g = w v + (1 - w) v_unc, with v_unc of the teacher.
    """

    # DIFFERS: the official code gives each image both terms with one noise, at independent times, and takes means over
    # C, H, W; here a row has one of them, so that a batch of B images is one of 2 B rows with gap_share 0.5.
    # DIFFERS: its network is also conditioned on the guidance scale w and multiplied by it; here w is one number.
    ONE_PASS: ClassVar[bool] = False
    PARTS: ClassVar[tuple[str, ...]] = ()

    kind: Literal["tvm"] = "tvm"  # type: ignore[assignment]
    adaptive: Adaptive = Adaptive(p=0.0)
    """Adaptive weight of a row; off by default, as in the official code."""
    teacher: str = "ema"
    """Weights of v_ema: ema (the first average), the decay of an average such as 0.99, or model."""

    def loss(self, net: Network, rows: Rows, now: Progress) -> LossTerms:
        """Return both errors, each of its rows; see `Objective.loss`."""
        n, guidance, (z, v) = rows.num_equal, self.guidance, rows.path()
        equal = rows.part(0, n)
        v_unc, _ = guidance.velocities(net, equal, z[:n], self.teacher)
        v_here = net.velocity(z[:n], equal.t, equal.c).to(z.dtype)
        v_g = guidance.combine(v[:n], v_unc, v_here.detach(), equal.t, equal.dropped)
        z_t, t, r, c = z[n:], rows.t[n:], rows.r[n:], rows.c[n:]
        gap = expand(t - r, z)
        u, d_r = net.jvp(z_t, t, r, c, dz=torch.zeros_like(z_t), dt=0.0, dr=1.0, differentiable=True)
        v_end = net.frozen((z_t - gap * u).detach(), r, r, c, self.teacher).to(z.dtype)
        prediction, target = torch.cat([v_here, u - gap * d_r]), torch.cat([v_g, v_end])
        raw = squared_error(prediction, target)
        return LossTerms(raw, self.adaptive.weight(raw) * self._scale(rows), prediction, target, torch.cat([v_here, u]))

    def _scale(self, rows: Rows) -> Tensor:
        """Return 1 / w^2, [B], the official weight of guided rows; 1 for dropped ones."""
        guided = ~rows.dropped.to(rows.t.device)
        return torch.ones_like(rows.t).masked_fill(guided, ((1 - self.guidance.k) / self.guidance.w) ** 2)

    def teachers(self) -> tuple[str, ...]:
        return (self.teacher,)

    def forwards_per_row(self, gap_share: float) -> float:
        # a derivative with gradient is twice a pass with gradient
        equal = 3.0 + self.guidance.forwards_per_row(0.0)
        return equal * (1 - gap_share) + (2 * 3.0 + 1.0) * gap_share
