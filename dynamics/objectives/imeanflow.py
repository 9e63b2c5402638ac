"""Improved MeanFlow: MeanFlow as a loss of v, along the network's own velocity (Improved Mean Flows, 2512.02012)."""

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from dynamics.flow.condition import Condition, concatenated
from dynamics.flow.path import expand
from dynamics.flow.progress import Progress
from dynamics.flow.rows import Rows
from dynamics.models import Network
from dynamics.objectives.asked_guidance import AskedGuidance, AskedOracle, GuidanceLaw, GuidedCondition
from dynamics.objectives.meanflow import MeanFlow
from dynamics.objectives.objective import Objective
from dynamics.objectives.terms import LossTerms, squared_error
from dynamics.options import invalid
from dynamics.oracles import Oracle


@dataclass(frozen=True)
class LabelledRows(Rows):
    """Rows with the condition that each had before some were dropped."""

    kept: Any
    """Condition of B rows."""


class IMeanFlow(MeanFlow):
    """V = u + (t - r) sg(du/dt) is regressed on sg(v_g), v_g = v + (1 - 1/w)(v_c - v_u), with du/dt along v_c.

    v_c = u(z, t, t | y) and v_u = u(z, t, t | null) are the network's own (the paper's boundary form). V depends on
    (z_t, t, r) alone, so that this is a loss of v; MeanFlow's target also holds the sample's v inside du/dt. The
    official code's guidance of scale w is `guidance` with w = 1 and k = 1 - 1/w.

    DIFFERS: the official code takes v_c and v_u from a head of their own, which has a loss ||v - v_g||^2 beside this;
    its backbone knows t - r, not t.
    """

    kind: Literal["imf"] = "imf"  # type: ignore[assignment]
    sampled: GuidanceLaw | None = None
    """Guidance that the network is conditioned on, in place of one that is fixed; of `guidance` only the label drop is
    used then."""

    @model_validator(mode="after")
    def _one_guidance(self) -> Self:
        if self.sampled is not None and self.guidance.active:
            received, allowed = (self.guidance.w, self.guidance.k), "w = 1 and k = 0 where guidance is sampled"
            raise invalid("guidance.w and guidance.k", received, allowed, "leave them out, or set sampled to none")
        if self.guidance.fade or self.guidance.label_drop == "guided":
            both, allowed = (self.guidance.fade, self.guidance.label_drop), "0, and independent or first_rows"
            raise invalid("guidance.fade and guidance.label_drop", both, allowed, "leave fade and label_drop out")
        return self

    def condition(self, base: Condition) -> Condition:
        return base if self.sampled is None else GuidedCondition(base)

    def ask(self, c: Any) -> Any:
        return c if self.sampled is None else self.sampled.ask(c)

    def asking_for(self, scale: float | None, interval: tuple[float, float] | None) -> "IMeanFlow":
        if self.sampled is None:
            return super().asking_for(scale, interval)  # type: ignore[return-value]
        asked = {"asked_scale": scale, "asked_interval": interval}
        changes = {name: value for name, value in asked.items() if value is not None}
        return self.model_copy(update={"sampled": GuidanceLaw.model_validate({**dict(self.sampled), **changes})})

    def prepare(self, rows: Rows, seed: int, step: int) -> Rows:
        kept, rows = rows, super().prepare(rows, seed, step)
        if self.sampled is not None:  # a row without its label keeps the guidance that it was drawn with
            c, condition = self.sampled.draw(rows, seed, step), self.condition(rows.condition)
            kept, rows = replace(kept, c=replace(c, of_data=kept.c)), replace(rows, c=c, condition=condition)
        return LabelledRows(**vars(rows), kept=kept.c)

    def loss(self, net: Network, rows: Rows, now: Progress) -> LossTerms:
        """Return ||V - v_g||^2; see `Objective.loss`.

        The derivative runs without gradient and on the r < t rows only. The r = t rows' v_c is their prediction.
        """
        n = rows.num_equal
        z, v = rows.path()
        t, r = rows.t[n:], rows.r[n:]
        v_u, v_c = self._boundary(net, rows, z)
        _, du_dt = net.jvp(z[n:], t, r, rows.c[n:], dz=v_c, dt=1.0, dr=0.0)
        prediction = net(z, rows.t, rows.r, rows.c).to(z.dtype)
        w, k = (expand(weight, z) for weight in self._weights(rows))
        v_g = w * v + (1 - w - k) * v_u + k * torch.cat([prediction[:n].detach(), v_c])
        # V - v_g = u - (v_g - (t - r) sg(du/dt)): instruments see a regression of u, as MeanFlow's
        target = torch.cat([v_g[:n], v_g[n:] - expand(t - r, z) * du_dt])
        raw = squared_error(prediction, target)
        return LossTerms(raw, self.adaptive.weight(raw), prediction, target, u=prediction, du_dt=du_dt)

    def _weights(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return the weights of v and v_c in v_g, [B] each; what is left is that of v_u."""
        t, kept = rows.t, ~rows.dropped.to(rows.t.device)
        if self.sampled is None:
            on = (self.guidance.inside(t) & kept).to(t.dtype)
            return 1 + on * (self.guidance.w - 1), on * self.guidance.k
        return torch.ones_like(t), (rows.c.inside(t) & kept) * (1 - 1 / rows.c.scale)

    def _boundary(self, net: Network, rows: Rows, z: Tensor) -> tuple[Tensor, Tensor]:
        """Compute v_u [B, ...], zero where it has no weight, and the r < t rows' v_c, in one pass without gradient.

        The tangent of a row whose label was dropped is that of its label, as in the official code: over the labels that
        z_t may have its mean is the unconditional velocity.
        """
        n, v_u, c = rows.num_equal, torch.zeros_like(z), rows.kept if isinstance(rows, LabelledRows) else rows.c
        if isinstance(c, AskedGuidance):  # outside of its interval a row has no guidance, inside all of it
            c = replace(rows.condition.null(c), of_data=c.of_data, scale=torch.where(c.inside(rows.t), c.scale, 1.0))
        unc = (~rows.dropped & self._needs_null).nonzero()[:, 0].to(z.device)
        both = concatenated([rows.condition.null(rows.c[unc]), c[n:]])
        t = torch.cat([rows.t[unc], rows.t[n:]])
        # called whichever rows were drawn: ranks that split the weights of a network all have to
        out = net.frozen(torch.cat([z[unc], z[n:]]), t, t, both).to(z.dtype)
        v_u[unc] = out[: len(unc)]
        return v_u, out[len(unc) :]

    def truth(self, oracle: Oracle) -> Oracle:
        return self.guidance.truth(oracle) if self.sampled is None else AskedOracle(oracle)

    def measured(self, guidance: Literal["run", "off"]) -> Objective:
        if guidance == "run" or self.sampled is None:
            return super().measured(guidance)
        return self.asking_for(1.0, (0.0, 1.0))

    def forwards_per_row(self, gap_share: float) -> float:
        return 3.0 + 3.0 * gap_share + (1 - self.guidance.label_drop_prob) * self._needs_null

    @property
    def _needs_null(self) -> bool:
        """Whether v_u has a weight in the target of a row that keeps its label."""
        return self.sampled is not None or (self.guidance.active and self.guidance.needs_null)
