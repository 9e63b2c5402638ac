"""Synthetic runs with known numbers: no training."""

import numpy as np
import xarray as xr

EDGES = np.array([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
STEPS = np.array([0, 50, 100])

Numbers = dict[str, float]


def variable(dims: tuple[str, ...], values: object, units: str = "1") -> xr.Variable:
    return xr.Variable(dims, np.asarray(values), {"units": units, "long_name": "x"})


def bins() -> dict[str, tuple[str, np.ndarray]]:
    out = {}
    for dim in ("t_bin", "gap_bin"):
        out[dim] = (dim, (EDGES[1:] + EDGES[:-1]) / 2)
        out[f"{dim}_low"], out[f"{dim}_high"] = (dim, EDGES[:-1]), (dim, EDGES[1:])
    return out


def exact(
    v: float, u: float, one_step: float, lead: tuple[str, ...] = (), fall: object = 1.0
) -> dict[str, xr.Variable]:
    """Errors relative to a scale of 100; v is twice as large in the bins below t = 0.3."""
    fall = np.asarray(fall, float)
    shapes = {
        "v": (("t_bin",), 100 * v * np.where(EDGES[:-1] < 0.3, 2.0, 1.0)),
        "u": (("gap_bin",), 100 * u * np.ones(6)),
        "one_step": ((), np.array(100 * one_step)),
    }
    out = {}
    for name, (dims, values) in shapes.items():
        full = np.multiply.outer(fall, values) if lead else values
        for suffix, array in (
            ("error", full),
            ("error_sem", 0.1 * full),
            ("scale", np.full_like(full, 100.0)),
            ("scale_sem", np.zeros_like(full)),
            ("covariance", np.zeros_like(full)),
        ):
            out[f"{name}_{suffix}"] = variable((*lead, *dims), array, "squared pixel")
    return out


def training(steps: int = 100, share: float = 0.25, **series: np.ndarray) -> xr.Dataset:
    names = ("loss", "raw_v", "raw_u", "weighted_v", "weighted_u", "du_dt_norm", "grad_norm", "step_seconds")
    variables = {name: variable(("step",), np.linspace(100, 20, steps)) for name in names}
    variables["total_v_weight"] = variable(("step",), np.full(steps, 1 - share))
    variables["total_u_weight"] = variable(("step",), np.full(steps, share))
    variables["gap_count"] = variable(("step", "gap_bin"), np.tile(np.arange(10, 0, -1), (steps, 1)), "rows")
    variables |= {name: variable(("step",), values) for name, values in series.items()}
    return xr.Dataset(variables, {"step": np.arange(steps) + 1, "gap_bin": (np.arange(10) + 0.5) / 10})


def cells(steps: int = 100) -> xr.Dataset:
    """Sums of 64 rows a cell and step, none of gaps from 0.9; the raw loss of a row is 10 (1 + t bin + gap bin)."""
    rows = 64 * np.ones((6, 7)) * (np.arange(7) < 6)
    loss = 10.0 * (1 + np.arange(6)[:, None] + np.arange(7))
    each = {"count": rows, "raw": rows * loss, "weighted": rows, "target_norm": 3 * rows, "du_dt_norm": 2 * rows}
    step = np.array([0, *range(10, steps, 10), steps])
    lows, highs = np.array([0.0, *EDGES[:-1]]), np.array([0.0, *EDGES[1:]])
    gaps = {"gap_bin": (lows + highs) / 2, "gap_bin_low": ("gap_bin", lows), "gap_bin_high": ("gap_bin", highs)}
    dims, units = ("step", "t_bin", "gap_bin"), {"raw": "squared pixel"}
    variables = {n: variable(dims, np.multiply.outer(step, v), units.get(n, "1")) for n, v in each.items()}
    return xr.Dataset(variables, {"step": step, **bins(), **gaps})


def evaluation(n: Numbers, **attrs: object) -> xr.Dataset:
    """u at 1 and 2 evaluations, v at 2 alone."""

    def table(value: float) -> np.ndarray:
        return np.array([[value, value / 2], [np.nan, value / 4]])

    dims = ("field", "nfe")
    variables = {
        "fd_digits": variable(dims, table(n["fd"])),
        "kd_digits": variable(dims, table(n["kd"])),
        "kd_digits_sem": variable(dims, table(0.1)),
        "accuracy": variable(dims, np.array([[n["accuracy"]] * 2, [np.nan, n["accuracy"]]])),
        "precision": variable(dims, table(0.8)),
        "recall": variable(dims, table(0.6)),
    }
    pictures = np.random.default_rng(0).integers(0, 255, (2, 2, 10, 4, 1, 8, 8), dtype=np.uint8)
    pictures[1, 0] = 0  # v at NFE 1 was not sampled, see accuracy
    variables["samples"] = variable((*dims, "class", "row", "channel", "height", "width"), pictures)
    variables |= exact(n["v"], n["u"], n["one_step"])
    protocol = {
        "num_samples": 1000,
        "num_reference": 1797,
        "label_mode": "uniform",
        "method": "euler",
        "evaluation_seed": 0,
        "extractor": "digits",
        "extractor_sha256": "e" * 64,
        "data": "digits",
        "data_sha256": "d" * 64,
        "checkpoint": 100,
        "weights": "ema",
        "exact_rows_per_bin": 16,
    }
    coords = {"field": ["u", "v"], "nfe": [1, 2], **bins()}
    return xr.Dataset(variables, coords, {**protocol, **attrs})


def fid(value: float, **attrs: object) -> xr.Dataset:
    """Of u at 1 and 2 evaluations; the second half as large."""

    def table(first: float) -> xr.Variable:
        return variable(("field", "nfe"), [[first, first / 2]])

    names = ("is_inception", "is_inception_std", "kd_inception", "kd_inception_sem", "precision_inception")
    variables = {"fid_inception": table(value), **{name: table(0.5) for name in names}}
    pictures = np.random.default_rng(0).integers(1, 255, (1, 2, 10, 3, 3, 8, 8), dtype=np.uint8)
    dims = ("field", "nfe", "class", "row", "channel", "height", "width")
    protocol = {
        "num_samples": 50000,
        "num_reference": 10000,
        "label_mode": "uniform",
        "method": "euler",
        "evaluation_seed": 0,
        "data": "latents",
        "data_sha256": "d" * 64,
        "weights": "ema",
        "inception": "inception-2015-12-05",
        "inception_sha256": "6" * 64,
        "reference": "VIRTUAL.npz",
        "reference_sha256": "a" * 64,
        "decoder": f"sd-vae {'b' * 64}",
        "checkpoint": 100,
    }
    variables["samples"] = variable(dims, pictures)
    return xr.Dataset(variables, {"field": ["u"], "nfe": [1, 2]}, {**protocol, **attrs})


BASE = {"fd": 4.0, "kd": 2.0, "accuracy": 0.5, "v": 0.1, "u": 0.2, "one_step": 0.3}
OTHER = {"fd": 2.0, "kd": 1.95, "accuracy": 0.9, "v": 0.104, "u": 0.3, "one_step": 0.15}
