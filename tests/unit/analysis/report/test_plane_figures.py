"""Figures of the plane show every run beside what it should be."""

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver

from dynamics.analysis import plots
from dynamics.analysis.report.sample_figures import distances_of
from dynamics.analysis.run_groups import sampled_settings


def evaluation(num_runs: int = 2, classes: bool = True, known: bool = True) -> xr.DataTree:
    """Runs whose first sample is at (k, nfe), and whose velocities are (t, k) beside exact (t, 0)."""
    runs, nfe, side = [f"run {k}" for k in range(num_runs)], [1, 32], np.linspace(-2, 2, 5)
    points = np.zeros((num_runs, 1, 2, 6, 2), np.float32)
    points[..., 0, 0], points[..., 0, 1] = np.arange(num_runs)[:, None, None], nfe
    times = np.array([0.9, 1.0])
    exact = np.zeros((num_runs, 2, 5, 5, 2), np.float32)
    exact[..., 0] = times[:, None, None]
    found = exact.copy()
    found[..., 1] = np.arange(num_runs)[:, None, None, None] + 1
    density = np.ones((num_runs, 2, 5, 5))
    density[:, 0, 0] = 1e-3
    field = ("run", "times", "vertical", "horizontal", "axis")
    variables = {
        "points": (("run", "field", "nfe", "point", "axis"), points),
        "reference_points": (("run", "reference_point", "axis"), np.full((num_runs, 4, 2), 2, np.float32)),
        "energy_distance": (("run", "field", "nfe"), np.full((num_runs, 1, 2), 0.0123)),
        "velocity": (field, found),
        "density": (field[:-1], density),
    }
    if known:
        variables["velocity_exact"] = (field, exact)
    if classes:
        variables["class_of_point"] = (("run", "point"), np.tile(np.arange(6) % 2, (num_runs, 1)))
        variables["class_of_reference_point"] = (("run", "reference_point"), np.zeros((num_runs, 4)))
    coords = {
        "run": runs,
        "field": ["u"],
        "nfe": nfe,
        "t": ("times", times),
        "r": ("times", [0.9, 0.0]),
        "horizontal": side,
        "vertical": side,
    }
    return xr.DataTree.from_dict({"evaluation": xr.Dataset(variables, coords)})


def panels(figure: Figure) -> list[list[str]]:
    return [[ax.get_title(), ax.get_ylabel(), ax.get_xlabel()] for ax in figure.axes]


def test_samples_are_beside_the_data() -> None:
    figure = plots.points_by_nfe(evaluation())
    assert figure.get_suptitle() == "Do the samples look like the data?"
    assert panels(figure) == [
        ["data", "run 0", ""],
        ["u, NFE 1", "", "energy distance 0.012"],
        ["u, NFE 32", "", "energy distance 0.012"],
        ["", "run 1", ""],
        ["", "", "energy distance 0.012"],
        ["", "", "energy distance 0.012"],
    ]
    assert figure.axes[5].collections[0].get_offsets()[0].tolist() == [1, 32]
    colours = figure.axes[1].collections[0].get_facecolors()
    assert (colours[0] == colours[2]).all()
    assert (colours[0] != colours[1]).any()
    assert len(plots.points_by_nfe(evaluation(), nfe=[32]).axes) == 4
    one_colour = plots.points_by_nfe(evaluation(1, classes=False)).axes[1].collections[0].get_facecolors()
    assert len(np.unique(one_colour, axis=0)) == 1


def test_a_setting_that_one_run_lacks_is_named() -> None:
    tree = evaluation()
    ds = tree["evaluation"].to_dataset()
    lacks = (ds.run == "run 1") & (ds.nfe == 32)
    ds = ds.assign(points=ds.points.where(~lacks), energy_distance=ds.energy_distance.where(~lacks))
    figure = plots.points_by_nfe(xr.DataTree.from_dict({"evaluation": ds}))
    assert panels(figure)[5] == ["", "", "not measured"]
    assert sampled_settings(ds).values.tolist() == [[[True, True]], [[True, False]]]


def quivers(figure: Figure) -> list[list[Quiver]]:
    return [[c for c in ax.collections if isinstance(c, Quiver)] for ax in figure.axes]


def test_fields_are_coloured_by_their_error_and_share_the_exact_one() -> None:
    figure = plots.vector_fields(evaluation())
    assert [row[:2] for row in panels(figure)[:6]] == [
        ["v, t = 0.9", "run 0"],
        ["u, t = 1, r = 0", ""],
        ["", "run 1"],
        ["", ""],
        ["", "exact"],
        ["", ""],
    ]
    first, second = quivers(figure)[0][0], quivers(figure)[2][0]
    assert np.nanmax(first.get_array()) == pytest.approx(1)
    assert np.nanmax(second.get_array()) == pytest.approx(2)
    assert quivers(figure)[4][0].get_array() is None
    assert first.scale == second.scale == quivers(figure)[4][0].scale
    shown = ~np.reshape(first.Umask, (5, 5))
    assert not shown[0].any()  # z_t is never there
    assert shown[1:].all()
    assert figure.axes[6].get_ylabel() == "distance to the exact velocity"


def test_fields_whose_truth_nobody_knows_are_drawn_alone() -> None:
    figure = plots.vector_fields(evaluation(1, known=False))
    assert [row[1] for row in panels(figure)] == ["run 0", ""]


def test_runs_on_pictures_are_refused() -> None:
    tree = xr.DataTree.from_dict({"evaluation": evaluation()["evaluation"].to_dataset()[["energy_distance"]]})
    for draw in (plots.points_by_nfe, plots.vector_fields):
        with pytest.raises(ValueError, match=r"evaluation: received .*; remedy: .*spiral-meanflow"):
            draw(tree)


def test_energy_distance_is_drawn_on_an_axis_with_zero() -> None:
    tree = evaluation()
    assert distances_of(tree["evaluation"].to_dataset()) == {"energy_distance": "energy distance of points"}
    figure = plots.distance_by_nfe(tree)
    assert [(ax.get_ylabel(), ax.get_yscale()) for ax in figure.axes] == [("energy distance of points", "linear")]
