"""Samples from noise: few steps by the average velocity u, or many by the instantaneous velocity v."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from dynamics.flow.integrator import euler, follow, heun
from dynamics.flow.path import Velocity
from dynamics.options import invalid

Field = Literal["u", "v"]


def check_nfe(nfe: Sequence[int]) -> None:
    """Refuse an empty list of evaluation counts or one that is not positive."""
    if not nfe or min(nfe) < 1:
        raise invalid("nfe", list(nfe), "positive numbers of network evaluations", "for example --nfe 1 2 32")


def sample_u(u: Velocity, e: Tensor, c: Tensor, nfe: int) -> Tensor:
    """z_r = z_t - (t - r) u(z_t, t, r) on an even grid from 1 to 0 (Mean Flows, eq. 12); nfe = 1: x = e - u(e, 1, 0).

    Args:
        u: Average velocity.
        e: Noise [B, ...].
        c: Condition of B rows, such as labels.
        nfe: Number of network evaluations, one a step.

    Returns:
        Samples [B, ...].

    Example:
        >>> from dynamics.oracles import GaussianOracle
        >>> e, c = torch.ones(1, 2, dtype=torch.float64), torch.zeros(1, dtype=torch.long)
        >>> sample_u(GaussianOracle(0.5).u, e, c, nfe=1)
        tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    check_nfe([nfe])
    with torch.no_grad():
        return follow(lambda z, t, r: u(z, t, r, c), e, _even_grid(e, nfe))[1]


def sample_v(u: Velocity, e: Tensor, c: Tensor, nfe: int, method: Literal["euler", "heun"] = "euler") -> Tensor:
    """Integrate dz/dt = v = u(z, t, t) from t = 1 to 0 on an even grid.

    Args:
        u: Velocity whose r = t values are v.
        e: Noise [B, ...].
        c: Condition of B rows, such as labels.
        nfe: Number of network evaluations: Euler spends one a step; Heun two, so it takes an even number.
        method: First-order Euler or second-order Heun.
    """
    check_nfe([nfe])
    if method == "heun" and nfe % 2:
        raise invalid("nfe", nfe, "an even number for Heun, which spends two a step", "use an even nfe or euler")
    num_steps, scheme = (nfe // 2, heun) if method == "heun" else (nfe, euler)
    with torch.no_grad():
        return follow(scheme(lambda z, t: u(z, t, t, c)), e, _even_grid(e, num_steps))[1]


def _even_grid(e: Tensor, num_steps: int) -> Tensor:
    """Return the times from 1 to 0 of every row, [num_steps + 1, B]."""
    return e.new_tensor([1 - k / num_steps for k in range(num_steps + 1)])[:, None].repeat(1, len(e))
