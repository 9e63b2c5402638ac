"""A linear layer that pays only for the derivative it needs.

Under forward-mode differentiation torch multiplies a materialised zero tangent of the weight: three matrix products
where two suffice. Splitting the dual number by hand removes the third (measured in benchmarks/step_cost.py).
"""

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """`nn.Linear` with a cheap forward-mode derivative; the same parameters and the same values."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # the compiler removes the zero product by itself
            return F.linear(x, self.weight, self.bias)
        primal, tangent = forward_ad.unpack_dual(x)  # type: ignore[no-untyped-call]
        moving_weight = forward_ad.unpack_dual(self.weight).tangent is not None  # type: ignore[no-untyped-call]
        if tangent is None or moving_weight:
            return F.linear(x, self.weight, self.bias)
        out = F.linear(primal, self.weight, self.bias)
        dual: Tensor = forward_ad.make_dual(out, F.linear(tangent, self.weight))  # type: ignore[no-untyped-call]
        return dual
