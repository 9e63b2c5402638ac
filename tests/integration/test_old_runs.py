"""Run folders of version 0.1, written before the middle was rebuilt: they open, go on to the same end, and report."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from dynamics import load_model, open_results
from dynamics.config import RunConfig
from dynamics.runner import run

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "runs_of_0.1.tar.xz"
RUN_ID = "5e1b083fe9d0"
NOT_OF_THE_MATHEMATICS = {"step_seconds"}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """`finished`, and `halfway`: the same run, stopped after 17 of 24 steps."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def test_the_config_of_an_old_run_keeps_its_name(folders: Path) -> None:
    text = (folders / "finished" / "config.json").read_text()
    config = RunConfig.model_validate_json(text)
    assert config.run_id == RUN_ID
    assert json.loads(text) == config.model_dump(mode="json")


def test_an_old_run_goes_on_to_the_end_that_it_had(folders: Path) -> None:
    """All that was measured, and the last weights, up to the rounding of another processor."""
    config = RunConfig.model_validate_json((folders / "halfway" / "config.json").read_text())
    run(config, folders / "halfway", progress=False)
    found, expected = (open_results(folders / name) for name in ("halfway", "finished"))
    assert set(found.children) == set(expected.children) - {"evaluation"}
    for group in found.children:
        for name, values in expected[group].data_vars.items():
            if values.dtype.kind == "f" and name not in NOT_OF_THE_MATHEMATICS:
                scale = float(np.nanmax(np.abs(values))) if values.size else 0.0
                close = dict(rtol=1e-3, atol=1e-4 * scale, err_msg=f"{group}/{name}")
                np.testing.assert_allclose(found[group][name], values, **close)
    for weights in ("model", "0.9", "0.99"):
        a, b = (load_model(folders / name, weights) for name in ("halfway", "finished"))
        x, e = (np.float32(0.3), np.float32(0.7))
        import torch

        z, t, r = torch.full((2, 1, 8, 8), float(x)), torch.full((2,), float(e)), torch.zeros(2)
        torch.testing.assert_close(a(z, t, r, torch.arange(2)), b(z, t, r, torch.arange(2)), rtol=1e-3, atol=1e-4)
