r"""From a posterior to velocities: what all distributions with a known posterior mean have in common.

For a distribution whose posterior mean m(z, t) = E[x | z_t = z] is known, v*(z, t) = (z - m) / t exactly, and the
average velocity follows from the path of dz/dt = v*. With p = 1/t that path obeys d(z/t)/dp = m, therefore

    u*(z_t, t, r) = (z_t - mbar) / t,   mbar = mean of m along the path over p in [1/t, 1/r],

which needs no division by the gap: r = t is an ordinary value of the same formula, and the equation is not stiff where
the posterior mean settles (t -> 0). The integral is solved by the classical Runge-Kutta scheme of order four on steps
that are uniform in t^0.3 (GRID).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from dynamics.flow.integrator import follow, runge_kutta
from dynamics.options import invalid

SETTLED = 1e-3
"""Below this fraction of t the posterior mean is taken as constant along the path (its change is of second order)."""
GRID = 0.3
"""Steps are uniform in t^GRID: fine where the posterior still decides, coarse where it has settled."""


class Oracle(Protocol):
    """Exact velocities of a distribution."""

    def u(self, z: Tensor, t: Tensor, r: Tensor, c: Any = None) -> Tensor:
        """u*(z, t, r | c), [B, ...]: the mean of v* along its own path from t down to r."""

    def v(self, z: Tensor, t: Tensor, c: Any = None) -> Tensor:
        """v*(z, t | c) = E[e - x | z_t = z, c], [B, ...]; None means unconditional."""


class PosteriorOracle(ABC):
    """A distribution with a known posterior; subclasses give `posterior`, this class gives v and u."""

    num_classes: int = 0
    """Labels are 0..num_classes-1, and num_classes itself is the null class; 0 where c is no label."""
    num_steps: int = 32
    """Runge-Kutta steps of a path."""

    @abstractmethod
    def posterior(self, z: Tensor, t: Tensor, c: Any) -> tuple[Tensor, Tensor]:
        """Return E[x | z, t, c] and E[e | z, t, c], both [B, D], for z [B, D] and t [B] (float64); c None: given z."""

    def v(self, z: Tensor, t: Tensor, c: Any = None) -> Tensor:
        """v*(z, t | c) = E[e - x | z_t = z, c].

        Args:
            z: [B, ...].
            t: [B] in [0, 1].
            c: Labels [B] long, of which the null class (or None instead of all) means unconditional; or what else the
                distribution is conditioned on.

        Returns:
            [B, ...] in z's dtype; computed in float64.
        """
        x_hat, e_hat = self.posterior(z.reshape(len(z), -1).double(), t.double(), self._asked(c))
        return (e_hat - x_hat).reshape(z.shape).to(z.dtype)

    def u(self, z: Tensor, t: Tensor, r: Tensor, c: Any = None) -> Tensor:
        """u*(z, t, r | c): the mean of v* along its own path from t down to r.

        Args:
            z: [B, ...] at time t.
            t: [B] in [0, 1].
            r: [B], 0 <= r <= t.
            c: As in `v`.

        Returns:
            [B, ...] in z's dtype; computed in float64.
        """
        flat, t64, r64, c = z.reshape(len(z), -1).double(), t.double(), r.double(), self._asked(c)
        stop = torch.maximum(r64, SETTLED * t64)
        safe_t = t64.clamp(min=1e-12)
        mean, end = self._mean_posterior(flat, safe_t, stop.clamp(min=1e-12), c)
        # share of the interval of p = 1/t that lies before the posterior settles; the rest has the constant value `end`
        gap = (t64 - r64).clamp(min=1e-300)
        share = torch.where(stop > r64, r64 * (t64 - stop) / (stop * gap).clamp(min=1e-300), torch.ones_like(t64))
        mean = share[:, None] * mean + (1 - share)[:, None] * end
        u = (flat - mean) / safe_t[:, None]
        instant = self.posterior(flat, t64, c)
        at_zero = (t64 < 1e-9)[:, None]
        return torch.where(at_zero, instant[1] - instant[0], u).reshape(z.shape).to(z.dtype)

    def _mean_posterior(self, z: Tensor, t: Tensor, r: Tensor, c: Any) -> tuple[Tensor, Tensor]:
        """Return the mean of m over p in [1/t, 1/r] along the path from z, and m at its end."""
        k = torch.arange(self.num_steps + 1, dtype=torch.float64, device=z.device)[:, None] / self.num_steps
        nodes = 1 / (t**GRID + (r**GRID - t**GRID) * k) ** (1 / GRID)
        whole = nodes[-1] - nodes[0]
        # shares of the steps in the whole; 1/num_steps each in the limit r = t
        shares = torch.where(
            whole * t > 1e-10, nodes.diff(dim=0) / whole.clamp(min=1e-300), torch.full_like(whole, 1 / self.num_steps)
        )

        def m(w: Tensor, p: Tensor) -> Tensor:
            return self.posterior(w / p[:, None], 1 / p, c)[0]

        mean, w = follow(runge_kutta(m), z / t[:, None], nodes, shares)
        return mean, m(w, nodes[-1])

    def _asked(self, c: Any) -> Any:
        nothing = isinstance(c, Tensor) and self.num_classes > 0 and bool((c == self.num_classes).all())
        return None if nothing else c


def by_class(y: Tensor, labels: Tensor, num_classes: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the rows of each label among y, and the members (images, components) that have it; all for the null class.

    Raises:
        ValueError: A label that no member has.
    """
    for label in torch.unique(y):
        members = ((labels == label) | (label == num_classes)).nonzero()[:, 0]
        if len(members) == 0:
            allowed = f"a class of the data, or the null class {num_classes}"
            raise invalid("y", int(label), allowed, "ask for a class of the data")
        yield (y == label).nonzero()[:, 0], members
