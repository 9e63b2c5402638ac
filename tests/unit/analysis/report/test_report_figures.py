"""Every figure shows every run, for one run or many, and says what is missing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib import get_backend, rcParams
from matplotlib.figure import Figure
from synthetic_runs import BASE, OTHER

from dynamics.analysis import label_runs, plots
from dynamics.analysis.report.curriculum_figures import gap_share
from dynamics.analysis.report.sample_figures import tile
from dynamics.instruments.gaps import bin_coordinates
from dynamics.store import collect, open_results

GROUPS = {
    "sample_grids": "evaluation",
    "distance_by_nfe": "evaluation",
    "error_by_gap": "gaps",
    "velocity_errors": "gaps",
    "loss_map": "cells",
    "losses": "training",
    "schedule": "training",
}


def texts(figure: Figure) -> list[str]:
    legends = [t.get_text() for sub in (figure, *figure.subfigs) for g in sub.legends for t in g.get_texts()]
    rows = [line for ax in figure.axes for line in ax.get_ylabel().splitlines()]
    return legends + [ax.get_title() for ax in figure.axes] + rows


@pytest.mark.parametrize("name", GROUPS)
def test_many_runs(name: str, tree: xr.DataTree) -> None:
    before = dict(rcParams)
    figure = getattr(plots, name)(label_runs(tree, {"id-base": "first", "id-other": "second"}))
    assert dict(rcParams) == before
    assert {"first", "second"} <= set(texts(figure))
    assert figure.get_suptitle().endswith("?")


@pytest.mark.parametrize("name", GROUPS)
def test_one_run_with_units(name: str, two: list[Path]) -> None:
    figure = getattr(plots, name)(open_results(two[1]))
    assert "id-other" in texts(figure)
    labels = " ".join([ax.get_ylabel() + ax.get_xlabel() for ax in figure.axes] + [figure.get_supylabel()])
    units = {
        "sample_grids": "NFE",
        "distance_by_nfe": "squared digits feature",
        "error_by_gap": "squared error / exact squared norm",
        "velocity_errors": "optimiser step",
        "loss_map": "raw loss in squared pixels",
        "losses": "squared pixels",
        "schedule": "share of r < t rows",
    }
    assert units[name] in labels


@pytest.mark.parametrize(("name", "needed"), GROUPS.items())
def test_missing_group_names_the_command(name: str, needed: str, make: Callable[..., Path]) -> None:
    tree = open_results(make("base", BASE, without=(needed,)))
    command = "dynamics evaluate DIR" if needed == "evaluation" else "dynamics train PRESET --out DIR"
    with pytest.raises(ValueError, match=f"the group {needed}; remedy: .*{command}"):
        getattr(plots, name)(tree)


def test_error_by_gap_draws_the_relative_error(tree: xr.DataTree) -> None:
    figure = plots.error_by_gap(tree)
    panels = [ax for ax in figure.axes if ax.lines]
    assert len(panels) == 6
    np.testing.assert_allclose(panels[3].lines[1].get_ydata(), [0.3, 0.15, 0.075])
    low, high = panels[3].collections[1].get_datalim(panels[3].transData).get_points()[:, 1]
    assert (low, high) == pytest.approx((0.9 * 0.075, 1.1 * 0.3))
    assert panels[0].get_yscale() == "log"


def test_runs_without_a_group_or_of_other_length_are_left_out(make: Callable[..., Path]) -> None:
    folders = [make("base", BASE, without=("evaluation", "gaps"), steps=60), make("other", OTHER)]
    tree = collect([folder / "run.nc" for folder in folders])
    for name in GROUPS:
        getattr(plots, name)(tree)
    raw = [line for line in plots.losses(tree).axes[0].lines if line.get_alpha()]
    assert [len(line.get_xdata()) for line in raw] == [60, 100]


def test_schedule_shows_what_is_special(tree: xr.DataTree) -> None:
    figure = plots.schedule(tree)
    titles = [ax.get_title() for ax in figure.axes]
    assert "share of the weight on u" in titles
    assert any("beta_s" in title for title in titles)
    share = next(ax for ax in figure.axes if ax.get_title() == "share of the weight on u")
    np.testing.assert_allclose(share.lines[0].get_ydata(), 0.25)


def test_gap_share_by_hand() -> None:
    counts = xr.DataArray(np.array([[1, 3], [1, 3], [0, 0]]), {"step": [1, 2, 3]}, ("step", "gap_bin"))
    edges, share = gap_share(counts)
    assert edges.tolist() == [0.5, 1.5, 2.5, 3.5]
    np.testing.assert_array_equal(share, [[0.25, 0.25, np.nan], [0.75, 0.75, np.nan]])


def test_tile_puts_classes_in_columns() -> None:
    samples = np.zeros((2, 3, 3, 4, 4), np.uint8)
    samples[1, 2, 0] = 9
    picture = tile(samples)
    assert picture.shape == (14, 9, 3)
    assert (picture[10:, 5:, 0] == 9).all()
    assert (picture[4, :, :] == 255).all()


def test_save_is_repeatable_and_needs_no_screen(tree: xr.DataTree, tmp_path: Path) -> None:
    backend = get_backend()
    one = [path.read_bytes() for path in plots.save(plots.losses(tree), tmp_path / "a" / "figure.png")]
    two = [path.read_bytes() for path in plots.save(plots.losses(tree), tmp_path / "b" / "figure")]
    assert one == two
    assert one[0].startswith(b"\x89PNG")
    assert b"<svg" in one[1][:1000]
    assert get_backend() == backend
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["figure.png", "figure.svg"]


def test_stacks_reach_what_they_are_made_of() -> None:
    coords = bin_coordinates((0.0, 0.5, 1.0), (0.1, 0.5, 0.9))
    names = {"v": ("irreducible", "excess", "loss"), "u": ("inconsistency", "inherited", "error")}
    dims = {"v": "t_bin", "u": "gap_bin"}
    content = {}
    for part, quantities in names.items():
        for i, quantity in enumerate(quantities):
            content[f"{part}_{quantity}"] = (("step", dims[part]), [[i + 1.0, 2.0 * i + 1]])
            content[f"{part}_{quantity}_sem"] = (("step", dims[part]), [[0.1, 0.1]])
    ds = xr.Dataset(content, {**coords, "step": [5]})
    tree = xr.DataTree.from_dict({"/": xr.Dataset(attrs={"run_id": "a"}), "/decomposition": ds})
    figure = plots.decomposition_stacks(tree)
    for ax, first, second in zip(figure.axes, (1.0, 1.0), (2.0, 2.0), strict=True):
        bars = [patch for patch in ax.patches if patch.get_width() > 0.5]
        assert bars[0].get_height() == first
        assert bars[2].get_height() == second
        assert bars[2].get_y() == first  # on top of the first part
    with pytest.raises(ValueError, match="dynamics probe DIR"):
        plots.decomposition_stacks(xr.DataTree())
