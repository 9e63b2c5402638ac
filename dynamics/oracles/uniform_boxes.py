r"""A mixture of uniform distributions on boxes, such as a checkerboard.

Given its box, each coordinate of x is uniform on an interval [a, b]. With z = (1-t) x + t e, n = -e = ((1-t) x - z) / t
is then a standard normal number truncated to [alpha, beta], alpha = ((1-t) a - z) / t, beta = ((1-t) b - z) / t, whose
mass and mean are closed forms:

    P = Phi(beta) - Phi(alpha),   E[n] = (phi(alpha) - phi(beta)) / P,   E[e] = -E[n],   E[x] = (z + t E[n]) / (1-t),

and a box has the posterior weight w prod_i P_i / (b_i - a_i). Two forms of these keep all digits. Where [alpha, beta]
is wide (t -> 0), differences of Phi are taken in the scaled tail erfcx. Where it is narrow (t -> 1), they would cancel:
with mu the middle, h = beta - alpha and n = mu + h xi, xi in [-1/2, 1/2] has a density proportional to the smooth
function exp(-mu h xi - h^2 xi^2 / 2), which the rule of Gauss and Legendre integrates to the last digit.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from dynamics.options import invalid
from dynamics.oracles.posterior import PosteriorOracle, by_class

NODES = 16
"""Of the Gauss-Legendre rule."""
NARROW = 4.0
"""Up to this change of the exponent across an interval, it counts as narrow."""


class UniformBoxesOracle(PosteriorOracle):
    """Boxes with weights, uniform inside each.

    Example:
        >>> low, high = torch.tensor([[-1.0, -1.0]]), torch.tensor([[1.0, 1.0]])
        >>> oracle = UniformBoxesOracle(low, high, torch.ones(1))
        >>> oracle.v(torch.full((1, 2), 0.5), torch.ones(1))    # at t = 1 the noise is known, and E[x] = 0
        tensor([[0.5000, 0.5000]])
    """

    def __init__(
        self, low: Tensor, high: Tensor, weights: Tensor, labels: Tensor | None = None, num_steps: int = 32
    ) -> None:
        """Take corners low < high [K, D], weights [K] (sum 1) and the class of each box [K] long."""
        fits = low.ndim == 2 and high.shape == low.shape and weights.shape == low.shape[:1]
        if not fits or (labels is not None and labels.shape != weights.shape):
            received = (tuple(low.shape), tuple(high.shape), tuple(weights.shape))
            raise invalid("boxes", received, "low and high [K, D], weights [K]", "check the shapes")
        if not bool((low < high).all()):
            raise invalid("boxes", "a side of no length", "low < high", "swap the corners")
        self.low, self.high, self.labels = low.double(), high.double(), labels
        self.log_weights = weights.double().log()
        self.num_classes = 0 if labels is None else int(labels.max()) + 1
        self.num_steps = num_steps

    def posterior(self, z: Tensor, t: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        if c is None or self.labels is None:
            return self._given(torch.arange(len(self.low)), z, t)
        x_hat, e_hat = torch.zeros_like(z), torch.zeros_like(z)
        for rows, boxes in by_class(c, self.labels, self.num_classes):
            of_x, of_e = self._given(boxes, z[rows], t[rows])
            x_hat, e_hat = x_hat.index_copy(0, rows, of_x), e_hat.index_copy(0, rows, of_e)
        return x_hat, e_hat

    def _given(self, boxes: Tensor, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior means of x and e, given that x comes from one of some boxes."""
        low, high, s = self.low[boxes], self.high[boxes], t.clamp(min=1e-12)[:, None, None]
        middle, width = ((1 - s) * (low + high) / 2 - z[:, None]) / s, (1 - s) * (high - low) / s
        log_mass, of_n, of_xi = truncated_normal(middle, width)
        share = (self.log_weights[boxes] + log_mass.sum(2)).softmax(1)[:, :, None]
        # from the box where the interval is narrow, from z where it is wide: neither divides by 1 - t -> 0
        from_box = (low + high) / 2 + (high - low) * of_xi
        from_z = (z[:, None] + s * of_n) / (1 - s).clamp(min=1e-300)
        x_hat = (share * torch.where(width < 1, from_box, from_z)).sum(1)
        # at t = 0 the noise is independent of z = x, and its mean is 0
        e_hat = torch.where(t[:, None] > 1e-9, -(share * of_n).sum(1), torch.zeros_like(z))
        return x_hat, e_hat


def truncated_normal(middle: Tensor, width: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Describe a standard normal number n = middle + width xi that lies in an interval.

    Args:
        middle: Middle of the interval, any shape, float64.
        width: Its width >= 0.

    Returns:
        The logarithm of mean density there (mass over width, in the limit the density itself), E[n], and E[xi] in
        [-1/2, 1/2].

    Example:
        >>> one, wide = torch.ones(1).double(), torch.full((1,), 200.0).double()
        >>> [round(float(part), 4) for part in truncated_normal(one, wide)[1:]]
        [0.0, -0.005]
    """
    side = torch.where(middle < 0, -1.0, 1.0).to(middle.dtype)
    middle = side * middle  # so that the lower end has the larger density
    wide = middle * width + width**2 / 4 > NARROW
    one = torch.ones_like(width)
    # each form sees harmless numbers where the other one holds
    log_a, n_a, xi_a = _narrow(torch.where(wide, 0 * one, middle), torch.where(wide, 0 * one, width))
    log_b, n_b, xi_b = _wide(torch.where(wide, middle, 0 * one), torch.where(wide, width, 4 * one))
    return torch.where(wide, log_b, log_a), side * torch.where(wide, n_b, n_a), side * torch.where(wide, xi_b, xi_a)


def _narrow(middle: Tensor, width: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    xi, weights = _rule()
    density = weights * (-(middle * width)[..., None] * xi - (width[..., None] * xi) ** 2 / 2).exp()
    mass = density.sum(-1)
    of_xi = (density * xi).sum(-1) / mass
    return -(middle**2) / 2 - math.log(2 * math.pi) / 2 + mass.log(), middle + width * of_xi, of_xi


def _wide(middle: Tensor, width: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    alpha, beta = middle - width / 2, middle + width / 2
    fall = -torch.special.expm1(-middle * width)  # 1 - phi(beta) / phi(alpha)
    # in units of phi(alpha): a difference of Mills ratios above the mean, of Phi below it
    tail, start = alpha.clamp(min=0), alpha.clamp(max=0)
    above = _mills(tail) - (1 - fall) * _mills(beta)
    log_density = -(alpha**2) / 2 - math.log(2 * math.pi) / 2
    below = torch.special.ndtr(beta) - torch.special.ndtr(start)
    log_mass = torch.where(alpha > 0, log_density + above.log(), below.log())
    of_n = fall * torch.where(alpha > 0, 1 / above, (-(start**2) / 2).exp() / math.sqrt(2 * math.pi) / below)
    return log_mass - width.log(), of_n, (of_n - middle) / width


def _mills(x: Tensor) -> Tensor:
    """(1 - Phi(x)) / phi(x)."""
    ratio: Tensor = math.sqrt(math.pi / 2) * torch.special.erfcx(x / math.sqrt(2))
    return ratio


@lru_cache(maxsize=1)
def _rule() -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return torch.from_numpy(nodes / 2), torch.from_numpy(weights / 2)
