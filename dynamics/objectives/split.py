"""SplitMeanFlow: average velocities that add up over a split interval (2507.16884)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dynamics.flow.path import expand
from dynamics.flow.progress import Progress
from dynamics.flow.rows import Rows
from dynamics.models import Network
from dynamics.objectives.meanflow import MeanFlow
from dynamics.objectives.terms import Adaptive, LossTerms, squared_error
from dynamics.rng import generator


@dataclass(frozen=True)
class SplitRows(Rows):
    """Rows with the place where each interval is split."""

    share: Tensor
    """lambda = (t - s) / (t - r), [B]."""


class SplitMeanFlow(MeanFlow):
    """(t - r) u(z_t, t, r) = (t - s) sg u(z_t, t, s) + (s - r) sg u(z_s, s, r) on r < t rows, u = v_g on r = t rows.

    z_s = z_t - (t - s) sg u(z_t, t, s) and s = t - lambda (t - r), so that u is regressed on lambda u(z_t, t, s) +
    (1 - lambda) u(z_s, s, r) (the paper's eq. 11 and algorithm 1). No derivative is taken.

    DIFFERS: the paper's r = t rows learn the guided velocity of a pretrained network; here they learn v_g of the data
    and of the network itself, as in Mean Flows, so that it trains from scratch. Guidance needs no place elsewhere.
    """

    PARTS: ClassVar[tuple[str, ...]] = ()

    kind: Literal["split_meanflow"] = "split_meanflow"  # type: ignore[assignment]
    adaptive: Adaptive = Adaptive(p=0.0)
    """Adaptive weight of a row; off by default."""
    split: Literal["uniform", "middle"] = "uniform"
    """Law of lambda: uniform in [0, 1] as in the paper, or always 1/2."""

    def prepare(self, rows: Rows, seed: int, step: int) -> Rows:
        return self.extended(super().prepare(rows, seed, step), generator(seed, "split", step))

    def extended(self, rows: Rows, stream: torch.Generator) -> Rows:
        share = torch.rand(len(rows), generator=stream) if self.split == "uniform" else torch.full((len(rows),), 0.5)
        return SplitRows(**vars(rows), share=share)

    def loss(self, net: Network, rows: Rows, now: Progress) -> LossTerms:
        """Return the squared error of u; see `Objective.loss`. Rows that nobody has `extended` split in the middle."""
        n, (z, v), guidance = rows.num_equal, rows.path(), self.guidance
        v_unc, _ = guidance.velocities(net, rows.part(0, n), z[:n])
        z_gap, t, r, c = z[n:], rows.t[n:], rows.r[n:], rows.c[n:]
        share = rows.share[n:] if isinstance(rows, SplitRows) else torch.full_like(t, 0.5)
        s = t - share * (t - r)
        early = net.frozen(z_gap, t, s, c).to(z.dtype)
        late = net.frozen(z_gap - expand(t - s, z) * early, s, r, c).to(z.dtype)
        prediction = net(z, rows.t, rows.r, rows.c).to(z.dtype)
        v_equal = guidance.combine(v[:n], v_unc, prediction[:n].detach(), rows.t[:n], rows.dropped[:n])
        target = torch.cat([v_equal, late + expand(share, z) * (early - late)])
        raw = squared_error(prediction, target)
        return LossTerms(raw, self.adaptive.weight(raw), prediction, target, u=prediction)

    def forwards_per_row(self, gap_share: float) -> float:
        return 3.0 + 2.0 * gap_share + (1 - gap_share) * self.guidance.forwards_per_row(0.0)
