"""Measurements beside earlier ones, and the right to measure."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from dynamics.runner import RunFolder, RunInUseError
from dynamics.runner.measure.finished_run import beside, earlier
from dynamics.store import write_run

ABOUT = {"weights": "ema", "num_samples": 8}


def measured(*nfe: int) -> xr.Dataset:
    attrs = {"units": "1", "long_name": "distance"}
    pictures = np.full((1, len(nfe), 2), 7, dtype=np.uint8)
    return xr.Dataset(
        {
            "fd": (("field", "nfe"), np.array([nfe], dtype=float), attrs),
            "samples": (("field", "nfe", "pixel"), pictures, {"units": "1", "long_name": "pictures"}),
        },
        {"nfe": list(nfe), "field": ["u"]},
        attrs=ABOUT,
    )


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    write_run(tmp_path / "run.nc", {"evaluation": measured(4, 2)}, {"run_id": "a"})
    return RunFolder(tmp_path)


def test_settings_lie_beside_each_other(folder: RunFolder) -> None:
    before = earlier(folder, "evaluation", ABOUT)
    together = beside(before, (measured(1, 2) + 10).assign_attrs(ABOUT))
    assert together.nfe.values.tolist() == [1, 2, 4]
    assert together.fd.values.tolist() == [[11, 12, 4]], "what is new counts"
    assert together.samples.dtype == np.uint8
    assert together.attrs == ABOUT


def test_what_was_measured_otherwise_is_passed_over(folder: RunFolder) -> None:
    assert earlier(folder, "fid", ABOUT) is None
    with pytest.warns(UserWarning, match="the earlier group evaluation had another weights and is replaced"):
        assert earlier(folder, "evaluation", {**ABOUT, "weights": "model"}) is None
    assert beside(None, measured(4, 2)).identical(measured(4, 2))


def test_one_process_at_a_time(folder: RunFolder) -> None:
    with folder.held("evaluation", "evaluating"):
        with (
            pytest.raises(RunInUseError, match="a run that no other process is evaluating"),
            folder.held("evaluation", "evaluating"),
        ):
            pass
        with folder.held("probe", "measuring"):
            pass
    with folder.held("evaluation", "evaluating"):
        pass
