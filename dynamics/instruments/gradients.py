"""Gradients of many groups of rows from one pass through the network.

Rows never meet inside the network, so the gradient of a layer's weight over any group of rows is a product of that
group's inputs and output gradients. One forward and one backward pass of all rows give these; the gradient of each
group is then one small product per layer, where a loop over groups would run a whole pass for each. An objective that
asks for some rows now and for others later leaves no trace of whose they are: there the loop remains.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor, nn

from dynamics.options import invalid
from dynamics.rng import generator

MAX_ELEMENTS = 1 << 22
"""Gradients of several groups are formed together up to so many numbers: small layers in one product, large ones
group by group, so that no more than one large gradient is in memory at a time."""

Take = Callable[[str, Tensor, Tensor, bool], None]
"""(layer name, its input [B, tokens, in], gradient of its output [B, tokens, out], whether its bias is in that output)"""


@contextmanager
def tapped(model: nn.Module, take: Take) -> Iterator[list[int]]:
    """Hand the input and the output gradient of every layer with weights to `take` during backward passes.

    Passes without gradient, such as those of the derivative du/dt, are not tapped. Of a derivative that is gone back
    through, both parts are: the tangent of a layer's output is its weight times the tangent of its input. An embedding
    counts as a linear layer on one-hot rows.

    Yields:
        The number of rows of each pass with gradient, as these are made.

    Raises:
        ValueError: The model has weights outside linear and embedding layers.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Embedding)}
    covered = {f"{name}.{p}" for name, module in layers.items() for p, _ in module.named_parameters(recurse=False)}
    others = sorted({name for name, _ in model.named_parameters()} - covered)
    if others:
        remedy = "express them through models.linear.Linear"
        raise invalid("model", others, "weights of linear and embedding layers only", remedy)
    passes: list[int] = []

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled():
            passes.append(len(inputs[0]))

    def tap(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        def watch(module: nn.Module, given: Tensor, output: Tensor, bias: bool) -> None:
            if not output.requires_grad:  # the first layers: neither images nor weights ask for a gradient
                output.requires_grad_()
            if isinstance(module, nn.Embedding):
                given = F.one_hot(given, module.num_embeddings).to(output.dtype)
            # [B, in] and [B, tokens, in] alike
            output.register_hook(  # type: ignore[no-untyped-call]
                lambda g: take(name, *(x.reshape(len(x), -1, x.shape[-1]) for x in (given, g)), bias)
            )

        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if not torch.is_grad_enabled():
                return None
            given, out = (forward_ad.unpack_dual(x) for x in (inputs[0], output))  # type: ignore[no-untyped-call]
            if given.tangent is None or out.tangent is None:
                watch(module, given.primal.detach(), output, bias=True)
                return None
            watch(module, given.primal.detach(), out.primal, bias=True)
            watch(module, given.tangent.detach(), out.tangent, bias=False)
            dual: Tensor = forward_ad.make_dual(out.primal, out.tangent)  # type: ignore[no-untyped-call]
            return dual

        return hook

    handles = [module.register_forward_hook(tap(name)) for name, module in layers.items()]
    handles.append(model.register_forward_pre_hook(note))
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


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


def add_layer(
    into: Gradients, module: nn.Module, name: str, groups: slice, inputs: Tensor, outputs: Tensor, bias: bool = True
) -> None:
    """Form a layer's gradients of consecutive groups with equally many rows each and add them.

    Args:
        into: What collects them.
        module: The layer.
        name: Its name in the model.
        groups: Which groups the rows are, in order.
        inputs: [B, tokens, in] of all their rows.
        outputs: Gradient of the layer's output, [B, tokens, out].
        bias: Whether the layer's bias is part of that output.
    """
    count = groups.stop - groups.start
    a, d = (x.reshape(count, -1, x.shape[-1]) for x in (inputs, outputs))
    if bias and isinstance(module, nn.Linear) and module.bias is not None:
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
