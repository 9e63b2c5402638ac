"""The distribution of a finite data set."""

import torch
from torch import Tensor

from dynamics.options import invalid
from dynamics.oracles.posterior import PosteriorOracle, by_class


class EmpiricalOracle(PosteriorOracle):
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

    def posterior(self, z: Tensor, t: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        if c is None or self.y is None:
            x_hat = self._posterior_mean(z, t, self.x)
        else:  # class by class, so that each row meets only the images it can have come from
            x_hat = torch.zeros_like(z)
            for rows, members in by_class(c, self.y, self.num_classes):
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
