"""Runs on points of the plane have no pictures and no classifier: their report shows what they have."""

from pathlib import Path

import pytest

from dynamics.analysis import write_report
from dynamics.config import with_values
from dynamics.evaluation import EvaluationOptions
from dynamics.instruments import GapsOptions
from dynamics.models import MLPOptions
from dynamics.presets import preset
from dynamics.runner import evaluate_run, run


@pytest.mark.usefixtures("coarse_truth")
def test_points_are_reported_by_their_energy_distance(tmp_path: Path) -> None:
    """Also beside runs with another number of samples: points have numbers, by which they are merged."""
    changes = {
        "model": MLPOptions(dim=8, depth=1),
        "training.num_steps": 2,
        "training.batch_size": 8,
        "observers": (GapsOptions(rows_per_bin=4),),
    }
    folders = []
    for name, num_samples in (("checkerboard", 30), ("eight-gaussians", 40)):
        folders.append(run(with_values(preset(f"{name}-meanflow"), changes), tmp_path / name, progress=False))
        options = EvaluationOptions(num_samples=num_samples, nfe=(1, 2))
        evaluate_run(folders[-1], options, exact_rows=4, progress=False)
    alone, both = (write_report(part, tmp_path / f"{len(part)}").read_text() for part in (folders[:1], folders))
    for text in (alone, both):
        assert "| energy distance of points, u, NFE 2 |" in text
        assert "figures/points_by_nfe.png" in text
        assert "figures/vector_fields.png" in text
        assert "sample_grids" not in text
        assert "--nfe 1 2 --num-samples 30" in text
