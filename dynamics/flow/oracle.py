r"""Exact velocities of known distributions: the toolkit's ground truth.

For a distribution whose posterior mean m(z, t) = E[x | z_t = z] is known, v*(z, t) = (z - m) / t exactly, and the
average velocity follows from the path of dz/dt = v*. With p = 1/t that path obeys d(z/t)/dp = m, therefore

    u*(z_t, t, r) = (z_t - mbar) / t,   mbar = mean of m along the path over p in [1/t, 1/r],

which needs no division by the gap: r = t is an ordinary value of the same formula, and the equation is not stiff where
the posterior mean settles (t -> 0). The integral is solved by the classical Runge-Kutta scheme of order four on steps
that are uniform in t^0.3 (GRID).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from dynamics.data import DataSource, GaussianMixtureSet
from dynamics.flow.path import expand
from dynamics.options import invalid

SETTLED = 1e-3
"""Below this fraction of t the posterior mean is taken as constant along the path (its change is of second order)."""
GRID = 0.3
"""Steps are uniform in t^GRID: fine where the posterior still decides, coarse where it has settled."""


class GaussianOracle:
    """Data x ~ N(0, std^2 I): everything in closed form.

    Example:
        >>> oracle = GaussianOracle(std=1.0)
        >>> z, one, zero = torch.ones(1, 2), torch.ones(1), torch.zeros(1)
        >>> oracle.u(z, one, zero)     # noise and data have the same law, so z_0 = z_1
        tensor([[0., 0.]])
    """

    def __init__(self, std: float) -> None:
        if not std > 0:
            raise invalid("std", std, "std > 0", "pass the standard deviation of the data")
        self.std = std

    def u(self, z: Tensor, t: Tensor, r: Tensor, y: Tensor | None = None) -> Tensor:
        """u* = z (1 - s(r)/s(t)) / (t - r), s(t)^2 = (1-t)^2 std^2 + t^2, in a form that is smooth at r = t.

        Args:
            z: [B, ...].
            t: [B].
            r: [B].
            y: Ignored.
        """
        t, r, q2 = expand(t, z), expand(r, z), self.std**2
        s_t, s_r = (((1 - a) ** 2 * q2 + a**2).sqrt() for a in (t, r))
        return z * ((t + r) * (1 + q2) - 2 * q2) / (s_t * (s_t + s_r))

    def v(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """v*(z, t) = u*(z, t, t), [B, ...]."""
        return self.u(z, t, t, y)


class OdeOracle(ABC):
    """A distribution with a known posterior; subclasses give `posterior`, this class gives v and u."""

    num_classes: int
    num_steps: int

    @abstractmethod
    def posterior(self, z: Tensor, t: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return E[x | z, t, y] and E[e | z, t, y], both [B, D], for z [B, D], t [B], y [B] (all float64)."""

    def v(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """v*(z, t | y) = E[e - x | z_t = z, y].

        Args:
            z: [B, ...].
            t: [B] in [0, 1].
            y: [B] long, the null class `num_classes` (or None) means unconditional.

        Returns:
            [B, ...] in z's dtype; computed in float64.
        """
        flat, t64 = z.reshape(len(z), -1).double(), t.double()
        x_hat, e_hat = self.posterior(flat, t64, self._labels(y))
        return (e_hat - x_hat).reshape(z.shape).to(z.dtype)

    def u(self, z: Tensor, t: Tensor, r: Tensor, y: Tensor | None = None) -> Tensor:
        """u*(z, t, r | y): the mean of v* along its own path from t down to r.

        Args:
            z: [B, ...] at time t.
            t: [B] in [0, 1].
            r: [B], 0 <= r <= t.
            y: As in `v`.

        Returns:
            [B, ...] in z's dtype; computed in float64.
        """
        flat, t64, r64, y = z.reshape(len(z), -1).double(), t.double(), r.double(), self._labels(y)
        stop = torch.maximum(r64, SETTLED * t64)
        safe_t = t64.clamp(min=1e-12)
        mean, end = self._mean_posterior(flat, safe_t, stop.clamp(min=1e-12), y)
        # share of the interval of p = 1/t that lies before the posterior settles; the rest has the constant value `end`
        gap = (t64 - r64).clamp(min=1e-300)
        share = torch.where(stop > r64, r64 * (t64 - stop) / (stop * gap).clamp(min=1e-300), torch.ones_like(t64))
        mean = share[:, None] * mean + (1 - share)[:, None] * end
        u = (flat - mean) / safe_t[:, None]
        instant = self.posterior(flat, t64, y)
        at_zero = (t64 < 1e-9)[:, None]
        return torch.where(at_zero, instant[1] - instant[0], u).reshape(z.shape).to(z.dtype)

    def _mean_posterior(self, z: Tensor, t: Tensor, r: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the mean of m over p in [1/t, 1/r] along the path from z, and m at its end."""
        k = torch.arange(self.num_steps + 1, dtype=torch.float64, device=z.device)[:, None] / self.num_steps
        nodes = 1 / (t**GRID + (r**GRID - t**GRID) * k) ** (1 / GRID)
        whole = nodes[-1] - nodes[0]
        # shares of the steps in the whole; 1/num_steps each in the limit r = t
        shares = torch.where(
            whole * t > 1e-10, nodes.diff(dim=0) / whole.clamp(min=1e-300), torch.full_like(whole, 1 / self.num_steps)
        )
        w, mean = z / t[:, None], torch.zeros_like(z)

        def m(w: Tensor, p: Tensor) -> Tensor:
            return self.posterior(w / p[:, None], 1 / p, y)[0]

        for start, end, share in zip(nodes, nodes[1:], shares, strict=False):
            h, middle = (end - start)[:, None], (start + end) / 2
            k1 = m(w, start)
            k2 = m(w + h / 2 * k1, middle)
            k3 = m(w + h / 2 * k2, middle)
            k4 = m(w + h * k3, end)
            average = (k1 + 2 * k2 + 2 * k3 + k4) / 6
            w, mean = w + h * average, mean + share[:, None] * average
        return mean, m(w, nodes[-1])

    def _labels(self, y: Tensor | None) -> Tensor | None:
        return None if y is None or bool((y == self.num_classes).all()) else y


class EmpiricalOracle(OdeOracle):
    """The distribution of a finite data set: mass 1/N on each row, or 1/N_y on the rows of class y.

    Its v* is the exact minimiser of the flow-matching loss on this training set, so it memorises: below t of about the
    distance between neighbours it points at single rows.
    """

    def __init__(self, x: Tensor, y: Tensor | None = None, num_steps: int = 32) -> None:
        """Take rows x [N, ...], labels y [N] long (None: unconditional only) and the number of Runge-Kutta steps."""
        if len(x) == 0 or (y is not None and len(y) != len(x)):
            received = (len(x), None if y is None else len(y))
            raise invalid("x, y", received, "at least one row and one label per row", "pass matching rows and labels")
        self.x = x.reshape(len(x), -1).double()
        self.y = y
        self.num_classes = 0 if y is None else int(y.max()) + 1
        self.num_steps = num_steps

    def posterior(self, z: Tensor, t: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        if y is None or self.y is None:
            x_hat = self._posterior_mean(z, t, self.x)
        else:  # class by class, so that each row meets only the images it can have come from
            x_hat = torch.zeros_like(z)
            for rows, members in _by_class(y, self.y, self.num_classes):
                x_hat = x_hat.index_copy(0, rows, self._posterior_mean(z[rows], t[rows], self.x[members]))
        s = t.clamp(min=1e-12)[:, None]
        # at t = 0 the noise is independent of z = x, and its mean is 0
        e_hat = torch.where(t[:, None] > 1e-9, (z - (1 - s) * x_hat) / s, torch.zeros_like(z))
        return x_hat, e_hat

    @staticmethod
    def _posterior_mean(z: Tensor, t: Tensor, x: Tensor) -> Tensor:
        s = t.clamp(min=1e-12)[:, None]
        logits = (1 - s) / s**2 * (z @ x.T - (1 - s) * x.square().sum(1) / 2)
        return logits.softmax(1) @ x


class MixtureOracle(OdeOracle):
    """A Gaussian mixture with full covariances, class-conditional: the population truth with unlimited data."""

    def __init__(
        self, means: Tensor, covariances: Tensor, weights: Tensor, labels: Tensor | None = None, num_steps: int = 32
    ) -> None:
        """Take means [K, D], covariances [K, D, D], weights [K] (sum 1) and the class of each component [K] long."""
        k, d = means.shape
        if covariances.shape != (k, d, d) or weights.shape != (k,) or (labels is not None and labels.shape != (k,)):
            received = (tuple(means.shape), tuple(covariances.shape), tuple(weights.shape))
            raise invalid("mixture", received, "means [K, D], covariances [K, D, D], weights [K]", "check the shapes")
        self.means, self.labels = means.double(), labels
        eigenvalues, self.basis = torch.linalg.eigh(covariances.double())
        if float(eigenvalues.min()) < 0:
            raise invalid("covariances", float(eigenvalues.min()), "no negative eigenvalue", "add a ridge")
        self.eigenvalues, self.log_weights = eigenvalues, weights.double().log()
        self.num_classes = 0 if labels is None else int(labels.max()) + 1
        self.num_steps = num_steps

    def posterior(self, z: Tensor, t: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        if y is None or self.labels is None:
            return self._given(torch.arange(len(self.means)), z, t)
        x_hat, e_hat = torch.zeros_like(z), torch.zeros_like(z)
        for rows, components in _by_class(y, self.labels, self.num_classes):
            of_x, of_e = self._given(components, z[rows], t[rows])
            x_hat, e_hat = x_hat.index_copy(0, rows, of_x), e_hat.index_copy(0, rows, of_e)
        return x_hat, e_hat

    def _given(self, components: Tensor, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior means of x and e, given that x comes from one of some components."""
        means, basis = self.means[components], self.basis[components]
        eigenvalues, s = self.eigenvalues[components], t[:, None, None]
        centred = z[:, None, :] - (1 - s) * means
        rotated = torch.einsum("bkd,kde->bke", centred, basis)
        variance = ((1 - s) ** 2 * eigenvalues + s**2).clamp(min=1e-300)
        whitened = rotated / variance
        logits = self.log_weights[components] - (rotated * whitened + variance.log()).sum(2) / 2
        mass = logits.softmax(1)[:, :, None]
        x_hat = (mass * means).sum(1) + torch.einsum("bke,kde->bd", mass * (1 - s) * eigenvalues * whitened, basis)
        return x_hat, torch.einsum("bke,kde->bd", mass * s * whitened, basis)


def _by_class(y: Tensor, labels: Tensor, num_classes: int) -> Iterator[tuple[Tensor, Tensor]]:
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


class _Guided(OdeOracle):
    """Guided at every time; the null class stays unguided."""

    def __init__(self, base: OdeOracle, scale: float) -> None:
        self.base, self.scale = base, scale
        self.num_classes, self.num_steps = base.num_classes, base.num_steps

    def posterior(self, z: Tensor, t: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        conditional = self.base.posterior(z, t, y)
        if y is None or self.scale == 1:
            return conditional
        free = self.base.posterior(z, t, None)
        labelled = (y != self.num_classes)[:, None]
        x_hat, e_hat = (
            torch.where(labelled, self.scale * con + (1 - self.scale) * unc, con)
            for con, unc in zip(conditional, free, strict=True)
        )
        return x_hat, e_hat


class GuidedOracle:
    """The fixed point of training with guidance: v = w' v(z, t | y) + (1 - w') v(z, t) inside [t_start, t_end].

    With v_g = w v + (1 - w - k) u(z, t, t | null) + k u(z, t, t | y) as the target, the minimiser of the loss is
    this field with w' = w / (1 - k) (Mean Flows, eq. 21). Outside the interval, and for the null class, v is unguided.
    """

    def __init__(self, base: OdeOracle, scale: float, t_start: float = 0.0, t_end: float = 1.0) -> None:
        self.base, self.inside = base, _Guided(base, scale)
        self.t_start, self.t_end = t_start, t_end

    def v(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """v*(z, t | y), [B, ...]; see `OdeOracle.v`."""
        guided = expand((t >= self.t_start) & (t <= self.t_end), z)
        return torch.where(guided, self.inside.v(z, t, y), self.base.v(z, t, y))

    def u(self, z: Tensor, t: Tensor, r: Tensor, y: Tensor | None = None) -> Tensor:
        """u*(z, t, r | y), [B, ...]; see `OdeOracle.u`.

        The field jumps at the interval's edges, which no Runge-Kutta step may cross, so the path is followed piece by
        piece: above, inside and below the interval.
        """
        pieces = ((self.t_end, 1.0, self.base), (self.t_start, self.t_end, self.inside), (0.0, self.t_start, self.base))
        gap, moved = t - r, torch.zeros_like(z)
        for low, high, field in pieces:
            a, b = t.clamp(max=high), r.clamp(min=low)
            rows = (a > b).nonzero()[:, 0]
            if len(rows):
                labels = None if y is None else y[rows]
                u = field.u((z - moved)[rows], a[rows], b[rows], labels)
                moved = moved.index_add(0, rows, expand((a - b)[rows], z) * u)
        instant = self.v(z, t, y)
        return torch.where(expand(gap > 0, z), moved / expand(gap.clamp(min=1e-300), z), instant)


Oracle = GaussianOracle | OdeOracle | GuidedOracle


def oracle_for(data: DataSource) -> OdeOracle:
    """Return the exact velocities of a data set: of the population for a mixture, else of its finite set of images.

    Raises:
        ValueError: The data are latents, each drawn from a law of its own: there are too many to sum over.
    """
    if data.is_latent:
        raise invalid("data", data.name, "a finite set of images, or a mixture", "leave exact velocities out")
    if isinstance(data, GaussianMixtureSet):
        return MixtureOracle(data.means, data.covariances, data.weights, data.labels)
    return EmpiricalOracle(*data.reference())
