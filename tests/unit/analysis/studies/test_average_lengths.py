"""Arms at each one's best length of the average and at equal length, from evaluations that lie side by side."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from synthetic_runs import evaluation

from dynamics.analysis import at_best_length, at_equal_length, by_ema_length, plots
from dynamics.analysis.studies.average_lengths import best_length

LENGTHS, AXES = (0.03, 0.06, 0.12), ["arm", "seed"]
BEST = {"short": 0.03, "long": 0.12}
METRICS = ["one_step_error", "fd_u_nfe1", "accuracy_u_nfe1"]


def error(arm: str, seed: int, length: float) -> float:
    return float((1 + seed / 10) * (1 + np.log(length / BEST[arm]) ** 2) * (0.5 if arm == "long" else 1.0))


def measured(length: float | None) -> xr.Dataset:
    parts, runs = [], [(arm, seed) for arm in BEST for seed in range(3)]
    for arm, seed in runs:
        value = error(arm, seed, length or 0.06)
        numbers = {"fd": value, "kd": 1.0, "accuracy": 1 / (1 + value), "precision": 1.0, "recall": 1.0}
        parts.append(evaluation(numbers | {"v": 0.1, "u": 0.1, "one_step": value}))
    arms, seeds = zip(*runs, strict=True)
    index = {"run": [f"{arm}{seed}" for arm, seed in runs], "arm": ("run", list(arms)), "seed": ("run", list(seeds))}
    ds = xr.concat(parts, "run", data_vars="all").assign_coords(index)
    name = "ema" if length is None else f"length{length}"
    return ds.assign_attrs({"protocol": f"n1000_seed0_{name}"} | ({} if length is None else {"ema_length": length}))


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    groups = {"/evaluation": measured(LENGTHS[0])}
    groups |= {f"/evaluation_n1000_seed0_length{length}": measured(length) for length in LENGTHS[1:]}
    return xr.DataTree.from_dict({"/": xr.Dataset(), **groups, "/evaluation_n1000_seed0_ema": measured(None)})


@pytest.fixture(scope="module")
def frame(tree: xr.DataTree) -> pd.DataFrame:
    return by_ema_length(tree, AXES, METRICS)


def test_a_row_a_run_length_and_metric(frame: pd.DataFrame) -> None:
    assert len(frame) == 6 * len(LENGTHS) * len(METRICS)
    assert set(frame.protocol) == {"n1000_seed0"}
    own = frame[(frame.run == "long2") & (frame.ema_length == 0.06)].set_index("metric")["value"]
    assert own["fd_u_nfe1"] == pytest.approx(error("long", 2, 0.06))
    assert own["one_step_error"] == pytest.approx(error("long", 2, 0.06))


def test_each_arm_at_its_own_best(frame: pd.DataFrame) -> None:
    table = at_best_length(frame, AXES)
    for metric in METRICS:
        assert table[f"{metric}_ema_length"].tolist() == table["arm"].map(BEST).tolist()
    assert table.loc["short1", "fd_u_nfe1"] == pytest.approx(error("short", 1, 0.03))


def test_a_seed_does_not_choose_its_own_length(frame: pd.DataFrame) -> None:
    """One seed's lucky value at another length moves the choice of the others alone."""
    lucky = frame.copy()
    lucky.loc[(lucky.run == "short0") & (lucky.ema_length == 0.12) & (lucky.metric == "fd_u_nfe1"), "value"] = 1e-9
    chosen = at_best_length(lucky, AXES)["fd_u_nfe1_ema_length"]
    assert chosen["short0"] == 0.03
    assert chosen["short1"] == chosen["short2"] == 0.12
    alone = lucky[lucky.run == "short0"]
    assert at_best_length(alone, AXES)["fd_u_nfe1_ema_length"].tolist() == [0.12]


def test_all_arms_at_one_length(frame: pd.DataFrame) -> None:
    table = at_equal_length(frame, AXES, 0.06)
    assert set(table["one_step_error_ema_length"]) == {0.06}
    assert table.loc["long1", "one_step_error"] == pytest.approx(error("long", 1, 0.06))
    assert len(set(at_equal_length(frame, AXES)["fd_u_nfe1_ema_length"])) == 1
    with pytest.raises(ValueError, match=r"length: received 0.07; allowed: 0.03, 0.06, 0.12"):
        at_equal_length(frame, AXES, 0.07)


def test_the_figure_marks_each_best(frame: pd.DataFrame) -> None:
    ax = plots.errors_by_ema_length(frame, ["fd_u_nfe1"], "arm").axes[0]
    stars = [line for line in ax.lines if line.get_marker() == "*"]
    assert [float(np.asarray(star.get_xdata())[0]) for star in stars] == list(BEST.values())
    assert all(star.get_markerfacecolor() == "white" for star in stars), "both at the end of what was measured"


def test_an_arm_without_a_metric_is_not_drawn(frame: pd.DataFrame) -> None:
    ax = plots.errors_by_ema_length(frame[(frame.arm == "long") | (frame.metric != "fd_u_nfe1")], METRICS, "arm").axes
    assert [sum(line.get_marker() == "*" for line in panel.lines) for panel in ax] == [2, 1, 2]


def test_lengths_that_only_some_runs_have_do_not_count(frame: pd.DataFrame) -> None:
    own = frame[(frame.arm == "short") & (frame.metric == "fd_u_nfe1")]
    assert best_length(own[(own.run != "short0") | (own.ema_length != 0.03)]) == 0.06


def test_what_does_not_belong_together_is_refused(tree: xr.DataTree, frame: pd.DataFrame) -> None:
    mixed = pd.concat([frame, frame.assign(protocol="n50_seed0")])
    for act in (lambda: at_best_length(mixed, AXES), lambda: plots.errors_by_ema_length(mixed, METRICS, "arm")):
        with pytest.raises(ValueError, match="protocol: received"):
            act()
    bare = xr.DataTree.from_dict({"/evaluation": measured(None)})
    with pytest.raises(ValueError, match=r"evaluations with an ema_length; remedy: dynamics evaluate DIR --ema-l"):
        by_ema_length(bare, AXES, METRICS)
    with pytest.raises(ValueError, match=r"metric: received 'nothing'; allowed: .*one_step_error"):
        by_ema_length(tree, AXES, ["nothing"])
