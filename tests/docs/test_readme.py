"""The README's commands exist, with every flag it shows, and its Python runs on a real (tiny) run."""

import json
import re
import shlex
from pathlib import Path

import pytest

import dynamics
import dynamics.analysis
from dynamics import cli
from dynamics.analysis import metric
from dynamics.cli.experiments import main as sweeps
from dynamics.cli.sweep_commands import VERBS
from dynamics.config import RunConfig
from dynamics.runner import run

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [line.split("#")[0].split() for line in re.findall(r"^    (dynamics .+)$", README, flags=re.MULTILINE)]


def test_there_are_commands_to_check() -> None:
    assert {words[1] for words in COMMANDS} == set(cli.COMMANDS)


@pytest.mark.parametrize("words", COMMANDS, ids=shlex.join)
def test_every_flag_of_a_readme_command_is_in_its_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    preset = words[2:3] if words[1] == "train" else []
    with pytest.raises(SystemExit) as stop:
        cli.main([words[1], *preset, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for flag in (word for word in words if word.startswith("--")):
        assert flag in shown, flag


SWEEPS = [
    line.split("#")[0].split()[3:]
    for line in re.findall(r"^    (python -m experiments .+)$", README, flags=re.MULTILINE)
]


ALONE = {"list", "findings"}
"""Words that need no experiment."""


def test_every_verb_of_sweeps_is_shown() -> None:
    assert {words[1] for words in SWEEPS if words[0] not in ALONE} == set(VERBS)
    assert {words[0] for words in SWEEPS if words[0] in ALONE} == ALONE


@pytest.mark.parametrize("words", [words for words in SWEEPS if words != ["list"]], ids=shlex.join)
def test_every_flag_of_a_sweeps_command_is_in_its_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        sweeps("experiments", [*(words[:1] if words[0] in ALONE else words[:2]), "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for flag in (word for word in words if word.startswith("--")):
        assert flag in shown, flag


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_linked_file_is_there() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_python_of_the_readme(tiny: RunConfig, tmp_path: Path) -> None:
    run(tiny, tmp_path / "demo" / "digits-meanflow", progress=False)
    block = next(b for b in re.findall(r"(?:^    .+\n)+", README, flags=re.MULTILINE) if "import dynamics" in b)
    code = "\n".join(line[4:] for line in block.splitlines()).replace("results/demo", str(tmp_path / "demo"))
    names: dict[str, object] = {}
    exec(code, names)
    assert callable(names["u"])
    assert set(dynamics.open_results(tmp_path / "demo").children) == {"training", "gaps", "cells"}


def test_the_figures_of_the_readme_are_those_of_the_committed_results() -> None:
    evaluation = dynamics.open_results(ROOT / "results" / "digits_demo")["evaluation"].to_dataset()
    shares = evaluation.accuracy.sel(field="u", nfe=1).values
    assert len(shares) == 3
    for share in shares:
        assert f"{share:.1%}" in README
    assert f"Of {evaluation.num_samples} samples" in README
    assert float(shares.min()) >= 0.97
    seeds = json.loads((ROOT / "benchmarks" / "results" / "seed_spread.json").read_text())["metrics"]
    values = seeds["accuracy_u_nfe1"]["values"]
    assert f"{min(values):.1%} to {max(values):.1%}" in README
    measured = json.loads((ROOT / "benchmarks" / "results" / "step_cost.json").read_text())["models"]["small"]
    for scheme, text in (("ours", "ours"), ("ours_guided", "ours with guidance (kappa > 0)")):
        assert f"| **{text}** |" in README
        assert f"**{measured['schemes'][scheme]['ratio']:.2f}**" in README


def test_the_figures_at_paper_scale_are_those_of_the_committed_benchmarks() -> None:
    results = ROOT / "benchmarks" / "results"
    steps = json.loads((results / "paper_step.json").read_text())["settings"]
    b4, xl2 = (
        (f"{s['step_seconds']:.1f} s and {s['measured_gb']:.2f} GB where {s['estimated_gb']:.2f} were", s)
        for s in (steps["b4"], steps["xl2"])
    )
    for text, found in (b4, xl2):
        assert text in README
        assert abs(found["estimated_over_measured"] - 1) < 0.15
    loader = json.loads((results / "latent_loader.json").read_text())
    rates, name = loader["rows_per_second"], "rank of 8"
    assert f"draws {rates[f'{name} warm']:,.0f} rows" in README
    assert f"{loader['over_demand'][f'{name} warm']:.2f} of what 8 H100s" in README
    assert f"{rates[f'{name} cold']:,.0f} from this machine's disk" in README


def test_the_yardstick_of_comparisons_is_the_measured_spread_over_seeds() -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "seed_spread.json").read_text())["metrics"]
    largest: dict[float, float] = {}
    for name, found in measured.items():
        spread = metric(name).spread
        if spread is not None:
            largest[spread] = max(largest.get(spread, 0.0), found["spread"])
    assert len(largest) == 4
    for spread, found in largest.items():
        assert 0 <= spread - found < 0.01


def test_the_instruments_figures_are_those_of_the_committed_results() -> None:
    results = ROOT / "benchmarks" / "results"
    cost = json.loads((results / "gram_cost.json").read_text())["settings"]
    assert f"{cost['digits']['schemes']['exact']['ratio']:.2f} times ordinary passes" in README
    assert f"one pass per task and split: {cost['digits']['schemes']['loop']['ratio']:.2f}" in README
    sketch = cost["b4"]["schemes"]["sketch"]
    assert f"and {sketch['ratio']:.2f}\ntimes on DiT-B/4" in README
    assert f"{sketch['cpu_seconds_median']:.0f} s of CPU time" in README
    assert f"no cosine by more than {cost['b4']['agreement']['largest_deviation_of_a_cosine']:.3f}" in README
    assert f"single rows costs {cost['digits']['single_rows']['per_row']['ratio']:.1f} ordinary passes" in README
    memory = json.loads((results / "gram_memory.json").read_text())["settings"]["b4"]
    assert f"{memory['peak_mb_above']['sketch']:.0f} MB beyond the network" in README
    assert memory["peak_mb_above"]["sketch"] < 2 * memory["gradient_mb"]
    shares = json.loads((results / "observation_cost.json").read_text())["combined_share"]
    assert f"{shares['losses of every step and a Gram every 500']:.1%} of the CPU time" in README


def test_the_figures_of_bookkeeping_are_those_of_the_committed_result() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "sweep_bookkeeping.json").read_text())["runs"]
    text = " ".join(README.split())
    most = rows["2000"]
    said = f"`plan` {most['plan']['seconds']:.1f} s, `status` {most['status']['seconds']:.1f} s"
    assert f"{said} and `collect` {most['collect']['seconds']:.0f} s" in text
    memory = [rows[number]["collect"]["peak_memory_mb"] for number in ("500", "1000", "2000")]
    assert f"{memory[0]:.0f}, {memory[1]:.0f} and {memory[2]:.0f} MB" in text
    assert f"once takes {most['floor']['read_all_seconds']:.0f} s" in text


def test_the_naive_cosines_of_the_readme_are_those_of_the_committed_result() -> None:
    fresh = json.loads((ROOT / "results" / "naive_cosine" / "summary.json").read_text())["fresh"]
    pair = fresh["v and u 0.5-0.7"]
    text = " ".join(README.split())

    def said(values: list[float]) -> str:
        first, second, third = (f"{value:.2f}" for value in values)
        return f"{first}, {second} and {third}"

    assert (
        f"share say {said(pair['naive_cosine'])}; batches of different rows {said(pair['naive_independent'])}" in text
    )
    assert f"cosine {pair['cosine'][-1]:.2f} (standard error {pair['cosine_sem'][-1]:.2f}" in text
    smallest = min(row["p_value_of_equal_cosines"] for row in fresh.values())
    assert f"smallest p-value of equality {smallest:.2f}" in text
    assert smallest > 0.05 / len(fresh)  # flat, with ten pairs looked at
