"""The table of an experiment's runs, and the findings that follow from a collected file."""

import numpy as np
import pytest
import xarray as xr
from synthetic_runs import bins, evaluation, exact, fid, training, variable

from dynamics.analysis import CLAIMS, Claim, axes_of, findings, findings_page, findings_table, study
from dynamics.analysis.report.metrics import metric_columns
from dynamics.analysis.report.summary_table import summary
from dynamics.analysis.studies.claims import is_ratio
from dynamics.store import slim

ARMS = {"vanilla": 0.4, "better": 0.2}
STEPS = np.array([0, 50, 100])
CLAIM = Claim("better is better", "one_step_error_end", {"arm": "better"}, "lower", {"arm": "vanilla"})


def collected() -> xr.DataTree:
    """Two arms, three seeds and a run that came first; errors fall to a tenth while training."""
    runs = [(arm, seed, "grid") for arm in ARMS for seed in range(3)] + [("vanilla", 9, "before")]
    gaps, finals, series = [], [], []
    for arm, seed, _ in runs:
        error = ARMS[arm] * (1 + seed / 10)
        fall = np.array([10.0, 3.0, 1.0])
        gaps.append(xr.Dataset(exact(error, error, error, ("step",), fall), {"step": STEPS, **bins()}))
        numbers = dict.fromkeys(("fd", "kd", "accuracy", "precision", "recall"), 0.5) | {"v": error, "u": error}
        finals.append(evaluation(numbers | {"fd": 10 * error, "one_step": error}))
        series.append(training())
    index = {
        "run": [f"r{i}" for i in range(len(runs))],
        "arm": ("run", [arm for arm, _, _ in runs]),
        "seed": ("run", [seed for _, seed, _ in runs]),
        "role": ("run", [role for _, _, role in runs]),
    }
    groups = {"gaps": gaps, "evaluation": finals, "training": series}
    merged = {f"/{name}": xr.concat(parts, "run").assign_coords(index) for name, parts in groups.items()}
    tree = xr.DataTree.from_dict({"/": xr.Dataset(), **merged})
    claims = CLAIMS.dump_json((CLAIM,)).decode()
    tree.attrs = {"experiment": "small", "scale": "digits", "axes": ["arm", "seed"], "claims": claims}
    return tree


def test_fid_is_a_frechet_distance_under_the_common_name() -> None:
    runs = {"run": ["a", "b"], "arm": ("run", ["vanilla", "better"]), "seed": ("run", [0, 0])}
    merged = xr.concat([fid(4.0), fid(3.0)], "run").assign_coords(runs)
    table = study(xr.DataTree.from_dict({"/fid": merged}), ["arm", "seed"])
    assert table["fd_u_nfe1"].tolist() == [4.0, 3.0]


def test_on_latents_claims_of_exact_errors_are_not_measured() -> None:
    runs = [(arm, seed) for arm in ARMS for seed in range(3)]
    parts = [fid(10 * ARMS[arm] * (1 + seed / 10)) for arm, seed in runs]
    index = {"run": [f"r{i}" for i in range(6)], "arm": ("run", [a for a, _ in runs])}
    merged = xr.concat(parts, "run").assign_coords({**index, "seed": ("run", [s for _, s in runs])})
    tree = xr.DataTree.from_dict({"/fid": merged})
    of_samples = Claim("better samples", "fd_u_nfe1", {"arm": "better"}, "lower", {"arm": "vanilla"})
    since_start = Claim("better than at first", "v_error_end", {"arm": "better"}, "lower", relative_to="v_error_start")
    claims = CLAIMS.dump_json((CLAIM, of_samples, since_start)).decode()
    tree.attrs = {"experiment": "small", "scale": "b4", "axes": ["arm", "seed"], "claims": claims}
    assert [found.verdict for found in findings(tree)] == ["not measured", "supported", "not measured"]
    assert "exact" not in findings_table([tree])


def test_the_distance_above_the_floor_drops_no_run() -> None:
    """What lies less than one draw's standard deviation above the floor, or below it, counts as that much."""
    tree = collected()
    table = study(tree, ["arm", "seed"])
    assert table.excess_fd_u_nfe1.isna().all()
    floors = {"floor_fd_digits": variable(("run",), [2.2] * 7), "floor_fd_digits_std": variable(("run",), [0.1] * 7)}
    tree["evaluation"] = xr.DataTree(tree["evaluation"].to_dataset().assign(floors))
    table = study(tree, ["arm", "seed"])
    np.testing.assert_allclose(table.fd_u_nfe1, [4.0, 4.4, 4.8, 2.0, 2.2, 2.4])
    np.testing.assert_allclose(table.excess_fd_u_nfe1, [1.8, 2.2, 2.6, 0.1, 0.1, 0.2])
    assert is_ratio("excess_fd_u_nfe1")
    assert Claim("", "excess_fd_u_nfe1", {}, "lower").equivalence == Claim("", "fd_u_nfe1", {}, "lower").equivalence
    assert not {"floor_fd_digits", "floor_fd_digits_std"} & set(metric_columns(summary(tree)))


def test_a_row_holds_labels_final_values_and_both_ends_of_the_series() -> None:
    table = study(collected(), ["arm", "seed"])
    assert list(table.arm) == ["vanilla"] * 3 + ["better"] * 3, "runs that came first are left out"
    row = table.iloc[1]
    assert row.one_step_error_end == pytest.approx(0.44)
    assert row.one_step_error_start == pytest.approx(4.4)
    assert row["u_error_0.1-0.3_end"] == pytest.approx(0.44)
    assert row.v_error_start == pytest.approx(10 * row.v_error_end)
    assert row.u_error_late == row.u_error_end == pytest.approx(0.44), "one measurement in the last quarter"
    assert row.fd_u_nfe1 == row.fd_digits_u_nfe1
    assert list(study(collected(), ["arm", "seed"], role="before").index) == ["r6"]


def test_late_is_the_mean_of_logs_over_the_last_quarter() -> None:
    tree = collected()
    tree["gaps"] = tree["gaps"].to_dataset().assign_coords(step=[0, 80, 100])
    row = study(tree, ["arm", "seed"]).iloc[0]
    assert row.one_step_error_late == pytest.approx(0.4 * np.sqrt(3))
    assert row.one_step_error_end == pytest.approx(0.4)


def test_numeric_labels_read_as_the_experiment_wrote_them() -> None:
    tree = collected()
    for name in tree.children:
        tree[name] = tree[name].to_dataset().assign_coords(length=("run", [0.25, 0.5, 1.0, 2.0, 4.0, 800.0, 1.0]))
    assert list(study(tree, ["length", "seed"]).length) == ["0.25", "0.5", "1", "2", "4", "800"]


def test_an_axis_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"axes: received \['gap'\]; allowed: .*arm"):
        study(collected(), ["gap"])


def test_findings_come_from_the_file_alone() -> None:
    tree = collected()
    assert axes_of(tree) == ["arm", "seed"]
    (found,) = findings(tree)
    assert (found.claim, found.verdict, found.num_seeds) == (CLAIM, "supported", 3)
    line = findings_table([tree]).splitlines()[-1]
    assert (
        line == "| small | digits | better is better | one_step_error_end | -50% [-50%, -50%] | 0 | 3 | **supported** |"
    )


def test_a_file_of_no_experiment_is_refused() -> None:
    with pytest.raises(ValueError, match="remedy: python -m experiments NAME collect"):
        findings(xr.DataTree())


def test_slim_keeps_every_number_that_a_finding_needs() -> None:
    whole, kept = collected(), slim(collected())
    assert kept["training"].sizes["step"] == 5
    assert kept["evaluation"].sizes["row"] == min(1, whole["evaluation"].sizes["row"])
    assert kept["gaps"].one_step_error.dtype == np.float32
    a, b = (study(tree, ["arm", "seed"]).select_dtypes(float) for tree in (whole, kept))
    shared = [c for c in a.columns if c in b.columns and "seconds" not in c]
    np.testing.assert_allclose(a[shared], b[shared], rtol=1e-5)
    assert findings(kept)[0].verdict == "supported"
    assert kept.attrs["claims"] == whole.attrs["claims"]


def test_the_page_counts_verdicts_and_has_a_table_an_experiment() -> None:
    small, other = collected(), collected()
    small.attrs["question"], other.attrs["question"] = "Is better better?", "And | worse?"
    claims = (CLAIM, Claim("worse is better", "one_step_error_end", {"arm": "vanilla"}, "lower", {"arm": "better"}))
    other.attrs |= {"experiment": "other", "claims": CLAIMS.dump_json(claims).decode()}
    text = findings_page([small, other])
    assert "| [small](#small) | 1 | 0 | 0 | 0 |" in text
    assert "| [other](#other) | 1 | 1 | 0 | 0 |" in text
    assert "| all | 2 | 1 | 0 | 0 |" in text
    head, sections = text.split("## small\n\nIs better better?\n\n")
    assert head.startswith("# Findings\n\n")
    first, second = sections.split("## other\n\n")
    line = "| digits | better is better | one_step_error_end | -50% [-50%, -50%] | 0 | 3 | **supported** |"
    assert first.splitlines()[2] == second.splitlines()[4] == line
    assert second.splitlines()[5].endswith("| +100% [+100%, +100%] | 0 | 3 | **the opposite** |")
