"""MeanFlow with a corrupted target of v, to see how much u depends on it (2511.19065, observation 1)."""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from dynamics.flow.path import expand
from dynamics.flow.rows import Rows
from dynamics.objectives.meanflow import MeanFlow
from dynamics.objectives.objective import Objective
from dynamics.objectives.terms import row_norm
from dynamics.rng import generator


@dataclass(frozen=True)
class CorruptedRows(Rows):
    """Rows with the noise of their targets."""

    v_noise: Tensor
    """What is added to the target of the r = t rows, [B, C, H, W]."""


class CorruptedMeanFlow(MeanFlow):
    """The target of r = t rows becomes v + noise; r < t rows are left alone.

    The paper says Gaussian noise of scale k ||v||; how it enters is unknown, so that each reading has a name.
    Instruments measure the loss without the noise.
    """

    kind: Literal["corrupted_meanflow"] = "corrupted_meanflow"  # type: ignore[assignment]
    level: float = Field(default=0.1, ge=0)
    """The paper's k."""
    scale: Literal["norm", "element", "literal"] = "norm"
    """k ||v|| n / sqrt(d), k |v_i| n_i, or k ||v|| n (sqrt(d) times larger), with n standard normal in d pixels."""
    noise: Literal["fresh", "image", "run"] = "fresh"
    """n anew for every row of every step, the same whenever an image comes back, or one n for the whole run.

    Fresh noise leaves the expected target as it is. Noise of an image does not, as far as z_t tells the image; noise
    of the run shifts every target alike.
    """

    def prepare(self, rows: Rows, seed: int, step: int) -> Rows:
        rows = super().prepare(rows, seed, step)
        v, shape = rows.e - rows.x, rows.x.shape[1:]
        if self.noise == "fresh":
            n = torch.randn(v.shape, generator=generator(seed, "corruption", step))
        elif self.noise == "run":
            n = torch.randn(shape, generator=generator(seed, "corruption")).expand_as(v)
        else:
            n = torch.stack([torch.randn(shape, generator=_of_image(seed, x)) for x in rows.x])
        norm = expand(row_norm(v), v)
        scale = {"norm": norm / shape.numel() ** 0.5, "element": v.abs(), "literal": norm}[self.scale]
        return CorruptedRows(**vars(rows), v_noise=self.level * scale * n)

    def measured(self, guidance: Literal["run", "off"]) -> Objective:
        return MeanFlow(adaptive=self.adaptive, guidance=self.guidance).measured(guidance)

    def _velocity_target(self, v: Tensor, rows: Rows) -> Tensor:
        return v + rows.v_noise[: len(v)] if isinstance(rows, CorruptedRows) else v


def _of_image(seed: int, x: Tensor) -> torch.Generator:
    return generator(seed, "corruption", x.numpy().tobytes().hex())
