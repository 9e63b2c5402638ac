"""SiT, REPA, DiT, the MeanFlow port and AlphaFlow as their code defines them, written anew: tensors by public names."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["sit", "repa", "dit", "meanflow-pytorch", "alphaflow"]
State = dict[str, Tensor]
EMBEDDERS: dict[Kind, tuple[str, ...]] = {
    "meanflow-pytorch": ("t_embedder", "r_embedder"),
    "alphaflow": ("noise_labels_embedder", "noise_labels_next_embedder"),
}
"""Names of the embedders of times where there are two; else there is t_embedder."""


def shapes(
    kind: Kind,
    depth: int = 2,
    dim: int = 16,
    patch: int = 2,
    channels: int = 4,
    side: int = 8,
    classes: int = 10,
    sigma: bool = True,
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint; `sigma` doubles the output of sit and dit (learn_sigma)."""
    out = channels * (2 if sigma and kind in ("sit", "dit") else 1) * patch * patch
    linear = {
        "final_layer.linear": (out, dim),
        "final_layer.adaLN_modulation.1": (2 * dim, dim),
    }
    for name in EMBEDDERS.get(kind, ("t_embedder",)):
        linear |= {f"{name}.mlp.0": (dim, 256), f"{name}.mlp.2": (dim, dim)}
    for i in range(depth):
        linear |= {
            f"blocks.{i}.attn.qkv": (3 * dim, dim),
            f"blocks.{i}.attn.proj": (dim, dim),
            f"blocks.{i}.mlp.fc1": (4 * dim, dim),
            f"blocks.{i}.mlp.fc2": (dim, 4 * dim),
            f"blocks.{i}.adaLN_modulation.1": (6 * dim, dim),
        }
    found: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, (side // patch) ** 2, dim),
        "x_embedder.proj.weight": (dim, channels, patch, patch),
        "x_embedder.proj.bias": (dim,),
        "y_embedder.embedding_table.weight": (classes + 1, dim),
    }
    for name, shape in linear.items():
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return found


def positions(side: int, dim: int) -> Tensor:
    """[1, side^2, dim] float32: for the column, then for the row, sines and then cosines of dim/4 frequencies."""
    table = torch.zeros(side * side, dim)
    for token in range(side * side):
        row, column = divmod(token, side)
        for i in range(dim // 4):
            frequency = 10000 ** (-i / (dim // 4))
            for part, place in enumerate((column, row)):
                table[token, part * dim // 2 + i] = math.sin(place * frequency)
                table[token, part * dim // 2 + dim // 4 + i] = math.cos(place * frequency)
    return table[None]


def checkpoint(kind: Kind, seed: int = 0, dtype: torch.dtype = torch.float64, **sizes: int) -> State:
    """A state dict with random weights everywhere, those included that start at zero."""
    stream = torch.Generator().manual_seed(seed)
    found = shapes(kind, **sizes)
    state = {n: torch.randn(s, generator=stream, dtype=torch.float64).mul(0.3).to(dtype) for n, s in found.items()}
    side = math.isqrt(found["pos_embed"][1])
    return state | {"pos_embed": positions(side, found["pos_embed"][2]).to(dtype)}


def sit(state: State, heads: int, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """SiT's estimate of x - e, at t = 1 for data; the second half of its output channels is dropped."""
    return _network(state, heads, x, embedded(state, "t_embedder", t), y)[:, : x.shape[1]]


def repa(state: State, heads: int, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """REPA's estimate of e - x, at t = 1 for noise."""
    return _network(state, heads, x, embedded(state, "t_embedder", t), y)


def dit(state: State, heads: int, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """DiT's estimate of the noise at t = 0..999, without that of the variance."""
    return sit(state, heads, x, t, y)


def meanflow(state: State, heads: int, z: Tensor, r: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """The port's u(z, r, t, y), in the order of its arguments."""
    c = embedded(state, "t_embedder", t) + embedded(state, "r_embedder", t - r)
    return _network(state, heads, z, c, y)


def alphaflow(state: State, heads: int, x: Tensor, sigma: Tensor, sigma_next: Tensor, y: Tensor) -> Tensor:
    """AlphaFlow's mean velocity between two noise levels, as the wrapper of its network calls it."""
    c = embedded(state, "noise_labels_embedder", sigma)
    return _network(state, heads, x, c + embedded(state, "noise_labels_next_embedder", sigma - sigma_next), y)


def velocity(kind: Kind, state: State, heads: int, z: Tensor, t: Tensor, r: Tensor, y: Tensor) -> Tensor:
    """What the network of a kind says of u(z, t, r, y)."""
    if kind == "sit":
        return -sit(state, heads, z, 1 - t, y)  # its time runs from noise to data, and so does its velocity
    if kind == "meanflow-pytorch":
        return meanflow(state, heads, z, r, t, y)
    return alphaflow(state, heads, z, t, r, y) if kind == "alphaflow" else repa(state, heads, z, t, y)


def projectors(dim: int) -> State:
    """What REPA's training alone uses: an MLP of three layers."""
    widths = {"0": (32, dim), "2": (32, 32), "4": (12, 32)}
    weights = {f"projectors.0.{layer}.weight": torch.ones(shape) for layer, shape in widths.items()}
    return weights | {name.replace("weight", "bias"): weight[:, 0].clone() for name, weight in weights.items()}


def held(state: State) -> State:
    """AlphaFlow's network as its files hold it, beside an autoencoder and statistics of its latents."""
    beside = {
        "autoencoder.model.encoder.conv_in.weight": torch.ones(2, 3, 3, 3),
        "are_ldm_stats_inited": torch.ones(()),
    }
    beside |= {f"autoencoder_{name}": torch.ones(1, 4, 8, 8).double() for name in ("mean", "var")}
    return {f"model.{name}": tensor for name, tensor in state.items()} | beside


def embedded(state: State, name: str, t: Tensor) -> Tensor:
    w = torch.tensor([10000 ** (-i / 128) for i in range(128)], dtype=t.dtype)
    angles = t[:, None] * w[None]
    inner = _linear(state, f"{name}.mlp.0")(torch.cat([angles.cos(), angles.sin()], 1))
    return _linear(state, f"{name}.mlp.2")(_silu(inner))


def _network(state: State, heads: int, x: Tensor, times: Tensor, y: Tensor) -> Tensor:
    w = state["x_embedder.proj.weight"]
    patch = w.shape[-1]
    tokens = torch.nn.functional.conv2d(x, w, state["x_embedder.proj.bias"], stride=patch)
    rows, columns = tokens.shape[2:]
    h = tokens.reshape(*tokens.shape[:2], -1).mT + state["pos_embed"]
    c = _silu(times + state["y_embedder.embedding_table.weight"][y])
    depth = sum(name.endswith("attn.qkv.weight") for name in state)
    for i in range(depth):
        block = _linear(state, f"blocks.{i}.adaLN_modulation.1")(c)[:, None]
        shift, scale, gate, shift2, scale2, gate2 = block.split(h.shape[-1], dim=-1)
        h = h + gate * _attention(state, f"blocks.{i}.attn", heads, _normed(h) * (1 + scale) + shift)
        inner = _linear(state, f"blocks.{i}.mlp.fc1")(_normed(h) * (1 + scale2) + shift2)
        h = h + gate2 * _linear(state, f"blocks.{i}.mlp.fc2")(_gelu(inner))
    shift, scale = _linear(state, "final_layer.adaLN_modulation.1")(c)[:, None].split(h.shape[-1], dim=-1)
    out = _linear(state, "final_layer.linear")(_normed(h) * (1 + scale) + shift)
    channels = out.shape[-1] // patch**2
    image = torch.empty(len(x), channels, rows * patch, columns * patch, dtype=x.dtype)
    for token in range(rows * columns):
        i, j = divmod(token, columns)
        cell = out[:, token].reshape(-1, patch, patch, channels)
        image[:, :, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch] = cell.permute(0, 3, 1, 2)
    return image


def _attention(state: State, name: str, heads: int, h: Tensor) -> Tensor:
    q, k, v = _linear(state, f"{name}.qkv")(h).chunk(3, dim=-1)
    width, parts = h.shape[-1] // heads, []
    for i in range(heads):
        own = slice(i * width, (i + 1) * width)
        weights = torch.softmax(q[..., own] @ k[..., own].mT / math.sqrt(width), dim=-1)
        parts.append(weights @ v[..., own])
    return _linear(state, f"{name}.proj")(torch.cat(parts, -1))


def _linear(state: State, name: str) -> Callable[[Tensor], Tensor]:
    return lambda x: x @ state[f"{name}.weight"].mT + state[f"{name}.bias"]


def _normed(h: Tensor) -> Tensor:
    return (h - h.mean(-1, keepdim=True)) / (h.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()


def _silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
