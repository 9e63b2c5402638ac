"""A learned log-variance l(t, r) that weighs every row by how large losses of its times are (EDM2; DMF)."""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from dynamics.curricula.plan import Curriculum, Plan, State, record, weigh_by_loss
from dynamics.flow.progress import Progress
from dynamics.record import StepRecord

FREQUENCIES = 64
"""How many sines, and cosines, of each time l is linear in."""


class LearnedVariance(Curriculum):
    """The gradient of a row with raw loss L is that of its loss with a learned l = l(t, r); Adam learns l beside it.

    "variance" is exp(-l) L + l (EDM2, 2312.02696), least at exp(l) = E[L | t, r]: the weight is exp(-l).
    "log" is log(exp(-l) L + eps) + l, the official code of DMF (2510.24474, loss.py): the weight is 1 / (L + eps e^l).

    As "log" equals log(L + eps e^l), no l makes it least: l falls without end, and what remains is 1 / L, the adaptive
    weight of p = 1 without its offset. Leave the objective's own adaptive weight off (p = 0).
    """

    # DIFFERS: the official loss is a mean over C, H, W, and l begins at 0. Of a sum over d pixels that is the same loss
    # with l + log d in place of l, up to a constant; hence `initial`.
    SERIES: ClassVar[Mapping[str, tuple[str, str]]] = {
        "log_variance_v": ("1", "learned l(t, r) at t = r = 1/2"),
        "log_variance_u": ("1", "learned l(t, r) at t = 1, r = 0"),
    }

    kind: Literal["learned_variance"] = "learned_variance"
    form: Literal["variance", "log"] = "variance"
    """Which loss l belongs to."""
    initial: float = 0.0
    """l at the start; the logarithm of the number of pixels C H W is that of a loss that is a mean over them."""
    eps: float = Field(default=0.01, gt=0)
    """Offset inside the logarithm of "log"."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Adam's step size for l; in the official code that of the network."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Adam's decay rates for l."""

    def initial_state(self) -> State:
        weights = torch.zeros(4 * FREQUENCIES + 1, dtype=torch.float64)
        return {"weights": weights, "moments": torch.zeros(2, len(weights), dtype=torch.float64), "steps": 0}

    def log_variance(self, state: State, t: Tensor, r: Tensor) -> Tensor:
        """Return l(t, r), [B], for times t and r [B]."""
        out: Tensor = _features(t, r) @ state["weights"].to(t) + self.initial
        return out

    def apply(self, plan: Plan, progress: Progress, state: State) -> Plan:
        def weight(t: Tensor, r: Tensor, raw: Tensor) -> Tensor:
            level = self.log_variance(state, t, r)
            return (-level).exp() if self.form == "variance" else 1 / (raw + self.eps * level.exp())

        v, u = self.log_variance(state, torch.tensor([0.5, 1.0]), torch.tensor([0.5, 0.0])).tolist()
        return record(weigh_by_loss(plan, weight), log_variance_v=v, log_variance_u=u)

    def observe(self, state: State, record: StepRecord) -> State:
        rows, (first, second), steps = record.rows, self.betas, state["steps"] + 1
        t, r = rows.t, rows.t - rows.gap
        scaled = (-self.log_variance(state, t, r)).exp() * rows.raw
        slope = 1 - scaled if self.form == "variance" else self.eps / (scaled + self.eps)
        gradient = (slope[:, None] * _features(t, r)).mean(0)
        m = first * state["moments"][0] + (1 - first) * gradient
        s = second * state["moments"][1] + (1 - second) * gradient.square()
        step = m / (1 - first**steps) / ((s / (1 - second**steps)).sqrt() + 1e-8)
        return {
            "weights": state["weights"] - self.learning_rate * step,
            "moments": torch.stack([m, s]),
            "steps": steps,
        }


def _features(t: Tensor, r: Tensor) -> Tensor:
    """Return cosines and sines of t, those of r, and 1, [B, 4 FREQUENCIES + 1]."""
    exponents = torch.arange(FREQUENCIES, device=t.device, dtype=t.dtype) / FREQUENCIES
    angles = torch.stack([t, r])[..., None] * torch.exp(-math.log(10_000) * exponents)
    of_t, of_r = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return torch.cat([of_t, of_r, torch.ones_like(t)[:, None]], dim=-1)
