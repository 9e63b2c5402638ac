"""What tests build: networks none of whose layers is zero, rows, recipes and states."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dynamics.models.attention as attention
from dynamics.curricula import Curriculum, Progress
from dynamics.data import DataSource, Digits
from dynamics.flow.condition import ClassLabels, Condition, Joint
from dynamics.flow.path import Shape, Velocity, expand
from dynamics.flow.rows import Rows, draw_rows
from dynamics.flow.times import LogitNormalPair, TimeLaw, TimesOptions
from dynamics.models import DiTOptions, MLPOptions, ModelOptions, Network, build, dit, mlp
from dynamics.models.linear import Linear
from dynamics.objectives import (
    LossTerms,
    MeanFlow,
    Objective,
    squared_error,
)
from dynamics.oracles import Oracle
from dynamics.rng import generator
from dynamics.training import Recipe, TrainingOptions, TrainState, start

CPU = torch.device("cpu")
NOW = Progress(0, 10)
SHAPE: Shape = (2, 4, 4)
LABELS = ClassLabels(3)
LAW = LogitNormalPair()
MODELS: dict[str, ModelOptions] = {
    "dit": DiTOptions(patch_size=2, dim=16, depth=2, heads=2, mlp_ratio=2.0),
    "mlp": MLPOptions(dim=16, depth=2),
}


def network(
    options: ModelOptions | str = "mlp",
    shape: Shape = SHAPE,
    condition: Condition = LABELS,
    dtype: torch.dtype = torch.float64,
    scale: float = 0.15,
) -> nn.Module:
    """Build a network, by options or by name in MODELS, away from its initialisation, where u = 0 and du/dt = 0."""
    model = build(MODELS[options] if isinstance(options, str) else options, shape, condition, seed=1).to(dtype)
    stream = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(scale * torch.randn(p.shape, generator=stream, dtype=torch.float64))
    return model


def batch(
    num_rows: int = 16,
    num_gap: int = 6,
    *,
    shape: Shape = SHAPE,
    condition: Condition = LABELS,
    law: TimeLaw = LAW,
    seed: int = 3,
    tag: str | int = 0,
    dtype: torch.dtype = torch.float64,
) -> Rows:
    """Draw rows of standard normal images."""
    stream = generator(seed, "images of tests")
    x, c = torch.randn(num_rows, *shape, generator=stream), condition.draw(num_rows, "uniform", stream)
    rows = draw_rows(x, c, condition, equal_law=law, gap_law=law, num_gap=num_gap, seed=seed, tag=tag)
    return rows.to(CPU, dtype)


def arguments(num_rows: int = 8, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return z, t, r, labels (the null class among them) and a direction of z; the first row has r = t."""
    stream = torch.Generator().manual_seed(4)
    z, dz = torch.randn(2, num_rows, *SHAPE, generator=stream, dtype=torch.float64).to(dtype)
    r, t = torch.rand(2, num_rows, generator=stream, dtype=torch.float64).sort(0).values.to(dtype)
    r[0] = t[0]
    return z, t, r, torch.randint(LABELS.num_classes + 1, (num_rows,), generator=stream), dz


def recipe(
    objective: Objective = MeanFlow(),  # noqa: B008 - frozen
    *,
    data: DataSource | None = None,
    times: TimesOptions = TimesOptions(),  # noqa: B008
    curricula: tuple[Curriculum, ...] = (),
    seed: int = 0,
    **training: Any,
) -> Recipe:
    """Return a recipe on digits; `training` are options of it."""
    usual = {"num_steps": 10, "batch_size": 16, "learning_rate": 1e-3, "ema_decays": (0.5,), "num_threads": 1}
    options = TrainingOptions.model_validate(usual | training)
    return Recipe(data or Digits().load(), objective, times, curricula, options, seed)


def state_of(recipe: Recipe, options: ModelOptions | str = "mlp", dtype: torch.dtype = torch.float64) -> TrainState:
    """Return the state of a network away from its initialisation, whose optimiser has made two steps."""
    model = network(options, recipe.data.shape, recipe.condition, dtype, scale=0.1)
    state, stream = start(model, recipe.training, recipe.curricula), torch.Generator().manual_seed(1)
    for _ in range(2):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=stream, dtype=dtype)
        state.optimizer.step()
        state.step += 1
    state.optimizer.zero_grad()
    return state


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Return the gradient of a loss by the weights, by name."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def relative(found: Tensor, expected: Tensor) -> float:
    """Return the distance of two tensors over the norm of the second."""
    return float(((found - expected).norm() / expected.norm()).detach())


@contextmanager
def plain_torch() -> Iterator[None]:
    """Replace our linear layer, norm, gelu and attention by the textbook ones."""

    def textbook(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v

    def norm(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()

    with pytest.MonkeyPatch.context() as patch:
        for model in (dit, mlp):
            patch.setattr(model, "standardise", norm)
            patch.setattr(model, "gelu", lambda x: F.gelu(x, approximate="tanh"))
        patch.setattr(Linear, "forward", lambda self, x: F.linear(x, self.weight, self.bias))
        patch.setattr(attention, "attend", textbook)
        yield


@dataclass(frozen=True)
class Asked(Joint):
    """What a row asks for."""

    label: Tensor
    scale: Tensor


@dataclass(frozen=True)
class LabelAndScale(Condition):
    """A label and the number that it is meant with."""

    def embedding(self, dim: int) -> nn.Module:
        return Both(dim)

    def null(self, c: Asked) -> Asked:
        return Asked(LABELS.null(c.label), torch.zeros_like(c.scale))

    def example(self, num_rows: int) -> Asked:
        return Asked(LABELS.example(num_rows), torch.ones(num_rows))

    def draw(self, num_rows: int, mode: Literal["uniform", "balanced"], stream: torch.Generator) -> Asked:
        return Asked(LABELS.draw(num_rows, mode, stream), torch.rand(num_rows, generator=stream))


class Both(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.label, self.scale = LABELS.embedding(dim), Linear(1, dim)

    def forward(self, c: Asked) -> Tensor:
        out: Tensor = self.label(c.label) + self.scale(c.scale[:, None])
        return out


class Pieces(Objective):
    """An objective that asks for some rows at a time, any number of them, and goes back through a derivative.

    r = t rows learn v; r < t rows up to `split` the terminal velocity u - (t - r) d_r u, at a frozen v; later ones u,
    as in MeanFlow.
    """

    kind: Literal["pieces_of_tests"] = "pieces_of_tests"
    split: float = 0.6

    def loss(self, net: Network, rows: Rows, now: Progress) -> LossTerms:
        (z, v), gap = rows.path(), rows.t - rows.r
        is_gap = torch.arange(len(rows)) >= rows.num_equal
        parts = [~is_gap, is_gap & (rows.t <= self.split), is_gap & (rows.t > self.split)]
        equal, early, late = (part.nonzero()[:, 0] for part in parts)
        still = torch.zeros_like(z[early])
        u, slope = net.jvp(*self._at(rows, z, early), dz=still, dt=0.0, dr=1.0, differentiable=True)
        _, du_dt = net.jvp(*self._at(rows, z, late), dz=v[late])
        predictions = [
            net.velocity(z[equal], rows.t[equal], rows.c[equal]),
            u - expand(gap[early], z) * slope,
            net(*self._at(rows, z, late)),
        ]
        ends = net.frozen(z[early], rows.r[early], rows.r[early], rows.c[early])
        targets = [v[equal], ends, v[late] - expand(gap[late], z) * du_dt]
        back = torch.cat([equal, early, late]).argsort()
        prediction, target = torch.cat(predictions)[back], torch.cat(targets)[back]
        raw = squared_error(prediction, target)
        return LossTerms(raw, 1 / (1 + raw.detach()), prediction, target)

    @staticmethod
    def _at(rows: Rows, z: Tensor, where: Tensor) -> tuple[Tensor, Tensor, Tensor, Any]:
        return z[where], rows.t[where], rows.r[where], rows.c[where]

    def truth(self, oracle: Oracle) -> Oracle:
        return oracle

    def measured(self, guidance: Literal["run", "off"]) -> Objective:
        return self


class Counting(Network):
    """A network that notes every call with the number of its rows, and what reaches the weights."""

    def __init__(self, u: Velocity) -> None:
        super().__init__(self._noted)
        self.inside, self.calls = u, list[tuple[str, int]]()
        self.reached: dict[str, list[int]] = {kind: [] for kind in ("gradient", "frozen", "jvp", "jvp with gradient")}
        self._now = "gradient"

    def __call__(self, z: Tensor, t: Tensor, r: Tensor, c: Any) -> Tensor:
        return self._call("gradient", len(z), lambda: super(Counting, self).__call__(z, t, r, c))

    def frozen(self, z: Tensor, t: Tensor, r: Tensor, c: Any, weights: str = "model") -> Tensor:
        return self._call("frozen", len(z), lambda: super(Counting, self).frozen(z, t, r, c, weights))

    def jvp(self, z: Tensor, *rest: Any, **named: Any) -> tuple[Tensor, Tensor]:
        kind = "jvp with gradient" if named.get("differentiable") else "jvp"
        return self._call(kind, len(z), lambda: super(Counting, self).jvp(z, *rest, **named))

    def _call(self, kind: str, num_rows: int, compute: Any) -> Any:
        self.calls.append((kind, num_rows))
        self._now = kind
        return compute()

    def _noted(self, z: Tensor, t: Tensor, r: Tensor, c: Any) -> Tensor:
        self.reached[self._now].append(len(z))
        assert torch.is_grad_enabled() == ("gradient" in self._now), "a pass without gradient keeps no graph"
        return self.inside(z, t, r, c)
