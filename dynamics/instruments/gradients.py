"""Gradients of many groups of rows from one pass through the network.

Rows never meet inside the network, so the gradient of a layer's weight over any group of rows is a product of that
group's inputs and output gradients. One forward and one backward pass of all rows give these; the gradient of each
group is then one small product per layer, where a loop over groups would run a whole pass for each.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor, nn

from dynamics.options import invalid
from dynamics.rng import generator

MAX_ELEMENTS = 1 << 22
"""Gradients of several groups are formed together up to so many numbers: small layers in one product, large ones
group by group, so that no more than one large gradient is in memory at a time."""

Take = Callable[[str, Tensor, Tensor], None]
"""(layer name, its input [B, tokens, in], gradient of its output [B, tokens, out])"""


@contextmanager
def tapped(model: nn.Module, take: Take, num_rows: int) -> Iterator[None]:
    """Hand the input and the output gradient of every layer with weights to `take` during backward passes.

    Passes without gradient, such as those of the derivative du/dt, are not tapped. An embedding counts as a linear
    layer on one-hot rows.

    Args:
        model: A model without `untapped` weights.
        take: What takes them.
        num_rows: Rows of every pass with gradient.

    Raises:
        ValueError: A pass with gradient has another number of rows, or is a derivative.
    """
    layers = _layers(model)

    def tap(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not torch.is_grad_enabled():
                return
            dual = forward_ad.unpack_dual(output).tangent is not None  # type: ignore[no-untyped-call]
            if dual or len(output) != num_rows:
                received = "a derivative with gradient" if dual else f"{len(output)} rows"
                allowed = f"passes with gradient of all {num_rows} rows, as an objective with ONE_PASS makes them"
                raise invalid("pass", received, allowed, "leave ONE_PASS of the objective False")
            if not output.requires_grad:  # the first layers: neither images nor weights ask for a gradient
                output.requires_grad_()
            given = inputs[0].detach()
            if isinstance(module, nn.Embedding):
                given = F.one_hot(given, module.num_embeddings).to(output.dtype)
            # [B, in] and [B, tokens, in] alike
            output.register_hook(  # type: ignore[no-untyped-call]
                lambda g: take(name, given.reshape(len(given), -1, given.shape[-1]), g.reshape(len(g), -1, g.shape[-1]))
            )

        return hook

    handles = [module.register_forward_hook(tap(name)) for name, module in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _layers(model: nn.Module) -> dict[str, nn.Linear | nn.Embedding]:
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Embedding)}


def untapped(model: nn.Module) -> list[str]:
    """Return the names of the weights outside linear and embedding layers, which `tapped` does not reach.

    Also those that several layers share: each would hand over its part under a name of its own.
    """
    layers = _layers(model).items()
    covered = {f"{name}.{p}" for name, module in layers for p, _ in module.named_parameters(recurse=False)}
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    return sorted(every[0] for every in names.values() if len(every) > 1 or every[0] not in covered)


@dataclass
class Gradients:
    """One row of features for each group and tensor, filled while rows pass through the network."""

    num_groups: int
    sketch: "Sketch | None" = None
    """None keeps the gradients themselves."""
    scale: Mapping[str, Tensor] = field(default_factory=dict)
    """Factors of each tensor's gradient (a square root of a preconditioner), by name; absent means 1."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """[num_groups, features] by tensor name."""

    def add(self, name: str, groups: slice, gradient: Tensor) -> None:
        """Add gradients [G, *shape] of a tensor to consecutive groups."""
        if name in self.scale:
            gradient = gradient * self.scale[name]
        width = gradient.shape[-1]
        flat = gradient.flatten(1)
        kept = self.sketch.project(name, flat, width) if self.sketch else flat
        if name not in self.tensors:
            self.tensors[name] = kept.new_zeros(self.num_groups, kept.shape[1])
        self.tensors[name][groups] += kept


def add_layer(into: Gradients, module: nn.Module, name: str, groups: slice, inputs: Tensor, outputs: Tensor) -> None:
    """Form a layer's gradients of consecutive groups with equally many rows each and add them.

    Args:
        into: What collects them.
        module: The layer.
        name: Its name in the model.
        groups: Which groups the rows are, in order.
        inputs: [B, tokens, in] of all their rows.
        outputs: Gradient of the layer's output, [B, tokens, out].
    """
    count = groups.stop - groups.start
    a, d = (x.reshape(count, -1, x.shape[-1]) for x in (inputs, outputs))
    if isinstance(module, nn.Linear) and module.bias is not None:
        into.add(f"{name}.bias", groups, d.sum(1))
    together = max(1, MAX_ELEMENTS // (a.shape[-1] * d.shape[-1]))
    for start in range(0, count, together):
        part = slice(start, min(start + together, count))
        where = slice(groups.start + part.start, groups.start + part.stop)
        # an embedding's table is [rows, dim], a linear weight [out, in]
        pair = (a[part], d[part]) if isinstance(module, nn.Embedding) else (d[part], a[part])
        into.add(f"{name}.weight", where, pair[0].transpose(1, 2) @ pair[1])


@dataclass
class Sketch:
    """A seeded linear map of each tensor's gradient to at most `size` numbers that keeps inner products on average.

    Feature c is the sum of the entries k = c mod width with independent random signs, so the products of one feature
    have the mean of the products of its entries, and different features are independent: the sum over features of
    (a_c b_c)^2 bounds the variance of <a, b>, on average over signs, whatever the gradients are. Tensors of at most
    `size` entries are kept.
    """

    seed: int
    size: int
    _signs: dict[str, Tensor] = field(default_factory=dict)

    def project(self, name: str, flat: Tensor, row: int) -> Tensor:
        """Map [G, numel] to [G, features]; `row` is the tensor's last dimension."""
        numel = flat.shape[1]
        if numel <= self.size:
            return flat
        width = self.size
        while math.gcd(width, row) > 1:  # else a feature would collect whole columns of the weight
            width -= 1
        if name not in self._signs:
            stream = generator(self.seed, "sketch", name)
            bits = torch.randint(0, 2, (-(-numel // width), width), generator=stream, dtype=torch.int8)
            self._signs[name] = (2 * bits - 1).to(flat.device)
        signs = self._signs[name]
        padded = F.pad(flat, (0, signs.numel() - numel)).view(len(flat), *signs.shape)
        return (padded * signs).sum(1)

    @property
    def used(self) -> set[str]:
        """Names of the tensors that were sketched; the others are whole."""
        return set(self._signs)
