"""Members of families as words of a command line: what they mean, and what is said about words that mean nothing."""

import re

import pytest
import tyro
from pydantic import ValidationError

from dynamics.cli.words import kinds_text, option_names, parse_members, switched, switches
from dynamics.config import RunConfig
from dynamics.curricula import DTD, Beta, Curriculum, GapLaw
from dynamics.data import Digits, DigitsMixture, Npz
from dynamics.flow.times import LogitNormalPair, UniformPair
from dynamics.instruments import CellsOptions, GapsOptions, InstrumentOptions
from dynamics.models import MLPOptions
from dynamics.objectives import FlowMatching
from dynamics.options import Family
from dynamics.presets import PRESETS

FLAGS = {"observe": InstrumentOptions, "curriculum": Curriculum}
CONFIG = PRESETS["digits-meanflow"]


def test_words_become_observers() -> None:
    words = ["cells", "gaps:every=100,rows_per_bin=32,by_time=true,weights=model,t_edges=0/0.25/1"]
    expected = GapsOptions(every=100, rows_per_bin=32, by_time=True, weights="model", t_edges=(0, 0.25, 1))
    assert parse_members("observe", InstrumentOptions, words) == (CellsOptions(), expected)


def test_only_what_takes_several_values_is_split() -> None:
    """A path among the options of a member keeps its slashes."""

    class Root(Family):
        pass

    class Member(Root):
        kind: str = "member"
        path: str | None = None
        edges: tuple[float, ...] | None = None

    found = parse_members("observe", Root, ["member:path=a/b/c,edges=0/1"])
    assert found == (Member(path="a/b/c", edges=(0.0, 1.0)),)


def test_words_become_curricula_in_their_order() -> None:
    words = ["gap_law:share_to=0.7,gap_share_to=null", "beta:k=2,path=rising", "dtd:order=clean_first", "beta"]
    expected = (GapLaw(share_to=0.7), Beta(k=2, path="rising"), DTD(order="clean_first"), Beta())
    assert parse_members("curriculum", Curriculum, words) == expected


@pytest.mark.parametrize(("flag", "root"), FLAGS.items())
def test_none_is_no_member(flag: str, root: type[Family]) -> None:
    assert parse_members(flag, root, ["none"]) == ()


@pytest.mark.parametrize(("flag", "root"), FLAGS.items())
def test_every_kind_of_the_family_has_its_word(flag: str, root: type[Family]) -> None:
    assert {"gaps", "gram"} < set(root.members()) or {"beta", "dtd"} < set(root.members())
    for kind, member in root.members().items():
        assert parse_members(flag, root, [kind]) == (member(),)
        assert root.TAG not in option_names(member)
        if root is InstrumentOptions:
            assert "every" in option_names(member)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gapz"], "observe: received 'gapz'; allowed: gaps, cells, .*or none alone; remedy: write KIND"),
        (["none", "gaps"], "observe: received 'none'; allowed: .*none alone"),
        ([""], "observe: received ''; allowed: .*gaps"),
        ([], "observe: received .*; allowed: .*gaps, .*or none; remedy"),
        (
            ["cells:rows=3"],
            "observe cells: received 'rows=3'; allowed: .* of every; remedy: .*--help for those of cells",
        ),
        (["cells:"], "observe cells: received ''"),
        (["cells:every"], "observe cells: received 'every'; allowed: option=value"),
        (["cells:every=1,every=2"], "observe cells: received 'every=2'; allowed: option=value, each option once"),
        (["cells:kind=gaps"], "observe cells: received 'kind=gaps'"),
        (["gaps:t_edges=0.5/0.1"], "t_edges: received"),
    ],
)
def test_words_that_mean_nothing(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_members("observe", InstrumentOptions, words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gaps"], "curriculum: received 'gaps'; allowed: .*beta, .*dtd, .*or none alone; remedy: write KIND"),
        ([], "curriculum: received .*; allowed: .*beta, .*or none; remedy"),
        (["beta:s=1"], "curriculum beta: received 's=1'; allowed: option=value, each option once, of k, path; remedy"),
        (["gap_law:start=0.9,end=0.1"], "gap_law.start: received 0.9"),
    ],
)
def test_words_that_are_no_curricula(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_members("curriculum", Curriculum, words)


@pytest.mark.parametrize("value", ["0", "often", "1.5", "null", "1/2"])
def test_a_value_of_the_wrong_kind_names_the_option(value: str) -> None:
    with pytest.raises(ValidationError, match=re.escape("gaps.every")):
        parse_members("observe", InstrumentOptions, [f"gaps:every={value}"])


def test_a_config_takes_each_observer_once() -> None:
    message = re.escape("observers: received ['gaps', 'gaps']; allowed: each kind once")
    with pytest.raises(ValueError, match=message):
        RunConfig(observers=(GapsOptions(), GapsOptions(every=7)))


# ---- switches -------------------------------------------------------------------------------------------------------


def test_switches_are_the_families_of_one_member_each() -> None:
    assert list(switches()) == ["--data.name", "--model.kind", "--objective.kind", "--times.law.kind"]


@pytest.mark.parametrize("form", ["apart", "joined"])
@pytest.mark.parametrize(
    ("flag", "kind", "expected"),
    [
        ("--data.name", "digits-mixture", {"data": DigitsMixture()}),
        ("--model.kind", "mlp", {"model": MLPOptions()}),
        ("--objective.kind", "flow_matching", {"objective": FlowMatching()}),
        ("--times.law.kind", "uniform_pair", {"times": CONFIG.times.model_copy(update={"law": UniformPair()})}),
    ],
)
def test_a_switch_takes_another_member_at_its_own_defaults(
    flag: str, kind: str, expected: dict[str, object], form: str
) -> None:
    argv = [flag, kind] if form == "apart" else [f"{flag}={kind}"]
    found = switched(CONFIG, ["digits-meanflow", "--out", "x", *argv, "--seed", "3"])
    assert found == CONFIG.model_copy(update=expected), "all else stays, and other options are none of its business"
    place = next(iter(expected))
    assert type(getattr(found, place)) is type(expected[place])


def test_a_switch_to_what_is_there_changes_nothing() -> None:
    """The preset's values stay: its guidance and its mean of times are not those of the defaults."""
    config = CONFIG.model_copy(update={"times": CONFIG.times.model_copy(update={"law": LogitNormalPair(mean=0.3)})})
    argv = ["--objective.kind", "meanflow", "--times.law.kind", "logit_normal", "--model.kind=dit"]
    assert switched(config, argv) == config
    assert switched(config, []) is config


def test_several_switches() -> None:
    found = switched(CONFIG, ["--model.kind", "mlp", "--data.name", "digits-mixture", "--times.law.kind=uniform_gap"])
    assert (found.model.kind, found.data.name, found.times.law.kind) == ("mlp", "digits-mixture", "uniform_gap")
    assert found.objective == CONFIG.objective


def test_what_a_member_demands_is_left_for_the_command_line_to_give() -> None:
    found = switched(CONFIG, ["--times.law.kind", "uniform_gap_from_time"])
    assert found.times.law.t_min is tyro.MISSING
    assert switched(CONFIG, ["--data.name", "npz"]).data.name == "npz"
    assert isinstance(switched(CONFIG, ["--data.name", "npz"]).data, Npz)
    assert isinstance(CONFIG.data, Digits), "the preset itself is left alone"


@pytest.mark.parametrize("flag", ["--data.name", "--model.kind", "--objective.kind", "--times.law.kind"])
def test_an_unknown_kind_is_refused_with_those_there_are(flag: str) -> None:
    root = switches()[flag]
    known = next(iter(root.members()))
    with pytest.raises(ValueError, match=rf"{flag}: received 'mean_flow'; allowed: .*{known}.*; remedy"):
        switched(CONFIG, [flag, "mean_flow"])


def test_help_names_every_kind_and_the_options_of_words() -> None:
    text = kinds_text()
    for root in (*FLAGS.values(), *switches().values()):
        for kind in root.members():
            assert kind in text, f"{kind} of {root.__name__}"
    assert "gap_law: share_from, share_to, start, end, gap_share_to" in text
    assert "--times.law.kind takes: " in text
