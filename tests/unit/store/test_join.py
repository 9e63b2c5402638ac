"""Datasets that are alike are stacked directly; the twin is xarray's own concatenation."""

import numpy as np
import pytest
import xarray as xr

from dynamics.store import join as room


def part(seed: int, steps: tuple[int, ...] = (1, 2)) -> xr.Dataset:
    random = np.random.default_rng(seed)
    attrs = {"units": "1", "long_name": f"of {seed}"}
    size = len(steps)
    return xr.Dataset(
        {
            "loss": ("step", random.normal(size=size), attrs),
            "count": (("step", "bin"), random.integers(9, size=(size, 3)), attrs),
            "label": ("step", np.array([f"{'x' * seed}"] * size), attrs),
            "flag": ((), bool(seed % 2), attrs),
        },
        {
            "step": ("step", list(steps), {"units": "step"}),
            "low": ("bin", [0.0, 0.1, np.nan], {"units": "1"}),
            "name": ("bin", ["a", "b", "c"]),
        },
        {"every": 5, "of": seed},
    )


@pytest.mark.parametrize("attrs", ["override", lambda parts, context=None: {"n": len(parts), **parts[-1]}])
def test_stacking_is_concatenation(attrs: room.CombineAttrs) -> None:
    parts = [part(2), part(2), part(2)]
    parts[1]["loss"] += 1
    parts[2]["flag"] = parts[2]["flag"].copy(data=True)
    along = xr.DataArray(["a", "b", "c"], dims="run", name="run", attrs={"long_name": "run"})
    assert not room._alike([*parts[:2], parts[2].assign_coords(step=[1, 3])])
    assert not room._alike([*parts[:2], parts[2].drop_vars("flag")])
    assert not room._alike([parts[0], part(1)]), "strings of other lengths"
    # a coordinate with NaN counts as different, which is only slower
    parts = [p.assign_coords(low=("bin", [0.0, 0.1, 0.2], {"units": "1"})) for p in parts]
    assert room._alike(parts)
    ours, theirs = room._stacked(parts, along, attrs), room._concatenated(parts, along, attrs)
    xr.testing.assert_identical(ours, theirs)
    assert {n: v.dtype for n, v in ours.variables.items()} == {n: v.dtype for n, v in theirs.variables.items()}
    assert set(ours.indexes) == set(theirs.indexes)


def test_parts_that_differ_are_joined_by_their_labels() -> None:
    joined = room.join([part(1), part(2, (2, 3))], xr.DataArray([0, 1], dims="run", name="run"), "override")
    assert joined.loss.shape == (2, 3)
    assert np.isnan(joined.loss.values[0, 2])
    assert joined.label.values[1].tolist() == ["", "xx", "xx"]
