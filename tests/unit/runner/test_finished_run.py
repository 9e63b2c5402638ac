"""Measurements beside earlier ones, and the right to measure."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from dynamics.runner import RunFolder, RunInUseError
from dynamics.runner.measure.finished_run import beside, earlier, still_missing
from dynamics.store import write_run

ABOUT = {"weights": "ema", "num_samples": 8, "evaluation_seed": 0, "extractor_sha256": "e"}


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
    name, before = earlier(folder, "evaluation", ABOUT, 10)
    together = beside(before, (measured(1, 2) + 10).assign_attrs(ABOUT))
    assert name == "evaluation"
    assert together.nfe.values.tolist() == [1, 2, 4]
    assert together.fd.values.tolist() == [[11, 12, 4]], "what is new counts"
    assert together.samples.dtype == np.uint8
    assert together.attrs == ABOUT


def test_what_was_measured_otherwise_has_a_group_of_its_own(folder: RunFolder) -> None:
    assert earlier(folder, "fid", ABOUT, 10) == ("fid", None)
    assert earlier(folder, "evaluation", {**ABOUT, "weights": "model"}, 10) == ("evaluation_n8_seed0_model", None)
    assert beside(None, measured(4, 2)).identical(measured(4, 2))


def test_another_extractor_replaces_nothing_unless_asked(folder: RunFolder) -> None:
    other = {**ABOUT, "extractor_sha256": "f"}
    with pytest.raises(ValueError, match=r"received 'extractor_sha256 f'; allowed: extractor_sha256 e.*--replace"):
        earlier(folder, "evaluation", other, 10)
    assert earlier(folder, "evaluation", other, 10, replace=True) == ("evaluation", None)


def test_what_is_there_is_said_and_left_alone(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    before = earlier(folder, "evaluation", ABOUT, 10)[1]
    assert still_missing(before, "u", (1, 2, 2, 4)) == (1,)
    assert "NFE 2, 4 of u was measured before" in capsys.readouterr().err
    assert still_missing(before, "v", (2,)) == (2,)
    assert still_missing(before, "u", (2,), replace=True) == (2,)


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
