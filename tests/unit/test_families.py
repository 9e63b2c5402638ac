"""Families of options: how members join, how a config names them, and where members of other packages come from."""

import json
import sys
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import ClassVar, Literal

import pytest
from pydantic import Field, ValidationError

from dynamics import options
from dynamics.config import PRESETS, RunConfig
from dynamics.curricula import Beta, Curriculum, GapLaw
from dynamics.data import DataOptions, Digits
from dynamics.flow.times import (
    Blend,
    GapBin,
    LogitNormalPair,
    MaxMinLaw,
    TimeLaw,
    TimesOptions,
    UniformGap,
    UniformPair,
)
from dynamics.instruments import InstrumentOptions
from dynamics.models import MLPOptions, ModelOptions
from dynamics.objectives import FlowMatching, Guidance, MeanFlow, Objective
from dynamics.options import EXTENSIONS_VARIABLE, Family, Options, later

ROOTS = (Curriculum, DataOptions, InstrumentOptions, ModelOptions, Objective, TimeLaw)


class Animal(Family):
    """The root of a family of this file."""

    @abstractmethod
    def legs(self) -> int: ...


class Bird(Animal):
    kind: Literal["bird"] = "bird"
    wings: int = Field(default=2, ge=0)
    colour: str = later("brown")

    def legs(self) -> int:
        return 2


class Hybrid(Animal):
    kind: Literal["hybrid"] = "hybrid"
    front: Animal = Bird()
    back: Animal

    def legs(self) -> int:
        return self.front.legs() // 2 + self.back.legs() // 2


class Unfinished(Animal):
    kind: Literal["unfinished"] = "unfinished"


class Nameless(Animal):
    def legs(self) -> int:
        return 0


class Zoo(Options):
    animals: tuple[Animal, ...] = ()
    star: Animal = Bird(wings=4)


# ---- members --------------------------------------------------------------------------------------------------------


def test_a_class_joins_by_being_defined_and_complete() -> None:
    """Without a kind, or without what the root demands, it is no member; a kind of one family is none of another."""
    assert Animal.members() == {"bird": Bird, "hybrid": Hybrid}
    assert Animal.member("hybrid") is Hybrid
    assert "bird" not in Objective.members()
    for kind in ("unfinished", "nameless", "meanflow", "", None, 3):
        with pytest.raises(
            ValueError, match=r"Animal.kind: received .*; allowed: bird, hybrid; remedy: check its spelling"
        ):
            Animal.member(kind)


def test_members_are_of_the_class_that_is_asked() -> None:
    assert set(MaxMinLaw.members()) == {"logit_normal", "uniform_pair"}
    assert set(MaxMinLaw.members()) < set(TimeLaw.members())
    assert LogitNormalPair().sibling("uniform_gap") is UniformGap
    with pytest.raises(
        ValueError, match=r"TimeLaw.kind: received 'uniform_gap'; allowed: logit_normal, uniform_pair; "
    ):
        MaxMinLaw.member("uniform_gap")


def test_families_of_the_package() -> None:
    expected = {
        Curriculum: {"beta", "constant", "dtd", "gap_law", "min_snr"},
        DataOptions: {"digits", "digits-mixture", "mnist5k", "folder", "npz", "idx", "latents"},
        InstrumentOptions: {"cells", "decomposition", "gaps", "gram", "gram_rows", "lookahead"},
        ModelOptions: {"dit", "mlp"},
        Objective: {"corrupted_meanflow", "flow_matching", "meanflow"},
        TimeLaw: {"gap_bin", "logit_normal", "uniform_gap", "uniform_gap_from_time", "uniform_pair"},
    }
    for root in ROOTS:
        found = {kind for kind, member in root.members().items() if member.__module__.startswith("dynamics.")}
        assert expected[root] <= found, root
        assert all(member.model_fields[root.TAG].default == kind for kind, member in root.members().items())


def test_two_classes_of_one_kind_are_refused() -> None:
    message = (
        r"Animal.kind: received 'bird of .*Parrot'; allowed: a name that .*Bird.* has not taken; remedy: give it a"
    )
    with pytest.raises(ValueError, match=message):

        class Parrot(Animal):
            kind: Literal["bird"] = "bird"

            def legs(self) -> int:
                return 2

    assert Animal.member("bird") is Bird


def test_a_member_may_be_derived_from_but_needs_a_kind_of_its_own() -> None:
    with pytest.raises(ValueError, match=r"Animal.kind: received 'bird of .*Owl'"):

        class Owl(Bird):
            pass


def test_a_module_that_is_imported_again_replaces_its_own_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a notebook does that defines a class twice."""
    monkeypatch.setattr(Animal, "_members", dict(Animal._members))

    def define() -> type[Animal]:
        class Fish(Animal):
            kind: Literal["fish"] = "fish"

            def legs(self) -> int:
                return 0

        return Fish

    first, second = define(), define()
    assert Animal.member("fish") is second is not first


def test_two_families_may_have_a_kind_in_common() -> None:
    class Vehicle(Family):
        TAG: ClassVar[str] = "name"

    class Plane(Vehicle):
        name: Literal["bird"] = "bird"

    assert Vehicle.members() == {"bird": Plane}
    assert Animal.member("bird") is Bird


# ---- configs --------------------------------------------------------------------------------------------------------


def test_a_field_takes_instances_and_json_by_kind() -> None:
    bird = Bird(wings=3)
    zoo = Zoo.model_validate(
        {"animals": [{"kind": "bird", "wings": 1}, bird], "star": {"kind": "hybrid", "back": bird}}
    )
    assert zoo.animals == (Bird(wings=1), bird)
    assert zoo.star == Hybrid(back=bird)
    assert zoo.animals[1] is bird, "what is there already is not validated again"


def test_json_of_nested_members_comes_back() -> None:
    zoo = Zoo(animals=(Hybrid(back=Hybrid(front=Bird(wings=1), back=Bird(colour="red"))), Bird()))
    text = zoo.model_dump_json()
    assert json.loads(text) == {
        "animals": [
            {
                "kind": "hybrid",
                "front": {"kind": "bird", "wings": 2},
                "back": {
                    "kind": "hybrid",
                    "front": {"kind": "bird", "wings": 1},
                    "back": {"kind": "bird", "wings": 2, "colour": "red"},
                },
            },
            {"kind": "bird", "wings": 2},
        ],
        "star": {"kind": "bird", "wings": 4},
    }
    again = Zoo.model_validate_json(text)
    assert again == zoo == Zoo.model_validate(zoo.model_dump()) == Zoo.model_validate(zoo.model_dump(mode="json"))
    assert type(again.animals[0]) is Hybrid
    assert again.model_dump_json() == text


@pytest.mark.parametrize(
    ("star", "message"),
    [
        (
            {"kind": "cat"},
            "Animal.kind: received 'cat'; allowed: bird, hybrid; remedy: check its spelling; a member of .*",
        ),
        ({"wings": 2}, "Animal.kind: received None; allowed: bird, hybrid"),
        ({"kind": "bird", "fins": 2}, "fins"),
        ({"kind": "bird", "wings": -1}, "greater than or equal to 0"),
        ({"kind": "hybrid"}, "back"),
        ({"kind": "hybrid", "back": {"kind": "cat"}}, "Animal.kind: received 'cat'"),
        ("bird", "Animal: received 'bird'; allowed: an object with the key kind"),
        (None, "Animal: received None"),
        (MLPOptions(), "Animal: received MLPOptions"),
    ],
)
def test_what_a_field_refuses(star: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Zoo.model_validate({"star": star})


CONFIGS = {
    **PRESETS,
    "everything": RunConfig(
        data=Digits(),
        model=MLPOptions(depth=2),
        objective=FlowMatching(guidance=Guidance(label_drop_prob=0.2)),
        times=TimesOptions(law=GapBin(base=UniformPair(), low=0.2, high=0.5), gap_share=0.0),
        observers=tuple(member() for member in InstrumentOptions.members().values()),
    ),
    "curricula": RunConfig(curricula=(GapLaw(), Beta(path="rising"))),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_of_a_run_comes_back_from_its_json(name: str) -> None:
    config = CONFIGS[name]
    again = RunConfig.model_validate_json(config.to_json())
    assert again == config
    assert again.run_id == config.run_id
    for field in ("data", "model", "objective"):
        assert type(getattr(again, field)) is type(getattr(config, field))
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


IDS = {
    "digits-meanflow": "f366035e9384",
    "digits-improved": "5137042da5b5",
    "digits-gap-law": "df28d17129f2",
    "digits-flow-matching": "48451293589f",
    "mnist-meanflow": "6aa41b4e5cd5",
    "mixture-meanflow": "3a3dc11ba4c5",
    "b4-improved-minsnr": "4a09e8afe9ab",
    "b4-improved-dtd": "3643310eb166",
    "xl2plus-meanflow": "e6752b45ec4c",
}


def test_run_ids_hold() -> None:
    """A run is known by the hash of its JSON: these are the ids of runs of version 0.1."""
    assert {name: PRESETS[name].run_id for name in IDS} == IDS


def test_a_law_without_a_kind_cannot_be_named_by_a_config() -> None:
    """Curricula make such laws; as part of a config they would not come back."""
    assert Blend not in TimeLaw.members().values()
    with pytest.raises(ValidationError, match=r"TimeLaw.kind: received 'blend'; allowed: logit_normal, uniform_pair"):
        TimesOptions.model_validate({"law": {"kind": "blend", "share": 0.1}})


# ---- other packages -------------------------------------------------------------------------------------------------

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
    for root in ROOTS:
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
