"""Networks for u(z, t, r, c): backbones, and what may be done with their weights."""

from dynamics.models.dit import DiT, DiTOptions
from dynamics.models.mlp import MLP, MLPOptions
from dynamics.models.model import ModelOptions, build
from dynamics.models.network import Network, bound, directional_derivative
from dynamics.options import import_all

import_all(__name__, __path__)

__all__ = [
    "MLP",
    "DiT",
    "DiTOptions",
    "MLPOptions",
    "ModelOptions",
    "Network",
    "bound",
    "build",
    "directional_derivative",
]
