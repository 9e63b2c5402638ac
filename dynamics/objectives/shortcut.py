"""Shortcut models: a step of size d learns from two steps of size d / 2 (2410.12557)."""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from dynamics.flow.condition import concatenated
from dynamics.flow.path import expand
from dynamics.flow.progress import Progress
from dynamics.flow.rows import Rows
from dynamics.flow.times import DyadicSteps, TimesOptions
from dynamics.models import Network
from dynamics.objectives.objective import Objective
from dynamics.objectives.terms import Adaptive, LossTerms, squared_error
from dynamics.oracles import GuidedOracle, Oracle
from dynamics.rng import generator


class Shortcut(Objective):
    """u(z_t, t, r) = 1/2 sg [u(z_t, t, s) + u(z_s, s, r)], s = (t + r) / 2, on r < t rows, u = v on r = t rows.

    z_s = z_t - (t - s) u(z_t, t, s); both halves are a teacher's (the paper's eq. 5; its code, targets_shortcut.py).
    The grid's laws are `times`; any other law may take their place.

    DIFFERS: the code tells the network d = 2^-finest where we ask for r = t; its path keeps 1e-5 of the noise at t = 0;
    it gives each d the same number of rows and the rest of the batch to d = 1, and takes the images of the r < t rows
    from those of the r = t rows.
    """

    ONE_PASS: ClassVar[bool] = True

    kind: Literal["shortcut"] = "shortcut"
    adaptive: Adaptive = Adaptive(p=0.0)
    """Adaptive weight of a row; off by default."""
    teacher: str = "ema"
    """Weights of the halves: ema (the first average), the decay of an average such as 0.999 (the code's), or model."""
    finest: int = Field(default=7, ge=1, le=20)
    """Steps of 2^-finest and less are taken with v = u(z, t, t)."""
    clip: float | None = Field(default=4.0, gt=0)
    """Largest absolute value of z_s and of the target of r < t rows; none clips nothing."""
    guidance_scale: float = Field(default=1.0, gt=0)
    """Scale of v_unc + scale (v_con - v_unc) in both halves where those are v; longer steps inherit it, v has none."""
    label_drop_prob: float = Field(default=0.1, ge=0, lt=1)
    """Probability that an r = t row's label is replaced by the null class; r < t rows keep theirs, as in the code."""

    def times(self, gap_share: float) -> TimesOptions:
        """Return its laws of time, with a share of r < t rows: gaps 1 .. 2^-(finest - 1), and t = i 2^-finest."""
        instants = DyadicSteps(longest=self.finest, shortest=self.finest)
        return TimesOptions(law=DyadicSteps(shortest=self.finest - 1), gap_share=gap_share, equal_law=instants)

    def prepare(self, rows: Rows, seed: int, step: int) -> Rows:
        dropped = torch.rand(len(rows), generator=generator(seed, "label drop", step)) < self.label_drop_prob
        dropped[rows.num_equal :] = False
        return rows.drop(dropped)

    def loss(self, net: Network, rows: Rows, now: Progress) -> LossTerms:
        """Return the squared error of u; see `Objective.loss`."""
        n, (z, v) = rows.num_equal, rows.path()
        z_gap, t, r, c = z[n:], rows.t[n:], rows.r[n:], rows.c[n:]
        half = (t - r) / 2
        s, is_v = t - half, half < 1.5 * 2.0**-self.finest
        early = self._half(net, rows, z_gap, t, torch.where(is_v, t, s), c, is_v)
        z_s = self._clipped(z_gap - expand(half, z) * early)
        late = self._half(net, rows, z_s, s, torch.where(is_v, s, r), c, is_v)
        prediction = net(z, rows.t, rows.r, rows.c).to(z.dtype)
        target = torch.cat([v[:n], self._clipped((early + late) / 2)])
        raw = squared_error(prediction, target)
        return LossTerms(raw, self.adaptive.weight(raw), prediction, target, u=prediction)

    def _half(self, net: Network, rows: Rows, z: Tensor, t: Tensor, r: Tensor, c: Any, guided: Tensor) -> Tensor:
        """Return the teacher's u(z, t, r, c), guided where `guided` [B] holds, in one pass."""
        pick = guided.nonzero()[:, 0] if self.guidance_scale != 1 else guided.new_zeros(0, dtype=torch.long)
        asked = concatenated([c, rows.condition.null(c[pick])])
        both = net.frozen(
            torch.cat([z, z[pick]]), torch.cat([t, t[pick]]), torch.cat([r, r[pick]]), asked, weights=self.teacher
        ).to(z.dtype)
        u, null = both[: len(z)], both[len(z) :]
        return u.index_copy(0, pick, null + self.guidance_scale * (u[pick] - null))

    def _clipped(self, a: Tensor) -> Tensor:
        return a if self.clip is None else a.clamp(-self.clip, self.clip)

    def teachers(self) -> tuple[str, ...]:
        return (self.teacher,)

    def truth(self, oracle: Oracle) -> Oracle:
        """Return the velocities of the data, guided for r < t; the Euler error of steps of 2^-finest is left out."""
        return oracle if self.guidance_scale == 1 else _GuidedSteps(oracle, self.guidance_scale)

    def measured(self, guidance: Literal["run", "off"]) -> Objective:
        return self if guidance == "run" else self.model_copy(update={"guidance_scale": 1.0})

    def forwards_per_row(self, gap_share: float) -> float:
        guided = 0.0 if self.guidance_scale == 1 else 1 / self.finest  # the shortest of that many gaps
        return 3.0 + 2.0 * gap_share * (1 + guided)


class _GuidedSteps:
    """Average velocities of the guided flow, beside the instantaneous velocity of the unguided one."""

    def __init__(self, base: Oracle, scale: float) -> None:
        self.base, self.steps = base, GuidedOracle(base, scale)

    def v(self, z: Tensor, t: Tensor, c: Any = None) -> Tensor:
        return self.base.v(z, t, c)

    def u(self, z: Tensor, t: Tensor, r: Tensor, c: Any = None) -> Tensor:
        return torch.where(expand(t > r, z), self.steps.u(z, t, r, c), self.base.v(z, t, c))
