"""One Gaussian, in closed form."""

from typing import Any

from torch import Tensor

from dynamics.flow.path import expand
from dynamics.options import invalid


class GaussianOracle:
    """Data x ~ N(0, std^2 I): everything in closed form.

    Example:
        >>> import torch
        >>> oracle = GaussianOracle(std=1.0)
        >>> z, one, zero = torch.ones(1, 2), torch.ones(1), torch.zeros(1)
        >>> oracle.u(z, one, zero)     # noise and data have the same law, so z_0 = z_1
        tensor([[0., 0.]])
    """

    def __init__(self, std: float) -> None:
        if not std > 0:
            raise invalid("std", std, "std > 0", "pass the standard deviation of the data")
        self.std = std

    def u(self, z: Tensor, t: Tensor, r: Tensor, c: Any = None) -> Tensor:
        """u* = z (1 - s(r)/s(t)) / (t - r), s(t)^2 = (1-t)^2 std^2 + t^2, in a form that is smooth at r = t.

        Args:
            z: [B, ...].
            t: [B].
            r: [B].
            c: Ignored.
        """
        t, r, q2 = expand(t, z), expand(r, z), self.std**2
        s_t, s_r = (((1 - a) ** 2 * q2 + a**2).sqrt() for a in (t, r))
        return z * ((t + r) * (1 + q2) - 2 * q2) / (s_t * (s_t + s_r))

    def v(self, z: Tensor, t: Tensor, c: Any = None) -> Tensor:
        """v*(z, t) = u*(z, t, t), [B, ...]."""
        return self.u(z, t, t, c)
