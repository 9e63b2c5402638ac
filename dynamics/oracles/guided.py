"""The field that training with guidance has as its fixed point."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dynamics.flow.path import expand
from dynamics.oracles.posterior import Oracle, PosteriorOracle

Scale = float | Callable[[Tensor, Any], Tensor | float]
"""Guidance scale, the same for all rows, or [B] for times t [B] and their conditions."""


class _Guided(PosteriorOracle):
    """Guided at every time; the null class stays unguided, since its velocity is the unconditional one."""

    def __init__(self, base: Oracle, scale: Scale) -> None:
        self.base, self.scale = base, scale
        self.num_steps = getattr(base, "num_steps", PosteriorOracle.num_steps)

    def v(self, z: Tensor, t: Tensor, c: Any = None) -> Tensor:
        conditional = self.base.v(z, t, c)
        if c is None:
            return conditional
        scale = self.scale(t, c) if callable(self.scale) else self.scale
        if bool(torch.as_tensor(scale == 1).all()):
            return conditional
        scale = expand(scale.to(z.dtype), z) if isinstance(scale, Tensor) else scale
        return scale * conditional + (1 - scale) * self.base.v(z, t)

    def posterior(self, z: Tensor, t: Tensor, c: Any) -> tuple[Tensor, Tensor]:
        v, s = self.v(z, t, c), t[:, None]
        return z - s * v, z + (1 - s) * v


class GuidedOracle:
    """The fixed point of training with guidance: v = w' v(z, t | c) + (1 - w') v(z, t) inside [t_start, t_end].

    With v_g = w v + (1 - w - k) u(z, t, t | null) + k u(z, t, t | c) as the target, the minimiser of the loss is
    this field with w' = w / (1 - k) (Mean Flows, eq. 21). Outside the interval, and for the null class, v is unguided.
    """

    def __init__(self, base: Oracle, scale: Scale, t_start: float = 0.0, t_end: float = 1.0) -> None:
        self.base, self.inside = base, _Guided(base, scale)
        self.t_start, self.t_end = t_start, t_end

    def interval(self, c: Any) -> tuple[Tensor | float, Tensor | float]:
        """Return the first and last time at which guidance acts, for all rows or each [B]."""
        return self.t_start, self.t_end

    def v(self, z: Tensor, t: Tensor, c: Any = None) -> Tensor:
        """v*(z, t | c), [B, ...]; see `PosteriorOracle.v`."""
        start, end = self.interval(c)
        guided = expand((t >= start) & (t <= end), z)
        return torch.where(guided, self.inside.v(z, t, c), self.base.v(z, t, c))

    def u(self, z: Tensor, t: Tensor, r: Tensor, c: Any = None) -> Tensor:
        """u*(z, t, r | c), [B, ...]; see `PosteriorOracle.u`.

        The field jumps at the interval's edges, which no Runge-Kutta step may cross, so the path is followed piece by
        piece: above, inside and below the interval.
        """
        start, end = self.interval(c)
        pieces = ((end, 1.0, self.base), (start, end, self.inside), (0.0, start, self.base))
        gap, moved = t - r, torch.zeros_like(z)
        for low, high, field in pieces:
            a, b = t.clamp(max=high), r.clamp(min=low)
            rows = (a > b).nonzero()[:, 0]
            if len(rows):
                some = None if c is None else c[rows]
                u = field.u((z - moved)[rows], a[rows], b[rows], some)
                moved = moved.index_add(0, rows, expand((a - b)[rows], z) * u)
        instant = self.v(z, t, c)
        return torch.where(expand(gap > 0, z), moved / expand(gap.clamp(min=1e-300), z), instant)
