"""AlphaFlow: from trajectory flow matching to MeanFlow (Understanding and Improving MeanFlow Models, 2510.20771)."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from dynamics.flow.path import expand
from dynamics.flow.progress import Progress
from dynamics.flow.rows import Rows
from dynamics.models import Network
from dynamics.objectives.meanflow import MeanFlow
from dynamics.objectives.terms import Adaptive, LossTerms
from dynamics.options import Options, invalid
from dynamics.oracles import Oracle


class Annealed(Options):
    """A number between 0 and 1 that moves with the progress i/T of training.

    Example:
        >>> [round(Annealed().at(fraction), 3) for fraction in (0.0, 0.4, 0.5, 0.6, 1.0)]
        [1.0, 0.924, 0.5, 0.076, 0.0]
    """

    path: Literal["sigmoid", "linear", "exponential", "constant"] = "sigmoid"
    """How it moves from `first` to `last`; constant stays at `first`."""
    first: float = Field(default=1.0, ge=0, le=1)
    """Value up to `start`."""
    last: float = Field(default=0.0, ge=0, le=1)
    """Value from `end` on."""
    start: float = Field(default=0.0, ge=0, le=1)
    """Progress at which the move begins."""
    end: float = Field(default=1.0, ge=0, le=1)
    """Progress at which the move ends."""
    steepness: float = Field(default=25.0, gt=0)
    """Of the sigmoid, whose middle is half way from `start` to `end` (the official code's gamma)."""
    clamp: float = Field(default=0.005, ge=0, lt=0.5)
    """Values below it are 0, those above 1 minus it are 1."""

    @model_validator(mode="after")
    def _movable(self) -> Self:
        if self.start >= self.end:
            raise invalid("start, end", (self.start, self.end), "start < end", "swap the two")
        if self.path == "exponential" and not self.first * self.last > 0:
            raise invalid(
                "first, last", (self.first, self.last), "numbers above 0 on an exponential path", "raise them"
            )
        return self

    def at(self, fraction: float) -> float:
        """Return the value at a progress i/T."""
        value = self._unclamped(fraction)
        return 0.0 if value < self.clamp else 1.0 if value > 1 - self.clamp else value

    def _unclamped(self, fraction: float) -> float:
        moved = (fraction - self.start) / (self.end - self.start)
        if self.path == "constant" or moved < 0:
            return self.first
        if moved > 1:
            return self.last
        if self.path == "exponential":
            return self.first * math.exp(moved * math.log(self.last / self.first))
        if self.path == "sigmoid":
            moved = 1 / (1 + math.exp(-self.steepness * (moved - 0.5)))
        return self.first + (self.last - self.first) * moved


class AlphaFlow(MeanFlow):
    """u is regressed on sg(a v_g + (1 - a) u(z_s, s, r)) with s = a r + (1 - a) t and z_s = z_t - (t - s) v_g.

    a = 1 is trajectory flow matching, a -> 0 is MeanFlow, whose derivative serves from a = 0 on. Rows with r < t weigh
    a times their adaptive weight as long as a > 0. Formulas of the official code, src/training/loss.py.
    """

    SERIES: ClassVar[Mapping[str, tuple[str, str]]] = {"alpha": ("1", "share of v in the target of r < t rows")}

    kind: Literal["alphaflow"] = "alphaflow"  # type: ignore[assignment]
    adaptive: Adaptive = Adaptive(p=1.0, c=1e-3, reduction="mean")
    """Adaptive weight of a row, by the mean over C, H, W."""
    alpha: Annealed = Annealed()
    """a as training proceeds."""
    target_clamp: float | None = Field(default=4.0, gt=0)
    """Targets of r < t rows are cut off at plus and minus this while a > 0; none cuts nothing."""

    def loss(self, net: Network, rows: Rows, now: Progress) -> LossTerms:
        """Return ||u - u_tgt||^2; see `Objective.loss`."""
        terms, alpha = super().loss(net, rows, now), self.alpha.at(now.fraction)
        adaptive = self._weight(terms, rows.t - rows.r, alpha) if alpha else terms.adaptive
        return replace(terms, adaptive=adaptive, extras={"alpha": torch.full_like(adaptive, alpha)})

    def _gap_target(
        self, net: Network, z: Tensor, t: Tensor, r: Tensor, c: Any, v: Tensor, now: Progress
    ) -> tuple[Tensor, Tensor]:
        # which network calls are made depends on the progress alone, so that all ranks make the same
        if (alpha := self.alpha.at(now.fraction)) == 0:
            return super()._gap_target(net, z, t, r, c, v, now)
        gap, target = expand(t - r, z), v
        if alpha < 1:
            a = self._share(t - r, alpha)
            s = torch.maximum(t - a * (t - r), r)
            a, step = expand(a, z), expand(t - s, z)
            target = a * v + (1 - a) * net.frozen(z - step * v, s, r, c).to(z.dtype)
        if self.target_clamp is not None:
            target = target.clamp(-self.target_clamp, self.target_clamp)
        target = torch.where(gap > 0, target, v)
        # the secant in the place of du/dt: what it takes from v is what makes u consistent along the trajectory
        return target, (v - target) / gap.clamp(min=1e-12)

    def _share(self, gap: Tensor, alpha: float) -> Tensor:
        """Return a of rows [B]; 1 where r = t."""
        return torch.where(gap > 0, gap.new_tensor(alpha), 1.0)

    def _weight(self, terms: LossTerms, gap: Tensor, alpha: float) -> Tensor:
        """Return the adaptive weight of rows [B] while a > 0."""
        return terms.adaptive * self._share(gap, alpha)

    def truth(self, oracle: Oracle) -> Oracle:
        """Return the velocities at which the loss is least once a = 0.

        While a > 0 it is least elsewhere, by a term in a, since the step along v_g leaves the trajectory, and at v for
        a = 1; exact errors hold that distance too.
        """
        return super().truth(oracle)

    def forwards_per_row(self, gap_share: float) -> float:
        values = [self.alpha.at((i + 0.5) / 1000) for i in range(1000)]
        of_gap = sum(2.0 if a == 0 else 0.0 if a == 1 else 1.0 for a in values) / len(values)
        return 3.0 + of_gap * gap_share + self.guidance.forwards_per_row(gap_share)
