"""Reports of many runs: seeds are one arm with an interval, claims come first, and no figure outgrows a page."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure
from scipy import stats
from synthetic_runs import BASE

from dynamics.analysis import Claim, differences, summary, write_report, write_study_report
from dynamics.analysis.figure_style import WIDEST, log_axis, new_figure
from dynamics.analysis.report import report_pictures
from dynamics.analysis.report.arm_tables import arm_means
from dynamics.analysis.seed_arms import arms_by_config, arms_of, first_seeds, spread_arms, with_arms
from dynamics.analysis.studies import study_report
from dynamics.analysis.studies.claims import CLAIMS
from dynamics.store import collect

Drawn = dict[str, Figure]
Make = Callable[..., Path]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """What a report draws, by name, and not written."""
    found: Drawn = {}

    def keep(figure: Figure, path: Path) -> list[Path]:
        found[path.stem] = figure
        return []

    monkeypatch.setattr(report_pictures, "save", keep)
    monkeypatch.setattr(study_report, "save", keep)
    return found


def sweep(make: Make, arms: int, seeds: int) -> list[Path]:
    """Write runs of some arms whose errors grow with the arm and the seed."""
    folders = []
    for arm in range(arms):
        for seed in range(seeds):
            numbers = {**BASE, "one_step": 0.1 * (1 + 2 * arm) * (1 + seed / 10), "v": 0.1 * (1 + seed / 10)}
            folders.append(make(f"arm{arm:02}-s{seed}", numbers, arm=(f"arm{arm}", seed)))
    return folders


def merged(folders: list[Path]) -> xr.DataTree:
    return collect([folder / "run.nc" for folder in folders])


def test_runs_that_differ_in_their_seed_are_one_arm(make: Make) -> None:
    tree = merged(sweep(make, 2, 3))
    arms = {name: len(runs) for name, runs in arms_by_config(tree).items()}
    assert arms == {"id-arm00": 3, "id-arm01": 3}
    shown = with_arms(tree, {"b": ["id-arm01-s0", "id-arm01-s2"]})
    assert arms_of(shown) == {"b": ["id-arm01-s0", "id-arm01-s2"]}
    assert first_seeds(shown)["gaps"].run.values.tolist() == ["b"]
    assert arms_of(tree) == {run: [run] for run in tree["gaps"].run.values}


def test_an_arm_is_its_mean_with_the_interval_over_seeds(make: Make) -> None:
    tree = merged(sweep(make, 1, 3))
    table = summary(tree)
    row = arm_means(table, arms_by_config(tree)).iloc[0]
    logs = np.log(table["one_step_error"].to_numpy(float))
    half = stats.t.ppf(0.975, 2) * logs.std(ddof=1) / 3**0.5
    ends = [row["one_step_error"], row["one_step_error_low"], row["one_step_error_high"]]
    assert ends == pytest.approx(np.exp([logs.mean(), logs.mean() - half, logs.mean() + half]))
    assert "one_step_error_sem" not in row


@pytest.mark.parametrize(("arms", "seeds"), [(3, 3), (12, 1)])
def test_figures_stay_small_whatever_the_number_of_runs(
    make: Make, figures: Drawn, tmp_path: Path, arms: int, seeds: int
) -> None:
    text = write_report(sweep(make, arms, seeds), tmp_path / "out").read_text()
    for name, figure in figures.items():
        assert figure.get_figwidth() <= WIDEST, name
        assert figure.get_figheight() <= 14, name
        for ax in figure.axes if name in ("error_by_gap", "losses") else []:
            assert len([line for line in ax.lines if line.get_alpha() is None]) <= 9, name
    assert ("arms" in figures) == (seeds > 1 or arms > 6)
    assert max(line.count("|") for line in text.splitlines()) <= 14
    assert ("8 of 12 arms" in text) == (arms == 12)
    assert len(pd.read_csv(tmp_path / "out" / "runs.csv")) == arms * seeds
    if seeds > 1:
        assert "| arm00 | 3 | 2000 | 64 | 0, 1, 2 |" in text
        row = next(line for line in text.splitlines() if line.startswith("| arm01 | ") and "%" in line)
        assert "**x3 [x3, x3]**" in row, "paired over seeds, the ratio is the same for each"
        assert "usual spread" not in text


def test_a_run_of_another_length_is_not_compared(make: Make) -> None:
    tree = merged([make("base", BASE), make("other", {**BASE, "one_step": 0.1}, steps=50)])
    found = differences(summary(tree))
    row = found[found["metric"] == "one_step_error"].iloc[0]
    assert row["reason"] == (
        "trained otherwise (1000 steps of 64 rows of digits, the baseline 2000 steps of 64 rows of digits)"
    )
    both = merged([make("a", BASE, steps=50), make("b", {**BASE, "one_step": 0.1}, steps=50)])
    assert set(differences(summary(both))["reason"]) == {""}


def test_claims_come_first(make: Make, figures: Drawn, tmp_path: Path) -> None:
    folders = sweep(make, 2, 3)
    knobs = {"arm": ["a"] * 3 + ["b"] * 3, "seed": [0, 1, 2] * 2, "role": ["grid"] * 6}
    tree = collect([folder / "run.nc" for folder in folders], knobs)
    claim = Claim("b is worse <b>", "one_step_error", {"arm": "b"}, "higher", {"arm": "a"})
    tree.attrs |= {"experiment": "x", "scale": "digits", "question": "Is b worse?", "axes": ["arm", "seed"]}
    tree.attrs["claims"] = CLAIMS.dump_json((claim,)).decode()
    text = write_study_report(tree, tmp_path / "out", "again").read_text()
    assert text.index("## Claims") < text.index("## What was run") < text.index("## Figures")
    assert "| b is worse &lt;b> | one_step_error | x3 [x3, x3] | 0 | 3 | **supported** |" in text
    assert {"claims", "arms", "error_by_gap"} <= set(figures)
    assert "## Differences against a" in text


@pytest.mark.usefixtures("figures")
def test_names_and_titles_are_no_html(make: Make, tmp_path: Path) -> None:
    folders = [make("base", BASE), make("other", {**BASE, "fd": 9.0})]
    bad = "<script>alert(1)</script>"
    text = write_report(folders, tmp_path / "out", title=f"A {bad}\n# B", labels=[bad, f"x{bad}"]).read_text()
    shown, commands = text.split("## How to repeat it")
    assert "<script" not in shown
    assert shown.startswith("# A &lt;script>alert(1)&lt;/script> # B\n")
    assert commands.count("```") == 2


def test_the_baseline_is_among_the_arms_that_are_shown() -> None:
    values = pd.Series(np.arange(24.0), [f"a{i}" for i in range(24)])
    chosen = spread_arms(values, "a5", 8)
    assert len(chosen) == 8
    assert {"a0", "a5", "a23"} <= set(chosen)


@pytest.mark.parametrize(("low", "high"), [(1.1, 8.0), (0.6, 2.5), (3.0, 40.0), (0.103, 0.137), (1e-3, 1e4)])
def test_a_logarithmic_axis_has_enough_numbers(low: float, high: float) -> None:
    ax = new_figure("?", 3, 3).subplots()
    ax.set_ylim(low, high)
    log_axis(ax)
    ticks = [tick for tick in ax.yaxis.get_major_locator()() if low <= tick <= high]
    assert 3 <= len(ticks) <= 9
