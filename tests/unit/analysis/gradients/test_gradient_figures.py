"""The figures of affinities show what was computed, for one measurement as for merged runs."""

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr
from matplotlib import rcParams
from matplotlib.figure import Figure
from synthetic_grams import TASKS, dataset, gradients, row_dataset, times, training_dataset

from dynamics.analysis import affinity, affinity_of_rows, cosine_by_batch, noise_scale, plots, update_cosine

DRAWN: dict[str, Callable[[xr.Dataset], Figure]] = {
    "affinity_heatmap": lambda ds: plots.affinity_heatmap(affinity(ds)),
    "noise_scale_by_gap": lambda ds: plots.noise_scale_by_gap(noise_scale(ds)),
    "cosine_by_batch_size": lambda ds: plots.cosine_by_batch_size(cosine_by_batch(ds, "v", "u 0.1-0.3")),
    "affinity_over_training": lambda ds: plots.affinity_over_training(affinity(ds)),
}


def texts(figure: Figure) -> str:
    found = [figure.get_suptitle()]
    for legend in figure.legends:
        found += [legend.get_title().get_text(), *(text.get_text() for text in legend.get_texts())]
    for ax in figure.axes:
        found += [ax.get_title(), ax.get_xlabel(), ax.get_ylabel(), *(text.get_text() for text in ax.texts)]
        found += [label.get_text() for label in (*ax.get_xticklabels(), *ax.get_yticklabels())]
    return "\n".join(found)


@pytest.fixture
def two() -> xr.Dataset:
    """Two runs; the second ends earlier and shows no signal in its last task."""
    short = training_dataset((0, 50))
    opposite = np.kron([[1.0], [-1.0]], np.ones((3, 12)))
    for step in (0, 1):
        g = gradients(step)
        g[:, 3] = opposite
        short["gram"][step] = dataset(g).gram
    runs = xr.DataArray(["long", "short"], dims="run", name="run")
    return xr.concat([training_dataset(), short], runs, join="outer", data_vars="all", coords="minimal")


@pytest.mark.parametrize("name", DRAWN)
def test_many_runs(name: str, two: xr.Dataset) -> None:
    before = dict(rcParams)
    figure = DRAWN[name](two)
    assert dict(rcParams) == before
    assert figure.get_suptitle().replace("\n", " ").endswith("?")
    shown = texts(figure)
    assert "long" in shown
    assert "short" in shown
    assert "interval" in shown or "standard error" in shown
    if name != "affinity_over_training":
        assert "long, step 200" in shown
        assert "short, step 50" in shown
    figure.savefig("/dev/null", format="png")


@pytest.mark.parametrize("name", DRAWN)
def test_one_measurement(name: str) -> None:
    one = training_dataset((100,)) if name == "affinity_over_training" else dataset(gradients())
    figure = DRAWN[name](one)
    assert figure.axes
    figure.savefig("/dev/null", format="png")


def test_heatmap_shows_each_pair_once_with_its_interval(two: xr.Dataset) -> None:
    aff = affinity(two)
    figure = plots.affinity_heatmap(aff, step=0, group="blocks.0")
    assert "blocks.0" in texts(figure)
    panel = next(ax for ax in figure.axes if ax.get_title() == "long, step 0")
    here = aff.sel(run="long", step=0, group="blocks.0", task="u 0.3-0.5", task2="u 0.1-0.3")
    x, y = TASKS.index("u 0.1-0.3"), TASKS.index("u 0.3-0.5") - 1
    assert panel.get_xticklabels()[x].get_text() == "u 0.1-0.3"
    assert panel.get_yticklabels()[y].get_text() == "u 0.3-0.5"
    texts_at = {text.get_text().replace("−", "-"): text.get_position() for text in panel.texts}
    cell = [text for text, (left, top) in texts_at.items() if left == x and abs(top - y) < 0.5]
    assert cell == [f"{here.cosine:.2f}", f"{here.cosine_low:.2f} … {here.cosine_high:.2f}"]
    assert len([t for t in panel.texts if "…" in t.get_text()]) == 6


def test_heatmap_hatches_what_is_not_significant_and_names_no_signal(two: xr.Dataset) -> None:
    aff = affinity(two)
    figure = plots.affinity_heatmap(aff, run="short")
    (panel,) = (ax for ax in figure.axes if ax.get_title())
    assert sum(t.get_text() == "no\nsignal" for t in panel.texts) == 3
    here = aff.sel(run="short", step=50, group="model").isel(task=slice(3), task2=slice(3))
    hatched = [p for p in panel.patches if p.get_hatch()]
    assert len(hatched) == int((~here.significant).sum()) // 2
    unknown = {name: aff[name].where(aff.task != "u 0.3-0.5") for name in ("cosine", "product")}
    lacking = plots.affinity_heatmap(aff.assign(unknown), run="short")
    assert texts(lacking).count("not\nmeasured") == 2
    none = aff.assign(significant=xr.zeros_like(aff.significant))
    again = plots.affinity_heatmap(none, run="short")
    assert len([p for ax in again.axes for p in ax.patches if p.get_hatch()]) == 3


def test_a_run_without_the_step_is_left_out(two: xr.Dataset) -> None:
    figure = plots.affinity_heatmap(affinity(two), step=200)
    assert [ax.get_title() for ax in figure.axes if ax.get_title()] == ["long, step 200"]


def test_heatmap_of_rows() -> None:
    aff = affinity_of_rows(row_dataset(*times())[0], gap_edges=(0.1, 0.3, 0.45))
    assert "u 0.3-0.45" in texts(plots.affinity_heatmap(aff))


def test_over_training_draws_cosines_and_breaks_without_signal(two: xr.Dataset) -> None:
    aff = affinity(two)
    figure = plots.affinity_over_training(aff, task="u 0.1-0.3")
    panels = {ax.get_title(): ax for ax in figure.axes}
    assert list(panels) == [f"u 0.1-0.3 and {name}" for name in TASKS if name != "u 0.1-0.3"]
    lines = panels["u 0.1-0.3 and v"].lines[1:]  # the first one is 0
    np.testing.assert_array_equal(lines[0].get_xdata(), [0, 100, 200])
    np.testing.assert_array_equal(lines[1].get_xdata(), [0, 50])
    expected = aff.cosine.sel(run="long", task="u 0.1-0.3", task2="v", group="model", step=[0, 100, 200])
    np.testing.assert_allclose(lines[0].get_ydata(), expected)
    np.testing.assert_array_equal(panels["u 0.1-0.3 and u 0.5-0.7"].lines[2].get_ydata(), [np.nan, np.nan])


def test_over_training_of_the_update(two: xr.Dataset) -> None:
    figure = plots.affinity_over_training(update_cosine(two))
    assert [ax.get_title() for ax in figure.axes] == [f"the update and {name}" for name in TASKS]


def test_noise_scale_is_drawn_with_its_interval(two: xr.Dataset) -> None:
    noise = noise_scale(two)
    figure = plots.noise_scale_by_gap(noise)
    (ax,) = figure.axes
    assert ax.get_yscale() == "log"
    np.testing.assert_allclose(ax.lines[0].get_ydata(), noise.noise_scale.sel(run="long", step=200, group="model"))
    ends = np.array([segment[:, 1] for segment in ax.collections[0].get_segments()])
    np.testing.assert_allclose(ends[:, 0], noise.noise_scale_low.sel(run="long", step=200, group="model"))
    np.testing.assert_allclose(ends[:, 1], noise.noise_scale_high.sel(run="long", step=200, group="model"))
    assert [text.get_text() for text in ax.texts] == ["no signal"]


def test_batch_sizes_in_rows(two: xr.Dataset) -> None:
    curve = cosine_by_batch(two, "v", "u 0.1-0.3")
    figure = plots.cosine_by_batch_size(curve)
    lines = figure.axes[0].lines[1:]
    for line, name in zip(lines, ("naive", "independent", "unbiased"), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [32, 64, 128])
        np.testing.assert_array_equal(line.get_ydata(), curve[name].sel(run="long", step=200, group="model"))
    assert "same rows" in texts(figure)


def test_errors_name_what_is_wrong(two: xr.Dataset) -> None:
    aff, one = affinity(two), affinity(dataset(gradients()))
    cases = [
        (lambda: plots.affinity_heatmap(aff, step=7), r"step: received 7; allowed: 0, 50, 100, 200"),
        (lambda: plots.affinity_heatmap(aff, step=200, run="short"), r"step: received 200; allowed: 0, 50;"),
        (lambda: plots.affinity_heatmap(aff, group="head"), r"group: received 'head'; allowed: model, blocks.0"),
        (lambda: plots.affinity_heatmap(aff, run="a"), r"run: received 'a'; allowed: long, short"),
        (lambda: plots.affinity_heatmap(aff.isel(task=[0], task2=[0])), r"tasks: received \['v'\]; allowed: two tasks"),
        (lambda: plots.affinity_over_training(one), r"aff: .*the dimension step"),
        (lambda: plots.affinity_over_training(aff, task="w"), r"task: received 'w'; allowed: v, u 0.1-0.3"),
        (lambda: plots.noise_scale_by_gap(noise_scale(two), step=7), r"step: received 7"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
