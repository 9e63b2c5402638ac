"""Guidance that the network is conditioned on: drawn for each row of training, chosen when samples are drawn."""

from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from dynamics.flow.condition import Condition, Joint
from dynamics.flow.rows import Rows
from dynamics.models.embeddings import TimeEmbedding
from dynamics.options import Options, invalid
from dynamics.oracles import GuidedOracle, Oracle, PosteriorOracle
from dynamics.rng import generator


@dataclass(frozen=True)
class AskedGuidance(Joint):
    """A condition of the data, and the guidance that each of its rows asks for."""

    of_data: Tensor
    """Such as labels [B]."""
    scale: Tensor
    """Guidance scale w [B]."""
    t_min: Tensor
    """Guidance acts for t >= t_min [B]."""
    t_max: Tensor
    """Guidance acts for t <= t_max [B]."""

    def inside(self, t: Tensor) -> Tensor:
        """Return whether guidance acts at times t [B]."""
        return (t >= self.t_min) & (t <= self.t_max)


def same_guidance(c: Tensor, scale: float = 1.0, t_min: float = 0.0, t_max: float = 1.0) -> AskedGuidance:
    """Return a condition of the data whose rows all ask for the same guidance; for none, if nothing else is said."""
    return AskedGuidance(c, *(torch.full((len(c),), value, device=c.device) for value in (scale, t_min, t_max)))


@dataclass(frozen=True)
class GuidedCondition(Condition):
    """A condition of the data beside a guidance scale and the interval of t in which it acts."""

    of_data: Condition

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        return self.of_data.num_classes

    def embedding(self, dim: int) -> nn.Module:
        return GuidanceEmbedding(self.of_data, dim)

    def null(self, c: AskedGuidance) -> AskedGuidance:
        one, zero = torch.ones_like(c.scale), torch.zeros_like(c.scale)
        return AskedGuidance(self.of_data.null(c.of_data), one, zero, one)

    def example(self, num_rows: int) -> AskedGuidance:
        return same_guidance(self.of_data.example(num_rows))

    def draw(self, num_rows: int, mode: Literal["uniform", "balanced"], stream: torch.Generator) -> AskedGuidance:
        return same_guidance(self.of_data.draw(num_rows, mode, stream))


class GuidanceEmbedding(nn.Module):
    """emb(c) + emb(1 - 1/w) + emb(t_min) + emb(t_max), [B, dim].

    DIFFERS: the official backbone prepends tokens of each of these to those of the picture.
    """

    def __init__(self, of_data: Condition, dim: int) -> None:
        super().__init__()
        self.of_data = of_data.embedding(dim)
        self.scale, self.t_min, self.t_max = (TimeEmbedding(dim) for _ in range(3))

    def forward(self, c: AskedGuidance) -> Tensor:
        effect = 1 - 1 / c.scale.clamp(min=1e-2)  # finite also for a rank without rows, which asks about one of zeros
        of_guidance: Tensor = self.scale(effect) + self.t_min(c.t_min) + self.t_max(c.t_max)
        out: Tensor = self.of_data(c.of_data) + of_guidance
        return out


class GuidanceLaw(Options):
    """How the guidance of a row of training is drawn, and which one instruments and samplers ask for.

    The scale is log-uniform, the ends of the interval are uniform; r = t rows have guidance at every t (2512.02012).

    DIFFERS: the official code also has densities w^-beta of the scale; its configs have beta = 1, which is this one.
    """

    scale: tuple[float, float] = (1.0, 8.0)
    """Smallest and largest guidance scale."""
    t_min: tuple[float, float] = (0.0, 0.5)
    """Where the interval begins."""
    t_max: tuple[float, float] = (0.5, 1.0)
    """Where the interval ends."""
    asked_scale: float = Field(default=1.0, gt=0)
    """Guidance scale that is asked for when nothing else is said."""
    asked_interval: tuple[float, float] = (0.0, 1.0)
    """Interval of t that is asked for."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        bounds = {"scale": (1.0, float("inf")), "t_min": (0.0, 1.0), "t_max": (self.t_min[1], 1.0)}
        for name, (lowest, highest) in (bounds | {"asked_interval": (0.0, 1.0)}).items():
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest:
                allowed = f"two numbers in order, from {lowest:g} to {highest:g}"
                raise invalid(name, (low, high), allowed, "such as scale 1 8, t_min 0 0.5, t_max 0.5 1")
        return self

    def ask(self, c: Tensor) -> AskedGuidance:
        """Return a condition of the data whose rows ask for `asked_scale` inside `asked_interval`."""
        return same_guidance(c, self.asked_scale, *self.asked_interval)

    def draw(self, rows: Rows, seed: int, step: int) -> AskedGuidance:
        """Return the condition of the rows of a step beside guidance of their own."""
        a = torch.rand(3, len(rows), generator=generator(seed, "asked guidance", step))
        scale, t_min, t_max = (
            low + (high - low) * part for part, (low, high) in zip(a, (self._logs, self.t_min, self.t_max), strict=True)
        )
        t_min[: rows.num_equal], t_max[: rows.num_equal] = 0.0, 1.0
        return AskedGuidance(rows.c, scale.exp(), t_min, t_max)

    @property
    def _logs(self) -> tuple[float, float]:
        low, high = torch.tensor(self.scale, dtype=torch.float64).log().tolist()
        return low, high


class AskedOracle(GuidedOracle):
    """Guided velocities of the data, each row's by the guidance that its condition asks for."""

    def __init__(self, base: Oracle) -> None:
        super().__init__(_OfData(base), lambda t, c: c.scale)

    def interval(self, c: AskedGuidance | None) -> tuple[Tensor | float, Tensor | float]:
        return (0.0, 1.0) if c is None else (c.t_min, c.t_max)


class _OfData:
    """Velocities of the data, whatever guidance is asked for."""

    def __init__(self, base: Oracle) -> None:
        self.base, self.num_steps = base, getattr(base, "num_steps", PosteriorOracle.num_steps)

    def v(self, z: Tensor, t: Tensor, c: AskedGuidance | None = None) -> Tensor:
        return self.base.v(z, t, None if c is None else c.of_data)

    def u(self, z: Tensor, t: Tensor, r: Tensor, c: AskedGuidance | None = None) -> Tensor:
        return self.base.u(z, t, r, None if c is None else c.of_data)
