"""The committed results, the experiments that made them, and the page of findings say the same."""

import json
import re
from pathlib import Path

import pytest

from dynamics.analysis import CLAIMS, findings_page
from dynamics.planning.resources import RESOURCES
from dynamics.store import open_results
from dynamics.sweep.grid import experiment, experiments, plan

ROOT = Path(__file__).parents[2]
# a sweep for new machines, a rehearsal of paper scale, and what has to hold before studies of the testbed
NOT_STUDIES = ("seeds_smoke", "final_model", "testbed")
STUDIES = [name for name in experiments("experiments") if name not in NOT_STUDIES]
REPEATED = {
    "component_ablation": ("digits-dit", "mnist5k"),
    "gap_ablation": ("digits-dit", "mnist5k"),
    "task_affinity": ("digits-dit", "mnist5k"),
}
"""Studies that were repeated with a DiT."""
MENDED = {"component_ablation", "gap_ablation", "schedule_exponent", "task_affinity", "velocity_prerequisite"}
"""Studies that were changed after their runs (see LOG.md): their files speak for their own runs and claims."""
WHERE = [(name, "digits") for name in STUDIES]
WHERE += [(name, scale) for name, scales in REPEATED.items() for scale in scales]
# as the command orders them
PATHS = [ROOT / "results" / name / f"{scale}.nc" for name in STUDIES for scale in RESOURCES if (name, scale) in WHERE]


def test_every_study_has_its_files_and_all_are_small() -> None:
    found = {path for path in (ROOT / "results").glob("*/*.nc") if path.stem in RESOURCES}
    assert found == set(PATHS)
    assert sum(path.stat().st_size for path in (ROOT / "results").rglob("*.nc") if _kept(path)) < 25e6


def _kept(path: Path) -> bool:
    return len(path.relative_to(ROOT / "results").parts) == 2


@pytest.mark.parametrize(("name", "scale"), WHERE)
def test_a_file_holds_every_planned_run_and_the_claims_of_its_experiment(name: str, scale: str) -> None:
    tree, which = open_results(ROOT / "results" / name / f"{scale}.nc"), experiment("experiments", name)
    runs = tree["training"].to_dataset()
    claims = CLAIMS.validate_json(tree.attrs["claims"])
    assert ({run.run_id for run in plan(which, scale)} <= set(map(str, runs.run.values))) == (name not in MENDED)
    assert json.loads(tree.attrs["missing"]) == {}
    assert claims == which.claims or (name in MENDED and claims)
    assert tree.attrs["question"] == which.question
    assert not runs.dirty.any(), "made from committed code"


def test_the_page_of_findings_is_what_the_files_say() -> None:
    page = findings_page(open_results(path) for path in PATHS)
    shown = (ROOT / "results" / "FINDINGS.md").read_text(encoding="utf-8")
    assert shown == page, "python -m experiments findings --write results/FINDINGS.md"


def test_every_link_of_the_page_leads_somewhere() -> None:
    text = (ROOT / "results" / "FINDINGS.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert f"\n## {link[1:]}\n" in text if link.startswith("#") else (ROOT / "results" / link).exists(), link
