"""Synthetic task gradients with known means, and their Gram as the instruments store it."""

from itertools import permutations

import numpy as np
import xarray as xr

EDGES = (0.1, 0.3, 0.5, 0.7)
TASKS = ["v", "u 0.1-0.3", "u 0.3-0.5", "u 0.5-0.7"]
DIMS = ("group", "task", "split", "task2", "split2")


def gradients(seed: int = 0, splits: int = 6, dim: int = 12, noise: float = 0.7) -> np.ndarray:
    """Gradients [group, task, split, dim]: fixed means, seeded noise."""
    means = np.random.default_rng(99).standard_normal((2, len(TASKS), 1, dim)) + 0.6
    return means + noise * np.random.default_rng(seed).standard_normal((2, len(TASKS), splits, dim))


def dataset(g: np.ndarray, error: float = 0.0, **attrs: object) -> xr.Dataset:
    """The group gram of gradients [group, task, split, dim]."""
    _, tasks, splits, _ = g.shape
    text = {"units": "squared gradient norm", "long_name": "x"}
    content = {
        "gram": (DIMS, np.einsum("giad,gjbd->giajb", g, g), text),
        "product_error": (("group", "task", "task2"), np.full((len(g), tasks, tasks), error), text),
        "loss": (("task", "split"), np.ones((tasks, splits)), {"units": "squared pixel", "long_name": "x"}),
    }
    names = TASKS[:tasks]
    coords = {
        "group": ["model", "blocks.0"],
        "task": names,
        "task2": names,
        "split": np.arange(splits),
        "split2": np.arange(splits),
        "gap_low": ("task", [0.0, *EDGES[:-1]][:tasks]),
        "gap_high": ("task", [0.0, *EDGES[1:]][:tasks]),
    }
    return xr.Dataset(content, coords, {"rows_per_split": 32, "rows": "shared", **attrs})


def training_dataset(steps: tuple[int, ...] = (0, 100, 200), splits: int = 6) -> xr.Dataset:
    """The group of a training run."""
    parts = [dataset(gradients(step, splits)) for step in steps]
    return xr.concat(parts, dim=xr.DataArray(list(steps), dims="step", name="step"), data_vars="all", coords="minimal")


def row_dataset(t: np.ndarray, r: np.ndarray, seed: int = 0, dim: int = 6) -> tuple[xr.Dataset, np.ndarray]:
    """The group gram_rows, and its gradients [row, dim], whose mean turns with the gap."""
    rng = np.random.default_rng(seed)
    g = rng.standard_normal((len(t), dim))
    g[:, 0] += 1.5
    g[:, 1] += 3 * (t - r)
    content = {"gram": (("group", "row", "row2"), (g @ g.T)[None]), "t": ("row", t), "r": ("row", r)}
    return xr.Dataset(content, {"group": ["model"], "row": np.arange(len(t)), "row2": np.arange(len(t))}), g


def unbiased(x: np.ndarray, y: np.ndarray) -> float:
    """Mean product of different splits, gradients [split, dim]."""
    return float(np.mean([x[a] @ y[b] for a, b in permutations(range(len(x)), 2)]))


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return unbiased(x, y) / (unbiased(x, x) * unbiased(y, y)) ** 0.5


def plain(x: np.ndarray, y: np.ndarray) -> float:
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def times(num: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Times (t, r) of rows, the first 15 with r = t, the others with gaps from 0.1 to 0.45."""
    rng = np.random.default_rng(7)
    t, gap = rng.uniform(0.5, 1, num), rng.uniform(0.1, 0.45, num)
    gap[:15] = 0
    return t, t - gap
