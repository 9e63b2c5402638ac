"""Everything that an objective or an instrument may do with the weights of a velocity u(z, t, r, c)."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from dynamics.flow.condition import each
from dynamics.flow.path import Velocity
from dynamics.models.attention import DualAttention, dual_attention
from dynamics.options import invalid


class Network:
    """A velocity u(z, t, r, c), its value with and without gradient, and its derivative along any direction.

    Every call takes any number of rows, none included: of processes that train one run together all make the same
    sequence of calls, whichever rows each has, so that they meet where weights or gradients are exchanged.

    Args:
        u: The velocity, differentiable.
        averages: Velocities of averaged weights by name, the first of them being "ema": teachers.
        attention: What differentiates attention, by name.

    Example:
        >>> from dynamics.oracles import GaussianOracle
        >>> net, z, t = Network(GaussianOracle(1.0).u), torch.ones(1, 2), torch.full((1,), 0.5)
        >>> net.frozen(z[:0], t[:0], t[:0], None).shape
        torch.Size([0, 2])
    """

    def __init__(
        self, u: Velocity, averages: Mapping[str, Velocity] | None = None, attention: DualAttention = "math"
    ) -> None:
        self._u, self._averages, self._attention = u, dict(averages or {}), attention

    def __call__(self, z: Tensor, t: Tensor, r: Tensor, c: Any) -> Tensor:
        """Return u(z, t, r, c), [B, ...], with gradient.

        Args:
            z: [B, ...].
            t: [B] in [0, 1].
            r: [B], r <= t.
            c: Condition of B rows, such as labels [B] long.
        """
        return _at_least_one(self._forward, z, t, r, c)

    def velocity(self, z: Tensor, t: Tensor, c: Any) -> Tensor:
        """Return the instantaneous velocity v = u(z, t, t, c), [B, ...], with gradient."""
        return self(z, t, t, c)

    def frozen(self, z: Tensor, t: Tensor, r: Tensor, c: Any, weights: str = "model") -> Tensor:
        """Return u(z, t, r, c) without gradient.

        Args:
            z: As in a call; so are t, r and c.
            t: [B].
            r: [B].
            c: Condition of B rows.
            weights: "model", "ema" (the first average) or the decay of an average, such as "0.999".
        """
        u = self._of(weights)
        if self._alone(z):
            return torch.zeros_like(z)
        with torch.no_grad():
            return _at_least_one(u, z, t, r, c)

    def jvp(
        self,
        z: Tensor,
        t: Tensor,
        r: Tensor,
        c: Any,
        dz: Tensor,
        dt: Tensor | float = 1.0,
        dr: Tensor | float = 0.0,
        differentiable: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return u and its derivative dz . grad_z u + dt d_t u + dr d_r u, by one forward-mode pass.

        With dz = v, dt = 1 and dr = 0 it is the total time derivative du/dt at fixed r (Mean Flows, 2505.13447, eq. 8).

        Args:
            z: As in a call; so are t, r and c.
            t: [B].
            r: [B].
            c: Condition of B rows.
            dz: Direction of z, [B, ...].
            dt: Direction of t, a number or [B].
            dr: Direction of r, a number or [B].
            differentiable: Whether both results carry a gradient, for an objective that goes back through them; not
                where gradients are off.

        Returns:
            Both [B, ...]; computed outside of autocast, in the precision of the weights.
        """
        differentiable = differentiable and torch.is_grad_enabled()
        if self._alone(z) and not differentiable:  # else the results carry gradients of zero
            return torch.zeros_like(z), torch.zeros_like(z)
        point, direction = (z, t, r, c), (dz, _filled(t, dt), _filled(t, dr))
        if len(z):
            return self._derivative(*point, *direction, differentiable)
        point, direction = tuple(map(_one_row, point)), tuple(map(_one_row, direction))
        u, du = self._derivative(*point, *direction, differentiable)
        return u[:0], du[:0]

    def _alone(self, z: Tensor) -> bool:
        """Whether there is nothing to compute, and no other process that waits for it."""
        return len(z) == 0

    def _forward(self, z: Tensor, t: Tensor, r: Tensor, c: Any) -> Tensor:
        return self._u(z, t, r, c)

    def _of(self, weights: str) -> Velocity:
        """Return the velocity of some weights, for passes without gradient."""
        if weights == "model":
            return self._u
        averages = self._averages
        name = next(iter(averages), weights) if weights == "ema" else weights
        if name not in averages:
            allowed = ", ".join(("model", *(("ema", *averages) if averages else ())))
            raise invalid("weights", weights, allowed, "name a recorded average (training.ema_decays)")
        return averages[name]

    def _derivative(
        self, z: Tensor, t: Tensor, r: Tensor, c: Any, dz: Tensor, dt: Tensor, dr: Tensor, differentiable: bool
    ) -> tuple[Tensor, Tensor]:
        # a fused kernel has no derivative of its derivative
        attention = "math" if differentiable else self._attention
        with torch.set_grad_enabled(differentiable):
            return directional_derivative(self._u, z, t, r, c, dz, dt, dr, attention)


def directional_derivative(
    u: Velocity,
    z: Tensor,
    t: Tensor,
    r: Tensor,
    c: Any,
    dz: Tensor,
    dt: Tensor,
    dr: Tensor,
    attention: DualAttention = "math",
) -> tuple[Tensor, Tensor]:
    """Return u and its derivative along (dz, dt, dr), [B, ...] each; see `Network.jvp`.

    `attention` names what differentiates attention; compiled code takes torch's MATH backend in any case.
    """
    # every input gets a tangent, zeros too: where one of two terms lacks one, torch is slow (see `modulate`)
    # the context matters to compiled code only; eager attention chooses by itself
    with sdpa_kernel(SDPBackend.MATH):
        if torch.compiler.is_compiling():  # the compiler knows this form, the other one costs less without it
            out: tuple[Tensor, Tensor] = torch.func.jvp(  # type: ignore[assignment]
                lambda z, t, r: u(z, t, r, c), (z, t, r), (dz, dt, dr)
            )
            return out
        with forward_ad.dual_level(), dual_attention(attention):
            pairs = zip((z, t, r), (dz, dt, dr), strict=True)
            z, t, r = (forward_ad.make_dual(*pair) for pair in pairs)  # type: ignore[no-untyped-call]
            primal, tangent = forward_ad.unpack_dual(u(z, t, r, c))  # type: ignore[no-untyped-call]
    return primal, torch.zeros_like(primal) if tangent is None else tangent


def bound(model: nn.Module, weights: Mapping[str, Tensor]) -> Velocity:
    """Return u(z, t, r, c) of a model with other weights, without copying them into it."""

    def u(z: Tensor, t: Tensor, r: Tensor, c: Any) -> Tensor:
        out: Tensor = functional_call(model, dict(weights), (z, t, r, c))
        return out

    return u


def _filled(t: Tensor, value: Tensor | float) -> Tensor:
    return value if isinstance(value, Tensor) else torch.full_like(t, value)


def _at_least_one(u: Velocity, z: Tensor, t: Tensor, r: Tensor, c: Any) -> Tensor:
    """Call u; where there is no row, on one of zeros, of whose result none is returned."""
    return u(z, t, r, c) if len(z) else u(_one_row(z), _one_row(t), _one_row(r), _one_row(c))[:0]


def _one_row(rows: Any) -> Any:
    return each(rows, lambda a: a.new_zeros(1, *a.shape[1:]))


Derivative = Callable[..., tuple[Tensor, Tensor]]
"""`directional_derivative` of one velocity: (z, t, r, c, dz, dt, dr) -> u, du"""
