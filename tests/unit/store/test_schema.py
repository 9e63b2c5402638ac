"""What may be stored, and what the errors name."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from dynamics.store import check, encode_attr

GOOD = {"units": "1", "long_name": "loss"}


def one(name: str = "loss", values: object = (1.0,), **attrs: object) -> xr.Dataset:
    return xr.Dataset({name: xr.Variable("step", np.asarray(values), {**GOOD, **attrs})})


def test_a_good_dataset_passes() -> None:
    check(one().assign_coords(step=[3]), "training")
    check(xr.Dataset(), "empty")


@pytest.mark.parametrize("attr", ["units", "long_name"])
@pytest.mark.parametrize("value", ["", 3])
def test_units_and_long_name_are_needed(attr: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"training/loss\.{attr}: .*remedy"):
        check(one(**{attr: value}), "training")


@pytest.mark.parametrize("value", [None, True, np.True_, {"a": 1}])
def test_attributes_netcdf_refuses_are_named(value: object) -> None:
    with pytest.raises(ValueError, match=r"gaps/loss\.extra.*encode_attr"):
        check(one(extra=value), "gaps")
    with pytest.raises(ValueError, match=r"gaps\.extra.*encode_attr"):
        check(one().assign_attrs(extra=value), "gaps")


@pytest.mark.parametrize("name", ["raw/v", "raw v", "run", "seed", "seconds"])
def test_names_that_cannot_be_stored_or_merged(name: str) -> None:
    with pytest.raises(ValueError, match=f"received '{name}'"):
        check(one(name), "training")


def test_a_merged_dataset_may_hold_provenance() -> None:
    check(one().assign_coords(seed=1), "training", merged=True)


def test_a_dimension_may_not_be_called_run() -> None:
    with pytest.raises(ValueError, match="received 'run'"):
        check(one().rename(step="run"), "training")


@pytest.mark.parametrize("values", [np.array(["2020-01-01"], dtype="datetime64[ns]"), np.array([None])])
def test_kinds_that_do_not_round_trip(values: object) -> None:
    with pytest.raises(ValueError, match="training/loss"):
        check(one(values=values), "training")


@pytest.mark.parametrize("group", ["", "a/b", "."])
def test_group_names(group: str) -> None:
    with pytest.raises(ValueError, match="group"):
        check(one(), group)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ""),
        (True, 1),
        (np.False_, 0),
        ({"a": [1, None]}, '{"a": [1, null]}'),
        (Path("/a b"), "/a b"),
        ([1, 2.5], [1, 2.5]),
        (("a", "b"), ["a", "b"]),
        ([True, "a"], '[true, "a"]'),
        (np.arange(2), [0, 1]),
        (2**70, str(2**70)),
        (0.1, 0.1),
    ],
)
def test_encode_attr(value: object, expected: object) -> None:
    result = encode_attr("name", value)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize("value", [object(), {"a": object()}, 1j])
def test_encode_attr_names_what_it_refuses(value: object) -> None:
    with pytest.raises(ValueError, match="'odd'"):
        encode_attr("odd", value)
