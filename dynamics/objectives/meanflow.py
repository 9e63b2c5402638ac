"""The MeanFlow objective (Mean Flows for One-step Generative Modeling, 2505.13447)."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dynamics.flow.path import expand
from dynamics.flow.progress import Progress
from dynamics.flow.rows import Rows
from dynamics.models import Network
from dynamics.objectives.guidance import Guidance
from dynamics.objectives.objective import Objective
from dynamics.objectives.terms import Adaptive, LossTerms, squared_error
from dynamics.oracles import Oracle


class MeanFlow(Objective):
    """u is regressed on u_tgt = sg(v_g - (t - r) du/dt)."""

    ONE_PASS: ClassVar[bool] = True
    PARTS: ClassVar[tuple[str, ...]] = ("flow_matching", "consistency")

    kind: Literal["meanflow"] = "meanflow"
    adaptive: Adaptive = Adaptive()
    """Adaptive weight of a row."""
    guidance: Guidance = Guidance()
    """Guidance inside the target."""

    def prepare(self, rows: Rows, seed: int, step: int) -> Rows:
        return self.guidance.drop_conditions(rows, seed, step)

    def loss(self, net: Network, rows: Rows, now: Progress) -> LossTerms:
        """Return ||u - u_tgt||^2 (Mean Flows, eq. 9-11); see `Objective.loss`.

        The derivative runs without gradient and on the r < t rows only: at r = t its factor t - r is zero. The one
        gradient pass takes all rows.
        """
        n, guidance = rows.num_equal, self.guidance
        z, v = rows.path()
        v_unc, v_con = guidance.velocities(net, rows, z)
        v_gap = guidance.combine(v[n:], v_unc[n:], v_con[n:], rows.t[n:], rows.dropped[n:])
        t, r = rows.t[n:], rows.r[n:]
        target_gap, du_dt = self._gap_target(net, z[n:], t, r, rows.c[n:], v_gap, now)
        prediction = net(z, rows.t, rows.r, rows.c).to(z.dtype)
        # an r = t row's conditional velocity is its own prediction: no forward pass of its own
        v_equal = guidance.combine(v[:n], v_unc[:n], prediction[:n].detach(), rows.t[:n], rows.dropped[:n])
        target = torch.cat([self._velocity_target(v_equal, rows), target_gap])
        raw = squared_error(prediction, target)
        weight = self.adaptive.weight(raw, z.shape[1:].numel())
        return LossTerms(raw, weight, prediction, target, u=prediction, du_dt=du_dt)

    def _gap_target(
        self, net: Network, z: Tensor, t: Tensor, r: Tensor, c: Any, v: Tensor, now: Progress
    ) -> tuple[Tensor, Tensor]:
        """Return the target of r < t rows, given their v_g, and du/dt, which is (v_g - target) / (t - r)."""
        _, du_dt = net.jvp(z, t, r, c, dz=v, dt=1.0, dr=0.0)
        return v - expand((t - r).clamp(0, 1), z) * du_dt, du_dt

    def _velocity_target(self, v: Tensor, rows: Rows) -> Tensor:
        """Return the target of the r = t rows, given their v_g."""
        return v

    def truth(self, oracle: Oracle) -> Oracle:
        return self.guidance.truth(oracle)

    def target_noise(self, noise: Tensor, rows: Rows) -> Tensor:
        return self.guidance.target_noise(noise, rows.t)

    def measured(self, guidance: Literal["run", "off"]) -> Objective:
        return self if guidance == "run" else self.model_copy(update={"guidance": Guidance()})

    def parts(self, terms: LossTerms, rows: Rows) -> dict[str, Tensor]:
        """Return trajectory flow matching and trajectory consistency (AlphaFlow, 2510.20771, section 3).

        grad ||u - u_tgt||^2 = grad ||u - v||^2 + grad 2 (t - r) <u, sg du/dt>, exactly.
        """
        assert terms.du_dt is not None, "our own"
        n, gap = rows.num_equal, expand(rows.t - rows.r, terms.prediction)
        pull = torch.cat([torch.zeros_like(terms.target[:n]), gap[n:] * terms.du_dt])
        return {
            "flow_matching": squared_error(terms.prediction, terms.target + pull),
            "consistency": 2 * (terms.prediction * pull).flatten(1).sum(1),
        }

    def forwards_per_row(self, gap_share: float) -> float:
        return 3.0 + 2.0 * gap_share + self.guidance.forwards_per_row(gap_share)
