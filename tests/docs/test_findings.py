"""The committed results, the experiments that made them, and the table in the README say the same."""

import json
from pathlib import Path

import pytest

from dynamics.analysis import findings_table
from dynamics.analysis.claims import CLAIMS
from dynamics.store import open_results
from dynamics.sweep.grid import experiment, experiments, plan

ROOT = Path(__file__).parents[2]
FILES = sorted(ROOT.glob("results/*/digits.nc"))
NOT_YET = {"seeds_smoke", "schedule_exponent", "convergence", "guidance_grid"}
"""A sweep for new machines, and three studies that are planned and not run; the README says so."""
STUDIES = [name for name in experiments("experiments") if name not in NOT_YET]


def test_every_study_has_its_file_and_all_are_small() -> None:
    assert [path.parent.name for path in FILES] == STUDIES
    assert not [path for name in NOT_YET for path in FILES if path.parent.name == name]
    assert sum(path.stat().st_size for path in (ROOT / "results").rglob("*.nc") if _kept(path)) < 20e6


def _kept(path: Path) -> bool:
    return len(path.relative_to(ROOT / "results").parts) == 2


@pytest.mark.parametrize("name", STUDIES)
def test_a_file_holds_every_planned_run_and_the_claims_of_its_experiment(name: str) -> None:
    tree, which = open_results(ROOT / "results" / name / "digits.nc"), experiment("experiments", name)
    runs = tree["training"].to_dataset()
    assert {run.run_id for run in plan(which, "digits")} <= set(map(str, runs.run.values))
    assert json.loads(tree.attrs["missing"]) == {}
    assert CLAIMS.validate_json(tree.attrs["claims"]) == which.claims
    assert tree.attrs["question"] == which.question
    assert not runs.dirty.any(), "made from committed code"


def test_the_table_in_the_readme_is_what_the_files_say() -> None:
    text = (ROOT / "README.md").read_text()
    shown = text.split("<!-- findings -->\n")[1].split("\n<!-- end of findings -->")[0]
    table = findings_table({path.parent.name: open_results(path) for path in FILES})
    assert shown == table, "python -m experiments findings --write README.md"
