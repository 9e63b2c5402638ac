"""Velocities on a grid of the plane, beside the exact ones: for pictures of what a network has learned."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from dynamics.data import DataSource
from dynamics.flow.condition import each
from dynamics.flow.path import Velocity

TIMES = ((0.9, 0.9), (0.5, 0.5), (0.1, 0.1), (1.0, 0.0), (0.5, 0.0))
"""(t, r) of the fields: v where they are equal, u where they are not."""
EXTENT, NUM_SIDE = 2.5, 17
"""Half side of the grid, and its points along a side."""


@torch.no_grad()
def vector_field(u: Velocity, data: DataSource, device: torch.device) -> xr.Dataset:
    """Return a network's velocities on a grid, without a label where there are several classes.

    Args:
        u: The network.
        data: Points of shape (2, 1, 1).
        device: Where the network computes.

    Returns:
        `velocity` and, where it is known, `velocity_exact` [times, vertical, horizontal, axis] at the times t and r;
        `density` [times, vertical, horizontal] of z_t, from the data's reference points.
    """
    z, t, r = _grid(data)
    c = data.condition.example(len(z))
    c = c if data.num_classes == 1 else data.condition.null(c)
    z, t, r, c = (each(column, lambda part: part.to(device)) for column in (z, t, r, c))
    found = {"velocity": u(z, t, r, c).float().cpu()}
    if (exact := _exact(data)) is not None:
        found["velocity_exact"] = exact
    texts = {"velocity": "velocity of the network", "velocity_exact": "exact velocity"}
    dims, side = ("times", "vertical", "horizontal", "axis"), np.linspace(-EXTENT, EXTENT, NUM_SIDE)
    shape = (len(TIMES), NUM_SIDE, NUM_SIDE, 2)
    variables: dict[str, Any] = {
        name: (dims, values.view(shape).numpy(), {"units": "1", "long_name": texts[name]})
        for name, values in found.items()
    }
    text = "density of z_t"
    variables["density"] = (dims[:3], _density(data).view(shape[:3]).numpy(), {"units": "1", "long_name": text})
    coords = {
        "t": ("times", [t for t, _ in TIMES], {"units": "1", "long_name": "time t"}),
        "r": ("times", [r for _, r in TIMES], {"units": "1", "long_name": "time r"}),
        "horizontal": ("horizontal", side, {"units": "1", "long_name": "first coordinate of z_t"}),
        "vertical": ("vertical", side, {"units": "1", "long_name": "second coordinate of z_t"}),
    }
    return xr.Dataset(variables, coords=coords)


def _grid(data: DataSource) -> tuple[Tensor, Tensor, Tensor]:
    """Return z [B, 2, 1, 1], t and r of all rows, B = times x vertical x horizontal."""
    side = torch.linspace(-EXTENT, EXTENT, NUM_SIDE)
    vertical, horizontal = torch.meshgrid(side, side, indexing="ij")
    points = torch.stack([horizontal, vertical], 2).reshape(-1, *data.shape)
    t, r = torch.tensor(TIMES).repeat_interleave(len(points), 0).unbind(1)
    return points.repeat(len(TIMES), 1, 1, 1), t.contiguous(), r.contiguous()


@lru_cache(maxsize=4)
def _exact(data: DataSource) -> Tensor | None:
    """Solve for the exact field; runs of one study ask for the same one."""
    oracle = data.oracle()
    return None if oracle is None else oracle.u(*_grid(data)).float()


@lru_cache(maxsize=4)
def _density(data: DataSource) -> Tensor:
    """Return the density of z_t where z_t = (1 - t) x + t e comes from the reference points, [B]."""
    z, t, _ = _grid(data)
    points = data.reference()[0].flatten(1)
    parts = []
    for some, times in zip(torch.split(z.flatten(1), NUM_SIDE**2), torch.split(t, NUM_SIDE**2), strict=True):
        time = times[0]
        squared = torch.cdist(some, (1 - time) * points) ** 2
        parts.append((-squared / (2 * time**2)).exp().mean(1) / (2 * torch.pi * time**2))
    return torch.cat(parts)
