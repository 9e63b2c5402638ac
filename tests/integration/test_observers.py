"""Measuring never changes training, and what is measured is right."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dynamics.config import RunConfig
from dynamics.flow.progress import Progress
from dynamics.instruments import GapsOptions
from dynamics.models import Network
from dynamics.record import QUANTITIES
from dynamics.store import read_run


def test_observers_on_and_off_are_bitwise_equal(tiny: RunConfig, twin: Callable[[RunConfig], Path]) -> None:
    with_observers, without = twin(tiny), twin(tiny.model_copy(update={"observers": ()}))
    for name in ("model.safetensors", "ema_0.9.safetensors", "ema_0.99.safetensors"):
        paths = [folder / "checkpoints" / "step_00000024" / name for folder in (with_observers, without)]
        assert paths[0].read_bytes() == paths[1].read_bytes()
    states = [
        json.loads((folder / "checkpoints" / "step_00000024" / "state.json").read_text())
        for folder in (with_observers, without)
    ]
    for name in ("step", "curricula", "cells"):
        assert states[0][name] == states[1][name]
    last = read_run(with_observers / "run.nc")["cells"].isel(step=-1)
    np.testing.assert_array_equal([last[name] for name in QUANTITIES], states[1]["cells"])
    a, b = (read_run(folder / "run.nc")["training"].to_dataset() for folder in (with_observers, without))
    for name in a.data_vars:
        if name != "step_seconds":
            np.testing.assert_array_equal(a[name], b[name])


def test_measurements_are_at_the_asked_steps(tiny: RunConfig, twin: Callable[[RunConfig], Path]) -> None:
    tree = read_run(twin(tiny) / "run.nc")
    for name in ("gaps", "cells"):
        assert tree[name].step.values.tolist() == [0, 7, 14, 21, 24]
    rows = tree["cells"]["count"].sum(["t_bin", "gap_bin"])
    assert rows.values.tolist() == [16 * step for step in (0, 7, 14, 21, 24)]
    assert all(not tree["cells"][name].isel(step=0).any() for name in QUANTITIES)


def test_the_oracle_itself_has_no_error_and_zero_has_all_of_it(tiny: RunConfig) -> None:
    """The exact field measured as if it were a network: error 0; its loss is what cannot be learned."""
    recipe = tiny.recipe()
    data, probe = recipe.data, GapsOptions(rows_per_bin=4).observer(recipe)
    exact = probe.exact

    def zero(z: torch.Tensor, t: torch.Tensor, r: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return 0 * z + 0 * (t - r).reshape(-1, 1, 1, 1)

    nothing = probe.errors(Network(zero), Progress(0, 1))
    np.testing.assert_allclose(nothing.u_error, nothing.u_scale)
    np.testing.assert_allclose(nothing.v_error, nothing.v_scale)
    rows = probe.rows
    z, v = rows.path()
    n = rows.num_equal
    by_hand = data.oracle().v(z[:n], rows.t[:n], rows.c[:n])  # guidance with w = 1 adds nothing random to the target
    irreducible = (v[:n] - by_hand).double().flatten(1).square().sum(1).reshape(-1, 4).mean(1)
    np.testing.assert_allclose(nothing.v_irreducible, irreducible, rtol=1e-5)
    assert exact.shape == rows.x.shape
    gap = (rows.t - rows.r)[n:-4].reshape(-1, 4)
    low, high = torch.tensor(nothing.gap_bin_low.values), torch.tensor(nothing.gap_bin_high.values)
    assert bool(((low - 1e-6 <= gap.T) & (high + 1e-6 >= gap.T)).all())
