"""What a page says of how the runs of a study trained is what their configs say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from dynamics.analysis.studies.study_regime import regime
from dynamics.config import RunConfig, with_values
from dynamics.curricula import DTD
from dynamics.instruments import GramOptions
from dynamics.objectives import FlowMatching
from dynamics.presets import baseline
from dynamics.store import open_results

RESULTS = Path(__file__).parents[4] / "results"
OLD: dict[str, Any] = {"start.run": "first"}
MENDED: dict[str, Any] = {**OLD, "start.averages": "carried", "streams": 1}


def study_of(config: RunConfig, stage_at: int | None = None, metric: str = "v_error_end") -> xr.DataTree:
    """A collected experiment of one run behind one of v alone, whose claims compare with a start."""
    first = with_values(baseline("digits"), {"objective": FlowMatching(), "times.gap_share": 0.0})
    coords = {
        "run": ["first", "run"],
        "step": [1, 20, 400, 800],
        "config_json": ("run", [first.to_json(), config.to_json()]),
        "role": ("run", ["before", "grid"]),
    }
    training = xr.Dataset({"loss": (("run", "step"), np.ones((2, 4)))}, coords)
    if stage_at is not None:
        stages = np.where(training.step.values >= stage_at, 19.0, 0.0)
        training["dtd_stage"] = (("run", "step"), [np.full(4, np.nan), stages])
    claims = json.dumps([{"metric": metric, "relative_to": "v_error_start"}])
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs={"scale": "digits", "claims": claims}), "/training": training})


def test_mended_runs_are_not_warned_of() -> None:
    text = regime(study_of(with_values(baseline("digits"), MENDED)))
    assert text == "digits: data digits-mixture, p = 0, unguided, 800 steps."


def test_each_artefact_is_named() -> None:
    config = with_values(baseline("digits"), OLD)
    assert "raw weights, its end on averages" in regime(study_of(config))
    assert "sees the rows of that one again" in regime(study_of(config))
    other = with_values(baseline("digits"), {**MENDED, "objective.adaptive.p": 1.0, "data.name": "digits"})
    text = regime(study_of(other))
    assert "v alone trained with p = 0" in text
    assert "measure memorising" in text
    gram = with_values(baseline("digits"), {**MENDED, "observers": (GramOptions(t_law="uniform"),)})
    assert "other laws of t" in regime(study_of(gram, metric="cosine_v_0.7-0.9_start"))
    assert "Beware" not in regime(study_of(gram))
    random = with_values(baseline("digits"), {"observers": (GramOptions(t_law="matched"),)})
    assert "u is 0" in regime(study_of(random, metric="cosine_v_0.7-0.9_start"))


@pytest.mark.parametrize(("at", "said"), [(20, ""), (400, "50%"), (900, "never")])
def test_a_late_end_of_dtd_is_named(at: int, said: str) -> None:
    config = with_values(baseline("digits"), {**MENDED, "curricula": (DTD(),)})
    text = regime(study_of(config, at))
    assert ("Beware" in text) == bool(said)
    assert said in text


def test_the_committed_studies_say_in_which_regime_they_ran() -> None:
    said = {name: regime(open_results(RESULTS / name / "digits.nc")) for name in ("gap_ablation", "component_ablation")}
    assert "raw weights" in said["gap_ablation"]
    assert "52% to 68%" in said["component_ablation"]
    assert regime(xr.DataTree()) == ""
