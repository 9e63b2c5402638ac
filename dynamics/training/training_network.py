"""The network while it trains: under autocast, compiled, on several ranks, with averages as teachers."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from dynamics.flow.condition import each
from dynamics.flow.path import Velocity
from dynamics.models import Network, bound, directional_derivative
from dynamics.models.attention import check_dual_attention, prove_dual_attention
from dynamics.models.recompute import recomputing
from dynamics.training.distributed import whole, world
from dynamics.training.optimisation import TrainingOptions
from dynamics.training.state import TrainState, Weights


class TrainingNetwork(Network):
    """The network of a running state; it follows the state's weights and averages as these change.

    The gradient pass and passes without gradient run under autocast if asked, the derivative in float32. With several
    ranks each call is a meeting where weights are split (FSDP2); gradients are exchanged in the backward pass.

    Args:
        state: As it trains, whole or split.
        options: How.

    Raises:
        ValueError: The attention that the derivative should take does not work here, or works wrongly.
    """

    def __init__(self, state: TrainState, options: TrainingOptions) -> None:
        model = state.model
        self._state, self._device = state, next(model.parameters()).device
        attention = options.derivative_attention
        check_dual_attention(attention, int(getattr(model, "num_tokens", 0)), self._device)
        prove_dual_attention(attention, self._device)
        compiled: torch.nn.Module = torch.compile(model) if options.compile else model  # type: ignore[assignment]
        super().__init__(compiled, attention=attention)
        self._mixed, self._recompute = options.precision == "bfloat16", options.recompute == "blocks"
        self._compiled = torch.compile(directional_derivative) if options.compile else None
        parallel = options.parallel if world().size > 1 else None
        self._ddp = DistributedDataParallel(compiled, forward_sync_buffers=False) if parallel == "ddp" else None
        # the parts themselves, before any pass puts whole weights in their place
        self._parts: Weights | None = dict(model.named_parameters()) if parallel == "fsdp" else None

    def alone(self) -> AbstractContextManager[None]:
        """Return the context of passes whose gradients stay on this rank: more of the same step follow."""
        return nullcontext() if self._ddp is None else self._ddp.no_sync()

    def back_to_parts(self) -> None:
        """Put split weights back in place, where a pass that nobody went back through has left whole ones."""
        if self._parts is not None:
            self._state.model.reshard()  # type: ignore[operator]

    def _alone(self, z: Tensor) -> bool:
        return len(z) == 0 and self._parts is None

    def _forward(self, z: Tensor, t: Tensor, r: Tensor, c: Any) -> Tensor:
        with self._autocast(), recomputing(self._recompute):
            return (self._ddp or self._u)(z, t, r, c)

    def _of(self, weights: str) -> Velocity:
        if weights == "model":
            chosen = self._u
        else:
            average = self._state.average(weights)
            chosen = bound(self._state.model, average) if self._parts is None else self._gathered(average)

        def u(z: Tensor, t: Tensor, r: Tensor, c: Any) -> Tensor:
            with self._autocast():  # past the wrapper, which is about gradients
                return chosen(z, t, r, c)

        return u

    def _derivative(
        self, z: Tensor, t: Tensor, r: Tensor, c: Any, dz: Tensor, dt: Tensor, dr: Tensor, differentiable: bool
    ) -> tuple[Tensor, Tensor]:
        if differentiable:
            return self._differentiable(z, t, r, c, dz, dt, dr)
        with torch.no_grad():
            if self._compiled is None:
                # past the wrapper, which knows nothing of forward-mode passes
                return directional_derivative(self._state.model, z, t, r, c, dz, dt, dr, self._attention)
            # contiguous copies: the compiler cannot take offset slices as inputs of a forward-mode pass
            z, t, r, dz, dt, dr = (a.clone() for a in (z, t, r, dz, dt, dr))
            return self._compiled(self._state.model, z, t, r, each(c, torch.clone), dz, dt, dr)

    def _differentiable(
        self, z: Tensor, t: Tensor, r: Tensor, c: Any, dz: Tensor, dt: Tensor, dr: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take the derivative with gradient, which neither the wrapper nor split weights let through by themselves."""
        u: Velocity = self._state.model if self._parts is None else self._gathered(self._parts, grad=True)
        # the explicit product: a fused kernel has no derivative of its derivative
        value, derivative = directional_derivative(u, z, t, r, c, dz, dt, dr, "math")
        if self._ddp is None:
            return value, derivative
        # the wrapper exchanges gradients after a pass of its own, and then waits for those of all weights, also of
        # weights on which the derivative does not depend: none of the pass's row is used, but it ties all weights in
        nothing = self._ddp(z[:1], t[:1], r[:1], c[:1])[:0]
        return torch.cat([nothing, value]), torch.cat([nothing, derivative])

    def _gathered(self, parts: Weights, grad: bool = False) -> Velocity:
        """Return the velocity of split weights, put together for one pass; every rank must call this.

        With gradient, the parts receive the mean over the ranks, as from an ordinary pass.
        """
        blank = self._state.blank
        assert blank is not None, "a split state has a model without weights"
        if not grad:
            return bound(blank, {name: whole(part) for name, part in parts.items()})
        return bound(blank, {name: _whole_with_gradient(part) for name, part in parts.items()})

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._mixed)


def _whole_with_gradient(part: Tensor) -> Tensor:
    from torch.distributed.tensor import Partial

    full: Callable[..., Tensor] = part.full_tensor  # type: ignore[attr-defined]
    weight, size = full(grad_placements=[Partial()]), world().size
    weight.register_hook(lambda gradient: gradient / size)  # type: ignore[no-untyped-call]
    return weight
