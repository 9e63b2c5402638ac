"""The README says what there is, and README and site quote what the committed results and benchmarks measured."""

import json
import re
import runpy
from pathlib import Path

from written import EVERYTHING, README, ROOT

import dynamics
import dynamics.analysis
from dynamics.analysis import SEED_SPREAD_EXACT, SEED_SPREAD_FRECHET, metric
from dynamics.config import RunConfig
from dynamics.runner import run

BENCHMARKS = ROOT / "benchmarks" / "results"


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 220


def test_the_readme_names_every_room() -> None:
    told = README.split("## The rooms")[1]
    for path in (ROOT / "dynamics").iterdir():
        if path.name[0] != "_" and (path.suffix == ".py" or (path / "__init__.py").is_file()):
            assert f"`{path.stem}{'' if path.suffix else '/'}`" in told, path.name


def test_the_summary_of_findings_is_that_of_the_table() -> None:
    summary = README.split("## Findings")[1].split("## The rooms")[0]
    table = (ROOT / "results" / "FINDINGS.md").read_text()
    effects = re.findall(r"[-+x][\d.]+%? \[[^\]]+\]", summary)
    assert len(effects) >= 8
    for effect in effects:
        assert effect in table, effect


def test_the_picture_can_be_drawn_again() -> None:
    drawn = runpy.run_path(str(ROOT / "docs" / "picture.py"))
    committed = drawn["PICTURE"]
    assert f"({committed.relative_to(ROOT)})" in README
    assert committed.stat().st_size < 200_000
    assert drawn["picture"]().size > (800, 400)


def test_the_python_of_the_readme(tiny: RunConfig, tmp_path: Path) -> None:
    run(tiny, tmp_path / "demo" / "digits-meanflow", progress=False)
    block = next(b for b in re.findall(r"(?:^    .+\n)+", README, flags=re.MULTILINE) if "import dynamics" in b)
    code = "\n".join(line[4:] for line in block.splitlines()).replace("results/demo", str(tmp_path / "demo"))
    names: dict[str, object] = {}
    exec(code, names)
    assert callable(names["u"])
    assert set(dynamics.open_results(tmp_path / "demo").children) == {"training", "gaps", "cells"}


def test_the_figures_of_demo_and_step_are_those_of_the_committed_results() -> None:
    evaluation = dynamics.open_results(ROOT / "results" / "digits_demo")["evaluation"].to_dataset()
    shares = evaluation.accuracy.sel(field="u", nfe=1).values
    assert len(shares) == 3
    for share in shares:
        assert f"{share:.1%}" in EVERYTHING
    assert f"Of {evaluation.num_samples} samples" in EVERYTHING
    assert float(shares.min()) >= 0.97
    seeds = json.loads((BENCHMARKS / "seed_spread.json").read_text())["metrics"]
    values = seeds["accuracy_u_nfe1"]["values"]
    assert f"{min(values):.1%} to {max(values):.1%}" in EVERYTHING
    measured = json.loads((BENCHMARKS / "step_cost.json").read_text())["models"]["small"]
    for scheme, text in (("ours", "ours"), ("ours_guided", "ours with guidance (kappa > 0)")):
        assert f"| **{text}** |" in EVERYTHING
        assert f"**{measured['schemes'][scheme]['ratio']:.2f}**" in EVERYTHING
    plain, guided = (measured["schemes"][scheme]["ratio"] for scheme in ("ours", "ours_guided"))
    assert f"{plain:.2f} times a flow-matching step of the same rows, with guidance {guided:.2f}" in EVERYTHING


def test_the_figures_at_paper_scale_are_those_of_the_committed_benchmarks() -> None:
    steps = json.loads((BENCHMARKS / "paper_step.json").read_text())["settings"]
    b4, xl2 = (
        (f"{s['step_seconds']:.1f} s and {s['measured_gb']:.2f} GB where {s['estimated_gb']:.2f} were", s)
        for s in (steps["b4"], steps["xl2"])
    )
    for text, found in (b4, xl2):
        assert text in EVERYTHING
        assert abs(found["estimated_over_measured"] - 1) < 0.15
    loader = json.loads((BENCHMARKS / "latent_loader.json").read_text())
    rates, name = loader["rows_per_second"], "rank of 8"
    assert f"draws {rates[f'{name} warm']:,.0f} rows" in EVERYTHING
    assert f"{loader['over_demand'][f'{name} warm']:.2f} of what 8 H100s" in EVERYTHING
    assert f"{rates[f'{name} cold']:,.0f} from this machine's disk" in EVERYTHING


def test_the_spread_over_seeds_is_the_measured_one() -> None:
    measured = json.loads((BENCHMARKS / "seed_spread.json").read_text())["metrics"]
    for spread, title in ((SEED_SPREAD_EXACT, "exact error"), (SEED_SPREAD_FRECHET, "Frechet distance")):
        largest = max(found["spread"] for name, found in measured.items() if metric(name).title.startswith(title))
        assert 0 <= spread - largest < 0.01


def test_the_instruments_figures_are_those_of_the_committed_results() -> None:
    cost = json.loads((BENCHMARKS / "gram_cost.json").read_text())["settings"]
    assert f"{cost['digits']['schemes']['exact']['ratio']:.2f} times ordinary passes" in EVERYTHING
    assert f"one pass per task and split: {cost['digits']['schemes']['loop']['ratio']:.2f}" in EVERYTHING
    sketch = cost["b4"]["schemes"]["sketch"]
    assert f"and {sketch['ratio']:.2f} times on DiT-B/4" in EVERYTHING
    assert f"{sketch['cpu_seconds_median']:.0f} s of CPU time" in EVERYTHING
    assert f"no cosine by more than {cost['b4']['agreement']['largest_deviation_of_a_cosine']:.3f}" in EVERYTHING
    assert f"single rows costs {cost['digits']['single_rows']['per_row']['ratio']:.1f} ordinary passes" in EVERYTHING
    memory = json.loads((BENCHMARKS / "gram_memory.json").read_text())["settings"]["b4"]
    assert f"{memory['peak_mb_above']['sketch']:.0f} MB beyond the network" in EVERYTHING
    assert memory["peak_mb_above"]["sketch"] < 2 * memory["gradient_mb"]
    shares = json.loads((BENCHMARKS / "observation_cost.json").read_text())["combined_share"]
    assert f"{shares['losses of every step and a Gram every 500']:.1%} of the CPU time" in EVERYTHING


def test_the_figures_of_bookkeeping_are_those_of_the_committed_result() -> None:
    rows = json.loads((BENCHMARKS / "sweep_bookkeeping.json").read_text())["runs"]
    most = rows["2000"]
    said = f"`plan` {most['plan']['seconds']:.1f} s, `status` {most['status']['seconds']:.1f} s"
    assert f"{said} and `collect` {most['collect']['seconds']:.0f} s" in EVERYTHING
    memory = [rows[number]["collect"]["peak_memory_mb"] for number in ("500", "1000", "2000")]
    assert f"{memory[0]:.0f}, {memory[1]:.0f} and {memory[2]:.0f} MB" in EVERYTHING
    assert f"once takes {most['floor']['read_all_seconds']:.0f} s" in EVERYTHING


def test_the_naive_cosines_are_those_of_the_committed_result() -> None:
    fresh = json.loads((ROOT / "results" / "naive_cosine" / "summary.json").read_text())["fresh"]
    pair = fresh["v and u 0.5-0.7"]

    def said(values: list[float]) -> str:
        first, second, third = (f"{value:.2f}" for value in values)
        return f"{first}, {second} and {third}"

    naive, independent = said(pair["naive_cosine"]), said(pair["naive_independent"])
    assert f"share say {naive}; batches of different rows {independent}" in EVERYTHING
    assert f"cosine {pair['cosine'][-1]:.2f} (standard error {pair['cosine_sem'][-1]:.2f}" in EVERYTHING
    smallest = min(row["p_value_of_equal_cosines"] for row in fresh.values())
    assert f"smallest p-value of equality {smallest:.2f}" in EVERYTHING
    assert smallest > 0.05 / len(fresh)  # flat, with ten pairs looked at
