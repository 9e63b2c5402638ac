"""Lookahead with its intervals, and its figure."""

import numpy as np
import pytest
import xarray as xr

from dynamics.analysis import lookahead, plots

TASKS = ["v", "u 0.1-0.5", "u 0.5-0.9"]


def splits_of(steps: int = 2, splits: int = 6, seed: int = 0) -> xr.Dataset:
    random = np.random.default_rng(seed)
    means = np.array([[0.05, 0.02, 0.0], [0.01, 0.04, -0.03], [0.0, 0.0, 0.06]])
    values = means[None, :, :, None] + 0.01 * random.standard_normal((steps, 3, 3, splits))
    biased = np.broadcast_to(np.eye(3), (steps, 3, 3))
    units = {"units": "1", "long_name": "something"}
    content = {
        "lookahead": (("step", "task", "task2", "split"), values, units),
        "biased": (("step", "task", "task2"), biased, units),
    }
    return xr.Dataset(content, {"step": 10 * np.arange(steps), "task": TASKS, "task2": TASKS})


def test_lookahead_is_the_mean_over_splits_with_a_t_interval() -> None:
    ds = splits_of()
    found = lookahead(ds)
    each = ds.lookahead.values
    sem = each.std(-1, ddof=1) / np.sqrt(6)
    np.testing.assert_allclose(found.lookahead, each.mean(-1))
    np.testing.assert_allclose(found.high - found.lookahead, 2.5705818 * sem, rtol=1e-6)  # t(5) at 97.5%
    assert bool(found.significant[0, 0, 0])
    np.testing.assert_array_equal(found.significant, (found.low > 0) | (found.high < 0))


def test_intervals_cover_at_their_rate() -> None:
    means = np.array([[0.05, 0.02, 0.0], [0.01, 0.04, -0.03], [0.0, 0.0, 0.06]])
    found = lookahead(splits_of(steps=500, seed=3))
    inside = (found.low.values <= means) & (means <= found.high.values)
    assert 0.93 < inside.mean() < 0.97


def test_a_run_with_fewer_splits_keeps_its_own() -> None:
    ds = splits_of(steps=1)
    short = ds.copy(deep=True)
    short.lookahead.values[..., 4:] = np.nan
    np.testing.assert_allclose(lookahead(short).lookahead, ds.lookahead.values[..., :4].mean(-1))


def test_a_missing_group_names_the_command() -> None:
    with pytest.raises(ValueError, match="dynamics probe DIR"):
        lookahead(xr.DataTree())
    with pytest.raises(ValueError, match="a group with lookahead"):
        lookahead(xr.Dataset())


def test_the_heatmap_says_what_it_shows() -> None:
    figure = plots.lookahead_heatmap(lookahead(splits_of()), step=0)
    words = {text.get_text() for ax in figure.axes for text in ax.texts}
    assert any("…" in word for word in words)
    assert figure.axes[0].get_title() == "step 0"
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == TASKS
    with pytest.raises(ValueError, match="step: received 7; allowed: 0, 10"):
        plots.lookahead_heatmap(lookahead(splits_of()), step=7)
