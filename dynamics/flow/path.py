"""THE convention: t = 1 is noise, t = 0 is data, and the path between them is a straight line.

Every velocity in this toolkit, network or oracle, is called as `u(z, t, r, c)`, the average velocity from t down to r
under a condition c (see `condition`); `u(z, t, t, c)` is the instantaneous velocity v.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

Shape = tuple[int, int, int]
"""(C, H, W) of one row."""
Velocity = Callable[[Tensor, Tensor, Tensor, Any], Tensor]
"""u(z [B,...], t [B], r [B], c with B rows) -> [B,...]"""


def expand(a: Tensor, like: Tensor) -> Tensor:
    """Reshape per-row values [B] so that they broadcast against `like` [B, ...]."""
    return a.reshape(-1, *([1] * (like.ndim - 1)))


def interpolate(x: Tensor, e: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Place rows on the path: z_t = (1 - t) x + t e, with velocity v = e - x (Mean Flows, 2505.13447, eq. 2).

    Args:
        x: Data [B, ...].
        e: Standard normal noise [B, ...].
        t: Times [B] in [0, 1]; 1 is noise.

    Returns:
        z_t and v, both [B, ...].

    Example:
        >>> import torch
        >>> x, e = torch.zeros(1, 2), torch.ones(1, 2)
        >>> interpolate(x, e, torch.tensor([0.25]))
        (tensor([[0.2500, 0.2500]]), tensor([[1., 1.]]))
    """
    s = expand(t, x)
    return (1 - s) * x + s * e, e - x
