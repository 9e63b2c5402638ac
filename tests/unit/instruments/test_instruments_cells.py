"""The observer of cells records what training summed up, as labelled sums."""

import numpy as np
import torch
from builders import recipe, state_of

from dynamics.instruments import CellsOptions
from dynamics.record import QUANTITIES
from dynamics.store.schema import check


def test_the_record_is_the_state_labelled() -> None:
    state, probe = state_of(recipe()), CellsOptions().observer(recipe())
    state.cells += torch.arange(state.cells.numel(), dtype=torch.float64).view_as(state.cells)
    record = probe.measure(state)
    check(record, probe.group)
    assert list(record.data_vars) == list(QUANTITIES)
    for name, sums in zip(QUANTITIES, state.cells, strict=True):
        assert record[name].dims == ("t_bin", "gap_bin")
        np.testing.assert_array_equal(record[name], sums)
        assert "sum over all rows since step 0" in record[name].attrs["long_name"]
    assert record.gap_bin.values.tolist() == [0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95]
    assert record.gap_bin_low.values.tolist() == [0, 0, 0.1, 0.3, 0.5, 0.7, 0.9]
    assert record.gap_bin_high.values.tolist() == [0, 0.1, 0.3, 0.5, 0.7, 0.9, 1]
    assert record.t_bin_low.values.tolist() == [0, 0.1, 0.3, 0.5, 0.7, 0.9]
    state.cells += 1  # a record is of its step, whatever comes later
    assert float(record["count"][0, 0]) == 0


def test_due_at_both_ends_and_every_so_often() -> None:
    probe = CellsOptions(every=50).observer(recipe())
    assert [step for step in range(121) if probe.due(step, 120)] == [0, 50, 100, 120]
