"""Run folders of version 0.1, written before the middle was rebuilt: they open, go on to the same end, and report."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from dynamics import load_model, open_results
from dynamics.cli import main
from dynamics.config import RunConfig
from dynamics.evaluation import EvaluationOptions
from dynamics.instruments import RowGramOptions
from dynamics.runner import evaluate_run, run
from dynamics.runner.measure.probe import probe

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "runs_of_0.1.tar.xz"
RUN_ID = "5e1b083fe9d0"
NOT_OF_THE_MATHEMATICS = {"step_seconds"}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """`finished`, and `halfway`: the same run, stopped after 17 of 24 steps."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # not before Python 3.11.4
        archive.extractall(tmp_path)
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
                # squares of rounding errors agree in nothing but their size
                np.testing.assert_allclose(
                    found[group][name], values, rtol=1e-3, atol=1e-4 * scale + 1e-10, err_msg=f"{group}/{name}"
                )
    z, t, r, y = torch.full((2, 1, 8, 8), 0.3), torch.full((2,), 0.7), torch.zeros(2), torch.arange(2)
    for weights in ("model", "0.9", "0.99"):
        ours, theirs = (load_model(folders / name, weights)(z, t, r, y) for name in ("halfway", "finished"))
        assert float(theirs.abs().max()) > 1e-3
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_an_old_run_is_measured_and_reported(folders: Path, tmp_path: Path) -> None:
    """Other instruments join its file, and a report is made of it."""
    run_dir = folders / "finished"
    probe(run_dir, [RowGramOptions(num_rows=8, groups="model")], progress=False)
    evaluate_run(run_dir, EvaluationOptions(num_samples=50, nfe=(4,)), exact_rows=4, progress=False)
    tree = open_results(run_dir)
    assert sorted(int(nfe) for nfe in tree["evaluation"]["nfe"]) == [1, 2, 4]
    assert dict(tree["gram_rows"].sizes)["row"] == 8
    main(["report", str(run_dir), "--out", str(tmp_path / "report")])
    text = (tmp_path / "report" / "report.md").read_text()
    assert "Frechet" in text
    assert len(list((tmp_path / "report").rglob("*.png"))) > 5
