"""Means over windows of training from sums since step 0, against loops and known numbers."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from synthetic_runs import BASE, OTHER, cells

from dynamics.analysis import loss_cells, loss_stages, plots
from dynamics.store import collect, open_results


@pytest.fixture
def random() -> tuple[xr.DataTree, dict[str, np.ndarray]]:
    """A run recorded every 10 of 57 steps, and each step's own sums; in cell (0, 0) there is never a row."""
    chance = np.random.default_rng(0)
    each = {name: chance.uniform(1, 2, (57, 6, 7)) for name in ("raw", "weighted", "target_norm", "du_dt_norm")}
    each["count"] = chance.integers(0, 3, (57, 6, 7)).astype(float)
    each["count"][:, 0, 0] = 0
    each["count"][10:20, 2, 3] = 0
    for name in each:
        each[name] = np.where(each["count"] > 0, each[name], 0)
    ds = cells(57)
    for name, values in each.items():
        total = np.concatenate([np.zeros((1, 6, 7)), np.cumsum(values, 0)])
        ds[name] = ds[name].copy(data=total[ds.step.values])
    return xr.DataTree.from_dict({"/cells": ds}), each


@pytest.mark.parametrize(
    ("window", "bounds"),
    [(None, [0, 10, 20, 30, 40, 50, 57]), (10, [0, 10, 20, 30, 40, 50, 57]), (20, [0, 20, 40, 57]), (100, [0, 57])],
)
def test_means_of_windows(
    random: tuple[xr.DataTree, dict[str, np.ndarray]], window: int | None, bounds: list[int]
) -> None:
    tree, each = random
    means = loss_cells(tree, window)
    assert means.step.values.tolist() == bounds[1:]
    assert means.raw.dims == ("run", "step", "t_bin", "gap_bin")
    for k, (low, high) in enumerate(pairwise(bounds)):
        for i in range(6):
            for j in range(7):
                count = sum(each["count"][step, i, j] for step in range(low, high))
                assert float(means["count"][0, k, i, j]) == count
                for name in ("raw", "weighted", "target_norm", "du_dt_norm"):
                    expected = sum(each[name][s, i, j] for s in range(low, high)) / count if count else np.nan
                    if name == "du_dt_norm" and j == 0:
                        expected = np.nan
                    np.testing.assert_allclose(float(means[name][0, k, i, j]), expected, rtol=1e-12)
    assert np.isnan(means.raw[0, :, 0, 0]).all()
    assert means.raw.attrs["units"] == "squared pixel"


@pytest.mark.parametrize("window", [0, -10, 5, 15])
def test_windows_that_do_not_end_at_a_record(window: int, tree: xr.DataTree) -> None:
    message = f"window: received {window}; allowed: a multiple of the 10 steps between records; remedy: .*cells:every"
    with pytest.raises(ValueError, match=message):
        loss_cells(tree, window)


def test_runs_of_other_length(make: Callable[..., Path]) -> None:
    tree = collect([make("base", BASE, steps=60) / "run.nc", make("other", OTHER, steps=95) / "run.nc"])
    means = loss_cells(tree, window=50)
    assert means.step.values.tolist() == [50, 60, 95]
    counts = means["count"][:, :, 0, 0].values
    np.testing.assert_array_equal(counts, [[50 * 64, 10 * 64, np.nan], [50 * 64, np.nan, 45 * 64]])
    assert "seed" in means.coords
    stages = loss_stages(tree)
    assert stages.last_step.values.tolist() == [[20, 40, 60], [30, 70, 95]]
    assert stages.first_step.values.tolist() == [[1, 21, 41], [1, 31, 71]]
    np.testing.assert_array_equal(stages["count"][1, :, 0, 0], np.array([30, 40, 25]) * 64)
    np.testing.assert_allclose(stages.raw[:, :, 2, 5], 80)
    assert np.isnan(stages.raw[..., 6]).all()


def test_stages_of_a_run_with_few_records(make: Callable[..., Path]) -> None:
    tree = collect([make("base", BASE, steps=12) / "run.nc", make("other", OTHER) / "run.nc"])
    stages = loss_stages(tree)
    np.testing.assert_array_equal(stages.last_step, [[10, 12, np.nan], [30, 70, 100]])
    figure = plots.loss_map(tree)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == ["steps 1 to 10", "steps 11 to 12", "steps 1 to 30", "steps 31 to 70", "steps 71 to 100"]


def test_no_stage_at_all(make: Callable[..., Path]) -> None:
    tree = open_results(make("base", BASE))
    with pytest.raises(ValueError, match="stages: received 0; allowed: at least 1"):
        loss_stages(tree, 0)
    cut = xr.DataTree.from_dict({"/cells": tree["cells"].to_dataset().isel(step=[0])})
    with pytest.raises(ValueError, match="two records or more"):
        loss_stages(cut)


@pytest.mark.parametrize("quantity", ["raw", "weighted", "target_norm", "du_dt_norm", "count"])
def test_the_map_shows_the_means(quantity: str, tree: xr.DataTree) -> None:
    figure = plots.loss_map(tree, quantity)
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert len(panels) == 6
    expected = {"raw": 80, "weighted": 1, "target_norm": 3, "du_dt_norm": 2, "count": 30 * 64}[quantity]
    drawn = panels[0].collections[1].get_array()
    assert float(drawn[2, 6]) == pytest.approx(expected)  # t bin 2, gap bin 5, behind the empty column
    numbers = [text.get_text() for text in panels[0].texts]
    assert len(numbers) == (30 if quantity == "du_dt_norm" else 36)
    shown = {"raw": "80", "weighted": "1.0", "target_norm": "3.0", "du_dt_norm": "2.0", "count": "1.9k"}[quantity]
    assert shown in numbers
    assert figure.get_suptitle().endswith("?")
    assert panels[-1].get_xticklabels()[0].get_text() == "v"


def test_means_of_few_rows_get_no_number(make: Callable[..., Path]) -> None:
    tree = open_results(make("base", BASE))
    ds = tree["cells"].to_dataset(inherit=False)
    scarce = xr.DataTree.from_dict({"/cells": ds / 64})  # a row a cell and step: 30, 40 and 30 a stage
    fewer = xr.DataTree.from_dict({"/cells": ds / 65})
    assert len(plots.loss_map(scarce).axes[0].texts) == 36
    assert len(plots.loss_map(fewer).axes[0].texts) == 0
    assert len(plots.loss_map(fewer, "count").axes[0].texts) == 36


def test_nothing_to_draw_is_drawn_as_nothing(make: Callable[..., Path]) -> None:
    """Flow matching has no r < t rows, so that no cell has a du/dt."""
    ds = open_results(make("base", BASE))["cells"].to_dataset(inherit=False)
    only_v = ds.where(ds.gap_bin_high == 0, 0.0)
    figure = plots.loss_map(xr.DataTree.from_dict({"/cells": only_v}), "du_dt_norm")
    assert len(figure.axes[0].texts) == 0
    figure.canvas.draw()


def test_unknown_quantity(tree: xr.DataTree) -> None:
    with pytest.raises(ValueError, match="quantity: received 'loss'; allowed: raw, weighted, target_norm, du_dt_norm"):
        plots.loss_map(tree, "loss")
