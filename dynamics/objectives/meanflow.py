"""The MeanFlow objective (Mean Flows for One-step Generative Modeling, 2505.13447)."""

from typing import Literal

import torch
from torch import Tensor

from dynamics.flow.path import Velocity, expand
from dynamics.flow.rows import Rows
from dynamics.objectives.derivative import Derivative
from dynamics.objectives.guidance import Guidance
from dynamics.objectives.terms import Adaptive, LossTerms, squared_error
from dynamics.options import Options


class MeanFlow(Options):
    """u is regressed on u_tgt = sg(v_g - (t - r) du/dt)."""

    kind: Literal["meanflow"] = "meanflow"
    adaptive: Adaptive = Adaptive()
    """Adaptive weight of a row."""
    guidance: Guidance = Guidance()
    """Guidance inside the target."""

    def terms(self, u: Velocity, du_dt: Derivative, rows: Rows, num_classes: int) -> LossTerms:
        """Per-row losses ||u - u_tgt||^2 (Mean Flows, eq. 9-11).

        The derivative runs without gradient and on the r < t rows only: at r = t its factor t - r is zero. The one
        gradient pass takes all rows.

        Args:
            u: The network, called once with gradient.
            du_dt: `total_derivative` of the same network.
            rows: B rows in the layout [r = t | r < t].
            num_classes: Number of classes, the null label.
        """
        n, guidance = rows.num_equal, self.guidance
        z, v = rows.path()
        v_unc = v_con = torch.zeros_like(z)
        if guidance.active:
            v_unc, v_con_gap = guidance.velocities(u, rows, z, num_classes)
            v_con = torch.cat([torch.zeros_like(z[:n]), v_con_gap])
        v_gap = guidance.combine(v[n:], v_unc[n:], v_con[n:], rows.t[n:], rows.dropped[n:])
        target_gap, derivative = self._gap_target(du_dt, rows, z, v_gap)
        prediction = u(z, rows.t, rows.r, rows.y).to(z.dtype)
        # an r = t row's conditional velocity is its own prediction: no forward pass of its own
        v_equal = guidance.combine(v[:n], v_unc[:n], prediction[:n].detach(), rows.t[:n], rows.dropped[:n])
        if rows.v_noise is not None:
            v_equal = v_equal + rows.v_noise[:n]
        target = torch.cat([v_equal, target_gap])
        raw = squared_error(prediction, target)
        return LossTerms(raw, self.adaptive.weight(raw), prediction, target, derivative)

    def _gap_target(self, du_dt: Derivative, rows: Rows, z: Tensor, v_gap: Tensor) -> tuple[Tensor, Tensor]:
        """Return u_tgt and du/dt of the r < t rows."""
        n = rows.num_equal
        if rows.num_gap == 0:
            return v_gap, torch.zeros_like(v_gap)
        t, r = rows.t[n:], rows.r[n:]
        # contiguous copies: the compiler cannot take offset slices as inputs of a forward-mode pass
        _, derivative = du_dt(z[n:].clone(), t.clone(), r.clone(), rows.y[n:].clone(), v_gap)
        return v_gap - expand((t - r).clamp(0, 1), z) * derivative, derivative
