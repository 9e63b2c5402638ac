"""Whether the gradient of an objective vanishes on the average at the truth of Gaussian data."""

from typing import Any

import torch
from torch import Tensor

from dynamics.flow.condition import ClassLabels
from dynamics.flow.path import expand
from dynamics.flow.progress import Progress
from dynamics.flow.rows import draw_rows
from dynamics.flow.times import UniformPair
from dynamics.models import Network
from dynamics.objectives import Objective
from dynamics.oracles import GaussianOracle

STD = 0.7


def z_scores(objective: Objective, shift: float, num_batches: int = 64, num_rows: int = 256) -> float:
    """Return how many standard errors the expected gradient is away from zero, at most, over all parameters.

    The network is the exact u of N(0, STD^2) plus five parameters times features of (z, t, r). With `shift` its
    teachers stay exact and the first parameter, that of z, has this value.
    """
    oracle, labels = GaussianOracle(STD), ClassLabels(1)
    theta = torch.tensor([shift, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)

    def u(z: Tensor, t: Tensor, r: Tensor, c: Any) -> Tensor:
        t_, r_ = expand(t, z), expand(r, z)
        features = torch.stack([z, t_ * z, r_ * z, (t_ - r_) * z, torch.ones_like(z)])
        return oracle.u(z, t, r) + torch.tensordot(theta, features, 1)

    net, law, found = Network(u, {"ema": oracle.u}), UniformPair(), []
    for index in range(num_batches):
        stream = torch.Generator().manual_seed(index)
        x, c = STD * torch.randn(num_rows, 1, 2, 2, generator=stream), torch.zeros(num_rows, dtype=torch.long)
        rows = draw_rows(
            x, c, labels, equal_law=law, gap_law=law, num_gap=num_rows // 2, seed=index, tag="fixed point"
        ).to(torch.device("cpu"), torch.float64)
        terms = objective.loss(net, objective.prepare(rows, index, 0), Progress(5, 10))
        (gradient,) = torch.autograd.grad((terms.adaptive * terms.raw).mean(), theta)
        found.append(gradient)
    gradients = torch.stack(found)
    standard_error = gradients.std(0) / num_batches**0.5 + 1e-12  # rounding is no evidence
    return float((gradients.mean(0).abs() / standard_error).max())
