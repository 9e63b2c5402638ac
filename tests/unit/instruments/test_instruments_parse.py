"""Observers as words: what they mean, and what is said about words that mean nothing."""

import re
from typing import get_args

import pytest
from pydantic import ValidationError

from dynamics.config import RunConfig
from dynamics.instruments import CellsOptions, GapsOptions, ObserverOptions
from dynamics.instruments.parse import KINDS, option_names, parse_observers


def test_words_become_options() -> None:
    words = ["cells", "gaps:every=100,rows_per_bin=32,by_time=true,weights=model,t_edges=0/0.25/1"]
    expected = GapsOptions(every=100, rows_per_bin=32, by_time=True, weights="model", t_edges=(0, 0.25, 1))
    assert parse_observers(words) == (CellsOptions(), expected)


def test_none_is_no_observer() -> None:
    assert parse_observers(["none"]) == ()


def test_every_kind_of_the_union_has_its_word() -> None:
    assert set(KINDS.values()) == set(get_args(get_args(ObserverOptions)[0]))
    for kind, options in KINDS.items():
        assert parse_observers([kind]) == (options(),)
        assert "every" in option_names(kind)
        assert "kind" not in option_names(kind)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gapz"], "observe: received 'gapz'; allowed: gaps, cells, .*or none alone; remedy: write KIND"),
        (["none", "gaps"], "observe: received 'none'; allowed: .*none alone"),
        ([""], "observe: received ''; allowed: gaps"),
        ([], "observe: received .*; allowed: gaps, cells, .*or none; remedy"),
        (["cells:rows=3"], "observe cells: received 'rows=3'; allowed: .* of every; remedy: .*cells:every=100"),
        (["cells:"], "observe cells: received ''"),
        (["cells:every"], "observe cells: received 'every'; allowed: option=value"),
        (["cells:every=1,every=2"], "observe cells: received 'every=2'; allowed: option=value, each option once"),
        (["cells:kind=gaps"], "observe cells: received 'kind=gaps'"),
        (["gaps:t_edges=0.5/0.1"], "t_edges: received"),
    ],
)
def test_words_that_mean_nothing(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_observers(words)


@pytest.mark.parametrize("value", ["0", "often", "1.5", "null", "1/2"])
def test_a_value_of_the_wrong_kind_names_the_option(value: str) -> None:
    with pytest.raises(ValidationError, match=re.escape("gaps.every")):
        parse_observers([f"gaps:every={value}"])


def test_a_config_takes_each_kind_once() -> None:
    message = re.escape("observers: received ['gaps', 'gaps']; allowed: each kind once")
    with pytest.raises(ValueError, match=message):
        RunConfig(observers=(GapsOptions(), GapsOptions(every=7)))
