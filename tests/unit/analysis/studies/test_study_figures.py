"""Figures of studies draw the numbers of the tables, and refuse what is not there."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats
from synthetic_grams import TASKS, dataset, gradients
from synthetic_runs import STEPS, bins, evaluation, exact, training

from dynamics.analysis import (
    CLAIMS,
    Claim,
    Finding,
    affinity,
    beside,
    findings,
    plots,
    published,
    sentence,
    sentences,
    study,
)
from dynamics.analysis.studies import beside_papers
from dynamics.analysis.studies.seed_means import column_words

ARMS, SEEDS = {"vanilla": 0.4, "better": 0.2, "worse": 0.6}, 3
AXES = ["arm", "length", "seed"]
CLAIM = Claim("better is better", "one_step_error", {"arm": "better"}, "lower", {"arm": "vanilla"})
PART = Claim("a cosine is high", "cosine_v_0.1-0.3_end", {"arm": "better"}, "higher", {"arm": "vanilla"})


def gram(seed: int, scale: float) -> xr.Dataset:
    """Tasks whose gradients turn away from v as the scale grows."""
    g = gradients(seed)
    g[:, 1:] -= scale * g[:, :1].mean(axis=2, keepdims=True)
    parts = [dataset(g), dataset(gradients(seed + 100))]
    return xr.concat(parts, xr.DataArray([0, 100], dims="step", name="step"), data_vars="all", coords="minimal")


def decomposition(value: float) -> xr.Dataset:
    parts = {"v": ("irreducible", "excess", "loss"), "u": ("inconsistency", "inherited", "error")}
    dims, content = {"v": "t_bin", "u": "gap_bin"}, {}
    for part, quantities in parts.items():
        for i, quantity in enumerate(quantities):
            content[f"{part}_{quantity}"] = (("step", dims[part]), np.full((1, 6), value * (i + 1.0)))
            content[f"{part}_{quantity}_sem"] = (("step", dims[part]), np.full((1, 6), 9.0))
    return xr.Dataset(content, {"step": [100], **bins()})


def collected(claims: tuple[Claim, ...] = (CLAIM, PART)) -> xr.DataTree:
    """Three arms of two lengths and three seeds, and a run that came first."""
    runs = [(arm, length, seed, "grid") for arm in ARMS for length in (0.5, 1.0) for seed in range(SEEDS)]
    runs.append(("vanilla", 0.5, 9, "before"))
    groups: dict[str, list[xr.Dataset]] = {n: [] for n in ("gaps", "evaluation", "training", "gram", "decomposition")}
    for arm, length, seed, _ in runs:
        error = ARMS[arm] * (1 + seed / 10) / length
        fall = np.array([10.0, 3.0, 1.0])
        groups["gaps"].append(xr.Dataset(exact(error, error, error, ("step",), fall), {"step": STEPS, **bins()}))
        numbers = dict.fromkeys(("fd", "kd", "accuracy", "precision", "recall"), 0.5) | {"v": error, "u": error}
        groups["evaluation"].append(evaluation(numbers | {"fd": 10 * error, "one_step": error}))
        groups["training"].append(training())
        groups["gram"].append(gram(seed, ARMS[arm]))
        groups["decomposition"].append(decomposition(error))
    columns = dict(zip(("arm", "length", "seed", "role"), zip(*runs, strict=True), strict=True))
    index = {name: ("run", list(values)) for name, values in columns.items()}
    index |= {"run": [f"r{i}" for i in range(len(runs))]}  # type: ignore[dict-item]
    merged = {
        f"/{name}": xr.concat(parts, "run", data_vars="all").assign_coords(index) for name, parts in groups.items()
    }
    tree = xr.DataTree.from_dict({"/": xr.Dataset(), **merged})
    tree.attrs = {"axes": AXES, "claims": CLAIMS.dump_json(claims).decode()}
    return tree


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    return collected()


@pytest.fixture(scope="module")
def judged() -> xr.DataTree:
    """The same without the decomposition, which here has no gradients for a study to look at."""
    tree = collected()
    del tree["decomposition"]
    return tree


@pytest.fixture(scope="module")
def table(judged: xr.DataTree) -> pd.DataFrame:
    return study(judged, AXES)


@pytest.fixture(scope="module")
def found(judged: xr.DataTree) -> list[Finding]:
    return findings(judged)


def mean_and_half(values: np.ndarray) -> tuple[float, float]:
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean()), float(half)


def bars(ax: Axes) -> list[tuple[float, float, float, float]]:
    """Return x, y, low, high of every error bar, whichever way it points."""
    out = []
    for container in ax.containers:
        data, _, lines = container.lines  # type: ignore[attr-defined]
        ((x, y),) = data.get_xydata()
        ((start, end),) = lines[0].get_segments()
        along = 0 if start[1] == end[1] else 1
        out.append((float(x), float(y), float(start[along]), float(end[along])))
    return out


def by_seed(table: pd.DataFrame, arm: str, column: str) -> np.ndarray:
    """Logs, averaged within a seed over the lengths."""
    own = table[table.arm == arm]
    return np.log(own[column]).groupby(own.seed).mean().to_numpy()


DRAWN: dict[str, Callable[[xr.DataTree, pd.DataFrame, list[Finding]], Figure]] = {
    "effects": lambda tree, table, found: plots.effects(found),
    "arms": lambda tree, table, found: plots.arms(table, "arm", ["one_step_error", "fd_u_nfe1"], "vanilla"),
    "over_training": lambda tree, table, found: plots.over_training(tree, "u", "arm"),
    "cosines_over_training": lambda tree, table, found: plots.cosines_over_training(tree, "arm"),
    "naive_against_unbiased": lambda tree, table, found: plots.naive_against_unbiased(tree, "arm"),
    "affinity_by_start": lambda tree, table, found: plots.affinity_by_start(tree, "arm"),
    "grid_heatmap": lambda tree, table, found: plots.grid_heatmap(table, "arm", "length", "one_step_error"),
    "schedule_map": lambda tree, table, found: plots.schedule_map(table, AXES, ["v_error"], "arm", "length"),
    "errors_by_length": lambda tree, table, found: plots.errors_by_length(table, ["v_error", "fd_u_nfe1"], by="arm"),
    "frontier": lambda tree, table, found: plots.frontier(
        table, "arm", "v_error", "one_step_error", baseline="vanilla"
    ),
    "decomposition_by_arm": lambda tree, table, found: plots.decomposition_by_arm(tree, "arm"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_asks_a_question_and_leaves_the_settings_alone(
    name: str, tree: xr.DataTree, table: pd.DataFrame, found: list[Finding]
) -> None:
    before = dict(rcParams)
    figure = DRAWN[name](tree, table, found)
    assert dict(rcParams) == before
    assert figure.get_suptitle().endswith("?")
    figure.savefig("/dev/null", format="png")


def test_the_frontier_are_the_arms_that_none_beats_in_both(table: pd.DataFrame) -> None:
    figure = plots.frontier(table, "arm", "v_error", "one_step_error")
    filled = {str(d.get_label()).split(maxsplit=1)[1]: d.get_markerfacecolor() != "white" for d in dots_of(figure)}
    means = {arm: [float(by_seed(table, arm, n).mean()) for n in ("v_error", "one_step_error")] for arm in filled}
    for arm, (x, y) in means.items():
        assert filled[arm] == (not any(a <= x and b <= y and [a, b] != [x, y] for a, b in means.values())), arm
    assert len(set(filled.values())) == 2


def dots_of(figure: Figure) -> list[Line2D]:
    return [line for line in figure.axes[0].lines if line.get_marker() == "o"]


def test_effects_are_where_the_findings_are(found: list[Finding]) -> None:
    first, second = plots.effects(found).axes
    for ax, finding in ((first, found[0]), (second, found[1])):
        ((x, y, low, high),) = bars(ax)
        assert (x, y) == pytest.approx((finding.effect, 0))
        assert (low, high) == pytest.approx((finding.low, finding.high))
        assert ax.texts[0].get_text() == finding.effect_text()
        assert ax.get_yticklabels()[0].get_text() == finding.claim.text
    lower, higher = (ax.patches[0].get_x() for ax in (first, second))  # type: ignore[attr-defined]
    assert lower < 0
    assert higher == 0
    with pytest.raises(ValueError, match=r"findings: received \[\]; allowed: one finding or more; remedy: "):
        plots.effects([])


def test_a_cosine_against_a_number_is_drawn_as_itself() -> None:
    claim = Claim("low", "cosine_forces_0.1-0.3_end", {"arm": "a"}, "lower", than=-0.4)
    (ax,) = plots.effects([Finding(claim, 5, -0.5, -0.55, -0.45, False, 0.01, 0.1)]).axes
    assert bars(ax)[0] == pytest.approx((-0.9, 0, -0.95, -0.85))
    assert next(line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 2) == -0.4
    assert ax.get_xlabel() == "cosine"


def test_what_was_not_measured_is_said(found: list[Finding]) -> None:
    nan = float("nan")
    (ax,) = plots.effects([Finding(CLAIM, 1, nan, nan, nan, True, nan, nan)]).axes
    assert ax.texts[0].get_text() == "not measured"
    assert not ax.containers


def test_arms_show_every_seed_and_the_mean_of_logs(table: pd.DataFrame) -> None:
    figure = plots.arms(table, "arm", ["one_step_error", "accuracy_u_nfe1"], baseline="vanilla", order="value")
    ax = figure.axes[0]
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["better", "vanilla", "worse"]
    for place, (name, bar) in enumerate(zip(names, bars(ax), strict=True)):
        mean, half = mean_and_half(by_seed(table, name, "one_step_error"))
        assert bar == pytest.approx((np.exp(mean), place, np.exp(mean - half), np.exp(mean + half)))
    dots = [line for line in ax.lines if len(line.get_xdata()) == SEEDS]
    own = table[table.arm == "better"].groupby("seed").one_step_error.mean()
    np.testing.assert_allclose(np.asarray(dots[0].get_xdata()), own)
    assert any(list(line.get_xdata()) == pytest.approx([bars(ax)[1][0]] * 2) for line in ax.lines), "the baseline"
    assert bars(figure.axes[1])[0][0] == pytest.approx(table[table.arm == "better"].accuracy_u_nfe1.mean())
    chosen = plots.arms(table, ("arm", "length"), ["v_error"], order=["worse, 1", "better, 0.5"])
    assert [label.get_text() for label in chosen.axes[0].get_yticklabels()] == ["worse, 1", "better, 0.5"]


def test_courses_are_means_over_seeds_of_the_grid_alone(tree: xr.DataTree) -> None:
    figure = plots.over_training(tree, "u", "arm", {"length": "1"})
    assert [ax.get_title() for ax in figure.axes][1] == "gap t - r in [0.1, 0.3]"
    lines = [line for line in figure.axes[1].lines if len(line.get_xdata()) == len(STEPS)]
    for line, scale in zip(lines, ARMS.values(), strict=True):
        logs = np.log([scale * (1 + seed / 10) for seed in range(SEEDS)])
        np.testing.assert_allclose(line.get_ydata(), np.exp(logs.mean()) * np.array([10, 3, 1]), rtol=1e-6)
    band = figure.axes[1].collections[0].get_paths()[0].vertices
    mean, half = mean_and_half(np.log([0.4 * (1 + seed / 10) for seed in range(SEEDS)]))
    assert np.asarray(band)[:, 1].min() == pytest.approx(np.exp(mean - half))


def test_cosines_and_their_naive_twins_are_those_of_affinity(tree: xr.DataTree) -> None:
    found = affinity(tree).sel(group="model", task="v")
    grid = (found.arm == "worse") & (found.role == "grid")

    def by_seed(name: str, task: str, step: int) -> np.ndarray:
        values = found[name].sel(task2=task, step=step).isel(run=np.flatnonzero(grid))
        return values.groupby("seed").mean().values

    course = plots.cosines_over_training(tree, "arm", line=-0.4)
    worse = [line for line in course.axes[1].lines if len(line.get_xdata()) == 2][-1]
    assert list(course.axes[1].lines[0].get_ydata()) == [-0.4, -0.4]
    for value, step in zip(worse.get_ydata(), (0, 100), strict=True):  # type: ignore[arg-type]
        assert value == pytest.approx(by_seed("cosine", TASKS[2], step).mean())
    panel = next(ax for ax in plots.naive_against_unbiased(tree, "arm").axes if ax.get_title() == "worse")
    expected = [(name, task) for name in ("naive_cosine", "naive_independent", "cosine") for task in TASKS[1:]]
    for (_, value, low, high), (name, task) in zip(bars(panel), expected, strict=True):
        mean, half = mean_and_half(by_seed(name, task, 0))
        assert (value, low, high) == pytest.approx((mean, mean - half, mean + half))
    cells = [text.get_text() for text in plots.affinity_by_start(tree, "arm").axes[0].texts]
    mean, half = mean_and_half(by_seed("cosine", TASKS[1], 0))
    assert cells[2 * len(TASKS[1:])] == f"{mean:.2f}\n± {half:.2f}"
    names = [label.get_text() for label in plots.affinity_by_start(tree, "arm").axes[0].get_yticklabels()]
    some = plots.affinity_by_start(tree, "arm", where={"arm": names[1:3]}).axes[0]
    assert [label.get_text() for label in some.get_yticklabels()] == names[1:3]
    with pytest.raises(ValueError, match="arm: received 'nobody'"):
        plots.affinity_by_start(tree, "arm", where={"arm": [names[0], "nobody"]})


def test_a_seed_without_signal_is_left_out_and_counted(tree: xr.DataTree) -> None:
    part = tree.copy(deep=True)
    first = int(np.flatnonzero((part["gram"].arm == "better").values & (part["gram"].seed == 0).values)[0])
    for run in (first, first + SEEDS):  # both lengths
        part["gram"].gram.values[run, 0, :, 1] = np.tile([-1.0, 1.0], 3)[:, None, None]
        part["gram"].gram.values[run, 0, :, 1, :, 1] *= np.array([-1.0, 1.0, -1.0, 1.0, -1.0, 1.0])
    cells = [text.get_text() for text in plots.affinity_by_start(part, "arm").axes[0].texts]
    assert cells[len(TASKS[1:])].endswith("2 of 3 seeds")
    assert "seeds" not in cells[0]


def test_lengths_and_grids_hold_the_means_of_the_table(table: pd.DataFrame) -> None:
    ax = plots.errors_by_length(table, ["v_error"], by="arm").axes[0]
    assert [bar[1] for bar in bars(ax)][:2] == pytest.approx(
        [np.exp(np.log(table[(table.arm == "vanilla") & (table.length == n)].v_error).mean()) for n in ("0.5", "1")]
    )
    dotted = next(line for line in ax.lines if line.get_linestyle() == ":")
    assert dotted.get_ydata()[0] == pytest.approx(bars(ax)[1][1])  # type: ignore[index]
    heat = plots.grid_heatmap(table, "arm", "length", "v_error").axes[0]
    mean, half = mean_and_half(np.log(table[(table.arm == "vanilla") & (table.length == "0.5")].v_error.to_numpy()))
    shown = f"{np.exp(mean):.3g}\n{np.exp(mean - half):.3g} … {np.exp(mean + half):.3g}"
    assert heat.texts[0].get_text() == shown
    assert [label.get_text() for label in heat.get_xticklabels()] == ["0.5", "1"]


def mapped() -> pd.DataFrame:
    """Three seeds of two schedules in two regimes: helps for sure, changes nothing for sure, cannot be told."""
    rng = np.random.default_rng(3)
    rows = []
    for regime, own in (("near", 0.1), ("far", 0.4)):
        for schedule, ratio in (("vanilla", 1.0), ("a", 0.5), ("b", 1.0)):
            noise = 0.5 if (schedule, regime) == ("b", "far") else 0.001
            values = own * ratio * np.exp(noise * rng.standard_normal(3))
            rows += [(schedule, regime, float(seed), value) for seed, value in enumerate(values)]
    table = pd.DataFrame(rows, columns=["schedule", "regime", "seed", "v_error_end"])
    table["excess_fd_u_nfe1"], table["fd_u_nfe1"] = np.nan, 100 * table.v_error_end
    return table.assign(**{"fd_v_nfe32@heun": table.v_error_end, "excess_fd_v_nfe32@heun": table.v_error_end / 2})


def test_a_map_holds_ratios_in_the_order_of_the_baseline_and_hatches_what_is_undecided() -> None:
    table = mapped()
    axes, metrics = ["schedule", "regime", "seed"], ["v_error_end", "excess_fd_u_nfe1", "excess_fd_v_nfe32"]
    figure = plots.schedule_map(table, axes, metrics)
    first, second, third = figure.axes[:3]
    assert [ax.get_title()[:14] for ax in (first, second, third)] == [
        "error of v, la",
        "Frechet distan",
        "Frechet distan",
    ]
    assert second.get_title() == "Frechet distance, u, NFE 1", "the distance itself, where there is no floor"
    assert third.get_title() == "Frechet distance above the floor, v, NFE 32"
    assert [label.get_text() for label in first.get_xticklabels()] == ["far", "near"], "farthest first"
    texts = [text.get_text() for text in first.texts]
    assert texts[:2] == ["0.4", "0.1"], "vanilla's own values"
    assert (texts[2:4], texts[5]) == (["0.50", "0.50"], "1.00")
    hatched = [patch.get_xy() for patch in first.patches if patch.get_hatch()]
    assert [tuple(np.round(place)) for place in hatched] == [(0, 2)], "the noisy cell alone"
    assert [text.get_text() for text in second.texts[:2]] == ["40", "10"]


def test_a_map_leaves_out_what_was_not_measured() -> None:
    table = mapped().assign(u_error=np.nan)
    axes = ["schedule", "regime", "seed"]
    part = table[(table.schedule != "a") | (table.regime != "far")]
    (panel,) = plots.schedule_map(part, axes, ["u_error", "v_error_end"]).axes[:1]
    assert panel.get_title() == "error of v, last measured"
    assert len([patch for patch in panel.patches if not patch.get_hatch()]) == 3
    with pytest.raises(ValueError, match="baseline: received 'plain'"):
        plots.schedule_map(table, axes, baseline="plain")
    with pytest.raises(ValueError, match="metric: received 'z'"):
        plots.schedule_map(table, axes, ["z"])
    with pytest.raises(ValueError, match="metrics: received"):
        plots.schedule_map(table, axes, ["u_error"])


def test_decompositions_are_averaged_with_errors_over_seeds(tree: xr.DataTree) -> None:
    figure = plots.decomposition_by_arm(tree, "arm")
    assert [ax.get_title() for ax in figure.axes[::2]] == [f"loss of v   {arm}, step 100" for arm in ARMS]
    errors = [0.4 * (1 + seed / 10) / length for length in (0.5, 1.0) for seed in range(SEEDS)]
    assert figure.axes[0].patches[0].get_height() == pytest.approx(np.mean(errors))  # type: ignore[attr-defined]
    measured = next(c for c in figure.axes[0].containers if isinstance(c, ErrorbarContainer))
    low, high = measured.lines[2][0].get_segments()[0][:, 1]
    assert (high - low) / 2 == pytest.approx(3 * np.std(errors, ddof=1) / len(errors) ** 0.5), "not the one over rows"


REFUSED: dict[str, tuple[Callable[[xr.DataTree, pd.DataFrame], Figure], str]] = {
    "axis": (lambda tree, table: plots.arms(table, "size", ["v_error"]), "axis: received 'size'; allowed: arm, "),
    "column": (lambda tree, table: plots.arms(table, "arm", ["fid"]), "column: received 'fid'; allowed: arm, "),
    "baseline": (
        lambda tree, table: plots.arms(table, "arm", ["v_error"], "best"),
        "baseline: received 'best'; allowed: vanilla, better, worse; remedy: choose one of them",
    ),
    "order": (
        lambda tree, table: plots.arms(table, "arm", ["v_error"], order=["best"]),
        "order: received 'best'; allowed: vanilla, better, worse",
    ),
    "by": (lambda tree, table: plots.over_training(tree, "v", "size"), "axis: received 'size'; allowed: "),
    "where": (
        lambda tree, table: plots.over_training(tree, "v", "arm", {"size": "1"}),
        "where: received 'size'; allowed: ",
    ),
    "label": (
        lambda tree, table: plots.over_training(tree, "v", "arm", {"length": "3"}),
        "length: received '3'; allowed: 0.5, 1; remedy: ",
    ),
    "quantity": (lambda tree, table: plots.over_training(tree, "w", "arm"), "quantity: received 'w'; allowed: v, u"),  # type: ignore[arg-type]
    "source": (
        lambda tree, table: plots.cosines_over_training(tree, "arm", source="rows"),
        "source: received 'rows'; allowed: gram, decomposition",
    ),
    "step": (
        lambda tree, table: plots.affinity_by_start(tree, "arm", "middle"),  # type: ignore[arg-type]
        "step: received 'middle'; allowed: first, last",
    ),
    "at": (
        lambda tree, table: plots.errors_by_length(table, ["v_error"], by="arm", at=3.0),
        "at: received 3.0; allowed: 0.5, 1.0",
    ),
    "metric": (lambda tree, table: plots.grid_heatmap(table, "arm", "length", "fid"), "column: received 'fid'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_there_is_refused(name: str, tree: xr.DataTree, table: pd.DataFrame) -> None:
    draw, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        draw(tree, table)


def test_columns_in_words() -> None:
    assert column_words("v_error_0.9-1_end") == "error of v, t in 0.9-1, last measured"
    assert column_words("cosine_v_0.7-0.9_start") == "cosine of v and u, gaps 0.7-0.9, first measured"
    assert column_words("seconds") == "seconds"


def test_sentences_hold_the_interval_and_the_verdict(found: list[Finding]) -> None:
    text = sentence(found[0])
    assert found[0].effect_text() in text
    assert "supported" in text
    other = Claim("worse is better", "v_error", {"arm": "worse"}, "lower", {"arm": "vanilla"})
    assert "the opposite" in sentence(Finding(other, 3, 0.4, 0.3, 0.5, True, 0.01, 0.01))
    assert sentences(found, "better").count("\n") == 0
    assert sentences(found) == f"* {sentence(found[0])}\n* {sentence(found[1])}"
    with pytest.raises(ValueError, match="starts: received 'O9'; allowed: better is better; a cosine is high"):
        sentences(found, "O9")


def test_every_published_number_has_a_source_and_numbers_that_the_sheet_has() -> None:
    table = published()
    assert set(table.arxiv[table.paper == "Mean Flows"]) == {"2505.13447"}
    assert table.measured_in.ne("").all()
    assert (table.value.notna() | table.direction.ne("")).all()
    row = table[(table.arm == "DTD + beta") & (table.measured_in == "FID, 2 evaluations of u")].iloc[0]
    assert (row.value, row.reference, row.our_arm) == (7.31, 7.85, "dtd + beta")
    exponents = table[table.arm == "k = 1"].set_index("against").reference.to_dict()
    assert exponents == {"k = 0.5": 11.16, "k = 2": 11.44}
    assert sorted(table.value[table.measured_in == "steps of vanilla / steps"]) == [2.1, 2.3, 2.5]
    nothing = beside({})
    missing = nothing[nothing.reason == "the experiment convergence has not been collected"]
    assert len(nothing) == len(table)
    assert list(missing["verdict"]) == ["not comparable"] * 3


def test_ours_stands_beside_the_published(judged: xr.DataTree, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = published()
    asked = rows[
        rows.arm.isin(["MinSNR", "vanilla"]) & (rows.our_arm != "") & (rows.measured_in == "FID, 1 evaluation of u")
    ]
    asked = asked.assign(our_arm=["vanilla", "better"], experiment="small")
    stated = rows[rows.claim == "O1a"].assign(claim="a cosine", experiment="small")
    alone = rows[rows.arm == "AlphaFlow, XL/2+"]
    monkeypatch.setattr(beside_papers, "published", lambda: pd.concat([asked, stated, alone], ignore_index=True))
    table = beside({"small": judged})
    assert list(table.published) == ["vanilla", *["MinSNR against vanilla"] * 2, stated.arm.iloc[0], "AlphaFlow, XL/2+"]
    assert list(table.change)[:3] == ["", "-9%", "-9%"]
    absolute, claimed, look, direction, other = (row for _, row in table.iterrows())
    assert absolute.verdict == other.verdict == "not comparable"
    assert absolute.ours.startswith("fd_u_nfe1 ")
    assert (claimed["our change"], claimed.verdict) == ("-50% [-50%, -50%]", "reproduced")
    assert claimed.ours == "better: one_step_error 0.31"
    assert look.verdict == "reproduced"
    assert look.reason.endswith("a second look, no claim of the experiment")
    assert direction["our change"] == findings(judged)[1].effect_text()
    assert (findings(judged)[1].verdict, direction.verdict) == ("no effect", "not reproduced")
    assert "FID" in other.reason
    open_ended = replace(findings(judged)[0], adjusted=0.5, p_no_effect=1.0)
    verdict = beside_papers._beside(open_ended, study(judged, ["arm", "seed"]))[2]
    assert verdict == "undecided", "too few seeds refute nothing"
