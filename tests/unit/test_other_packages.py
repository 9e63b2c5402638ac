"""Members of families that come from other packages: how they are found, and what their runs are known by."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from pydantic import ValidationError

from dynamics import options
from dynamics.config import RunConfig
from dynamics.curricula import Curriculum
from dynamics.objectives import MeanFlow, Objective
from dynamics.options import EXTENSIONS_VARIABLE
from dynamics.presets import PRESETS

MODULE = """
    from typing import Literal

    from pydantic import Field
    from dynamics.curricula import Curriculum, Plan, Progress, State
    from dynamics.objectives import MeanFlow
    from dynamics.options import later


    class Ours(MeanFlow):
        kind: Literal["ours"] = "ours"
        strength: float = Field(default=0.5, gt=0)
        new: int = later(0)


    class Still(Curriculum):
        kind: Literal["still"] = "still"

        def apply(self, plan: Plan, progress: Progress, state: State) -> Plan:
            return plan
"""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with a module of members; nothing of it stays."""
    (tmp_path / "ours_of_tests.py").write_text(dedent(MODULE))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(EXTENSIONS_VARIABLE, raising=False)
    for root in (Curriculum, Objective):
        monkeypatch.setattr(root, "_members", dict(root._members))
    options._load_extensions.cache_clear()
    yield tmp_path
    for name in ("ours_of_tests", "broken_of_tests"):
        sys.modules.pop(name, None)
    options._load_extensions.cache_clear()


@pytest.fixture(params=["variable", "entry point"])
def extended(request: pytest.FixtureRequest, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That module, named by the variable or by an installed package."""
    assert "ours" not in Objective.members()
    options._load_extensions.cache_clear()
    if request.param == "variable":
        monkeypatch.setenv(EXTENSIONS_VARIABLE, "json,ours_of_tests,")
        return
    info = elsewhere / "ours_of_tests-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ours-of-tests\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[dynamics.extensions]\nmine = ours_of_tests\n")


@pytest.mark.usefixtures("extended")
def test_members_of_other_packages_join_when_they_are_looked_for() -> None:
    assert "ours_of_tests" not in sys.modules
    assert Objective.member("ours").__module__ == "ours_of_tests"
    assert Curriculum.member("still")().kind == "still"
    assert "ours_of_tests" in sys.modules


@pytest.mark.usefixtures("extended")
def test_runs_of_members_of_other_packages_have_ids_too() -> None:
    before = {name: config.run_id for name, config in PRESETS.items()}
    content = {"objective": {"kind": "ours", "strength": 0.7}, "curricula": [{"kind": "still"}, {"kind": "beta"}]}
    config = RunConfig.model_validate(content)
    again = RunConfig.model_validate_json(config.to_json())
    assert again == config
    assert again.run_id == config.run_id == RunConfig.model_validate_json(config.model_dump_json()).run_id
    assert json.loads(config.to_json())["objective"] == {
        **json.loads(RunConfig(objective=MeanFlow()).to_json())["objective"], "kind": "ours", "strength": 0.7
    }  # fmt: skip
    others = [{"strength": 0.8}, {"new": 1}, {"kind": "meanflow"}]
    ids = {RunConfig(objective=_like(config.objective, change)).run_id for change in ({}, *others)}
    assert len(ids) == 4
    assert {name: preset.run_id for name, preset in PRESETS.items()} == before, "those of others stay"


def _like(objective: Objective, change: dict[str, object]) -> Objective:
    if change == {"kind": "meanflow"}:
        return MeanFlow()
    return objective.model_copy(update=change)


def test_a_config_alone_imports_nothing(elsewhere: Path) -> None:
    """A file of results may come from anybody."""
    with pytest.raises(ValidationError, match="named in DYNAMICS_EXTENSIONS"):
        RunConfig.model_validate({"objective": {"kind": "ours_of_tests"}})
    with pytest.raises(ValidationError, match=r"Objective.kind: received 'ours'"):
        RunConfig.model_validate({"objective": {"kind": "ours"}})
    assert "ours_of_tests" not in sys.modules


def test_a_module_that_is_not_there_is_named(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EXTENSIONS_VARIABLE, "ours_of_test")
    message = "DYNAMICS_EXTENSIONS: received 'ours_of_test'; allowed: modules that Python can import; remedy: put its"
    for _ in range(2):  # the failure is not remembered as success
        with pytest.raises(ValueError, match=message):
            Objective.members()
    monkeypatch.setenv(EXTENSIONS_VARIABLE, "ours_of_test.objectives")
    with pytest.raises(ValueError, match=r"DYNAMICS_EXTENSIONS: received 'ours_of_test.objectives'"):
        Objective.members()
    monkeypatch.setenv(EXTENSIONS_VARIABLE, "json, ours_of_tests")
    assert "ours" in Objective.members()


def test_an_error_inside_an_extension_is_its_own(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "broken_of_tests.py").write_text("import a_module_that_nobody_has")
    monkeypatch.setenv(EXTENSIONS_VARIABLE, "broken_of_tests")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_nobody_has"):
        Objective.members()
