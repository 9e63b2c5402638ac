"""Known numbers in, known summary and differences out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats
from synthetic_runs import BASE, OTHER

from dynamics.analysis import bin_edges, differences, group, label_runs, relative_error, run_labels, summary
from dynamics.analysis.report.metrics import metric, metric_columns
from dynamics.analysis.report.summary_table import wilson_interval
from dynamics.store import collect, open_results

Make = Callable[..., Path]


REST = ("training", "gaps")
DIFFERENTLY = "the two runs were measured differently (see the protocol)"


def compared(table: pd.DataFrame, name: str) -> tuple[str, str]:
    row = table[table["metric"] == name].iloc[0]
    return row["direction"], row["reason"]


def test_summary_has_the_known_numbers(tree: xr.DataTree) -> None:
    table = summary(label_runs(tree, {"id-base": "base", "id-other": "other"}))
    assert table.index.tolist() == ["base", "other"]
    base = table.loc["base"]
    assert base["v_error"] == pytest.approx((2 * 0.2 + 4 * 0.1) / 6)
    assert base["v_error_from_0.3"] == pytest.approx(0.1)
    assert base["v_error_from_0.3_sem"] == pytest.approx(0.01 / 2)  # four bins of 0.01 each
    assert base["u_error_0.9-1"] == pytest.approx(0.2)
    assert base["one_step_error"] == pytest.approx(0.3)
    assert base["one_step_error_sem"] == pytest.approx(0.03)
    assert base["fd_digits_u_nfe2"] == 2.0
    assert base["fd_digits_v_nfe2"] == 1.0
    assert "fd_digits_v_nfe1" not in table
    assert (base["accuracy_u_nfe1_low"], base["accuracy_u_nfe1_high"]) == pytest.approx(wilson_by_hand(0.5, 1000))
    assert (base["precision_u_nfe1"], base["recall_u_nfe2"]) == (0.8, 0.3)
    assert (base["seconds"], base["peak_memory_mb"]) == (60.0, 500.0)
    assert table.attrs["exact"] == "evaluation"


def wilson_by_hand(share: float, n: int) -> tuple[float, float]:
    z = stats.norm.ppf(0.975)
    centre, half = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)


def test_accuracies_have_wilson_intervals() -> None:
    ends = np.transpose(wilson_interval(np.array([0.0, 0.97, 1.0, np.nan, 0.5]), [10, 1000, 50, 10, None]))
    np.testing.assert_allclose(ends[:3], [wilson_by_hand(*x) for x in ((0.0, 10), (0.97, 1000), (1.0, 50))], atol=1e-12)
    assert np.isnan(ends[3:]).all()


def test_every_column_has_a_meaning(tree: xr.DataTree) -> None:
    for name in metric_columns(summary(tree)):
        assert metric(name).lower_is_better != name.startswith(("accuracy", "precision", "recall"))


def test_without_evaluation_of_every_run_the_last_measurement_counts(make: Make) -> None:
    folders = [make("base", BASE), make("other", OTHER, without=("evaluation",))]
    table = summary(collect([f / "run.nc" for f in folders]))
    assert table.attrs["exact"] == "gaps"
    assert table["one_step_error"].tolist() == pytest.approx([0.3 / 4, 0.15 / 4])
    assert np.isnan(table.loc["id-other", "fd_digits_u_nfe1"])
    found = differences(table)
    assert not found["metric"].str.startswith("fd_").any()
    assert set(found[found["metric"] == "one_step_error"]["reason"]) == {DIFFERENTLY}


def test_no_exact_errors_says_what_to_do(make: Make) -> None:
    tree = open_results(make("base", BASE, without=("evaluation", "gaps")))
    with pytest.raises(ValueError, match="dynamics evaluate DIR"):
        summary(tree)


def test_latents_have_fid_instead_of_exact_errors(on_latents: list[Path]) -> None:
    table = summary(label_runs(collect([f / "run.nc" for f in on_latents]), {"id-base": "base", "id-other": "other"}))
    assert table.attrs["exact"] == ""
    assert table["fid_inception_u_nfe1"].tolist() == [4.0, 3.0]
    assert table["kd_inception_u_nfe1_sem"].tolist() == [0.5, 0.5]
    assert not [name for name in table if "_error" in name or "_std" in name]
    assert all(metric(name).title for name in metric_columns(table))
    found = differences(table)
    assert compared(found, "fid_inception_u_nfe1") == ("better", "")
    assert found[found["metric"] == "fid_inception_u_nfe2"]["change"].tolist() == [-0.25]


def test_latents_without_fid_have_their_costs(on_latents: list[Path]) -> None:
    tree = collect([f / "run.nc" for f in on_latents])
    del tree["fid"]
    table = summary(tree)
    assert set(table) == {"seconds", "peak_memory_mb", "protocol", "budget"}
    assert set(differences(table)["metric"]) == {"seconds", "peak_memory_mb"}


def test_fid_by_another_inception_is_not_comparable(on_latents: list[Path]) -> None:
    tree = collect([f / "run.nc" for f in on_latents])
    other = [float(run == "id-other") for run in tree["fid"].run.values]
    tree["fid"] = tree["fid"].to_dataset().assign_coords({"fid.inception_sha256": ("run", np.array(other).astype(str))})
    assert compared(differences(summary(tree), "id-base"), "fid_inception_u_nfe1")[1] == DIFFERENTLY


def test_single_run(two: list[Path], tree: xr.DataTree) -> None:
    one = open_results(two[1])
    assert "run" not in one["gaps"].dims
    pd.testing.assert_frame_equal(summary(one), summary(tree).loc[["id-other"]], check_index_type=False)
    assert run_labels(label_runs(one, {"id-other": "mine"})) == ["mine"]
    assert group(one, "training").seed.values.tolist() == [0]


def test_differences(tree: xr.DataTree) -> None:
    table = differences(summary(tree), "id-base")
    assert set(table["run"]) == {"id-other"}
    row = table[table["metric"] == "one_step_error"].iloc[0]
    assert (row["value"], row["reference"], row["change"]) == pytest.approx((0.15, 0.3, -0.5))
    assert compared(table, "one_step_error") == ("better", "")
    assert compared(table, "u_error_0-0.1") == ("worse", "")
    assert compared(table, "accuracy_u_nfe1") == ("better", "")
    assert compared(table, "precision_u_nfe1") == ("equal", "")
    assert "verdict" not in table, "one seed each"
    back = differences(summary(tree), "id-other")
    assert compared(back, "one_step_error") == ("worse", "")
    assert compared(back, "accuracy_u_nfe1") == ("worse", "")


def test_a_kernel_distance_around_zero_has_no_relative_change(make: Make) -> None:
    folders = [make("base", {**BASE, "kd": -0.01}, without=REST), make("other", OTHER, without=REST)]
    tree = collect([folder / "run.nc" for folder in folders])
    table = differences(summary(tree))
    row = table[table["metric"] == "kd_digits_u_nfe1"].iloc[0]
    assert np.isnan(row["change"])


def test_runs_measured_differently_are_not_compared(make: Make) -> None:
    tree = collect([make("base", BASE) / "run.nc", make("other", OTHER, num_samples=2000) / "run.nc"])
    table, at = summary(tree), "@n2000_seed0_ema_rows16"
    found = differences(table)
    assert not found["metric"].str.startswith("fd_").any()
    assert compared(found, "one_step_error")[1] == DIFFERENTLY
    assert compared(found, "seconds")[1] == ""
    assert table["fd_digits_u_nfe1"].tolist() == pytest.approx([4.0, np.nan], nan_ok=True)
    assert table["fd_digits_u_nfe1" + at].tolist() == pytest.approx([np.nan, 2.0], nan_ok=True)
    assert table["accuracy_u_nfe1_low"].iloc[0] == pytest.approx(wilson_by_hand(0.5, 1000)[0])
    assert table[f"accuracy_u_nfe1{at}_low"].iloc[1] == pytest.approx(wilson_by_hand(0.9, 2000)[0])


def test_bad_names(tree: xr.DataTree) -> None:
    with pytest.raises(ValueError, match="baseline: received 'nobody'; allowed: id-base, id-other"):
        differences(summary(tree), "nobody")
    with pytest.raises(ValueError, match="labels"):
        label_runs(tree, {"nobody": "x"})
    with pytest.raises(ValueError, match="one label a run"):
        label_runs(tree, {"id-base": "x", "id-other": "x"})
    with pytest.raises(ValueError, match="metric: received 'nonsense'"):
        metric("nonsense")
    with pytest.raises(ValueError, match="u_error"):
        relative_error(xr.Dataset(), "u")


def test_delta_method_agrees_with_bootstrap() -> None:
    """The formula is right for independent and for strongly correlated errors and scales."""
    rng = np.random.default_rng(0)
    n, shared = 400, rng.gamma(4, 1, 400)
    cases = {"independent": rng.gamma(4, 1, n), "correlated": shared * rng.uniform(0.8, 1.2, n)}
    for name, error in cases.items():
        scale = 10 * shared if name == "correlated" else rng.gamma(9, 5, n)
        values = {"u_error": error, "u_scale": scale}
        content = {key: x.mean() for key, x in values.items()}
        content |= {f"{key}_sem": x.std(ddof=1) / np.sqrt(n) for key, x in values.items()}
        content["u_covariance"] = np.cov(error, scale)[0, 1] / n
        result = relative_error(xr.Dataset(content), "u")
        draws = rng.integers(0, n, (4000, n))
        brute = (error[draws].mean(1) / scale[draws].mean(1)).std()
        ratio = float(result.relative_error_sem) / brute
        assert float(result.relative_error) == pytest.approx(error.mean() / scale.mean())
        assert ratio == pytest.approx(1.0, abs=0.1), name


def test_runs_of_different_length_end_where_they_end(make: Make) -> None:
    short = make("base", BASE, without=("evaluation",))
    tree = open_results(short)
    groups = {"/gaps": tree["gaps"].to_dataset().isel(step=slice(0, 2))}
    cut = xr.DataTree.from_dict({"/": xr.Dataset(attrs=tree.attrs), **groups})
    assert summary(cut)["one_step_error"].tolist() == pytest.approx([0.15])
    both = xr.concat([group(tree, "gaps"), group(cut, "gaps").assign_coords(run=["cut"])], "run", join="outer")
    many = xr.DataTree.from_dict({"/gaps": both})
    assert summary(many)["one_step_error"].tolist() == pytest.approx([0.075, 0.15])
    assert bin_edges(group(many, "gaps"), "gap_bin")[1] == (0.1, 0.3)
