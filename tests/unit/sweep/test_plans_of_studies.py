"""What the studies of the papers ask for, at their own scale and at the papers'."""

import pytest

from dynamics.curricula import DTD
from dynamics.instruments import GramOptions
from dynamics.objectives import CorruptedMeanFlow, MeanFlow
from dynamics.presets import preset
from dynamics.sweep.grid import Planned, experiment, plan


def planned(name: str, scale: str) -> list[Planned]:
    return plan(experiment("experiments", name), scale)


@pytest.mark.parametrize("name", ["gap_ablation", "velocity_prerequisite", "task_affinity"])
@pytest.mark.parametrize("scale", ["digits", "b4"])
def test_what_comes_first_is_the_same_objective_on_other_rows(name: str, scale: str) -> None:
    runs = [run for run in planned(name, scale) if run.first]
    assert runs
    for run in runs:
        assert run.first is not None
        assert run.first.config.objective == run.config.objective
        assert run.first.config.streams != run.config.streams == 0
        assert run.config.start.averages == "carried"


@pytest.mark.parametrize(
    ("scale", "first", "last"), [("digits", 0.01, 0.05), ("digits-dit", 0.01, 0.05), ("b4", 0, 0.01)]
)
def test_dtd_is_a_prelude(scale: str, first: float, last: float) -> None:
    found = [(run.config, c) for run in planned("component_ablation", scale) for c in run.config.curricula]
    found += [(run.config, c) for run in planned("schedule_exponent", scale) for c in run.config.curricula]
    chains = [(config.training.num_steps, c) for config, c in found if isinstance(c, DTD)]
    assert chains
    for num_steps, dtd in chains:
        stage = dtd.stage_steps if dtd.pacing == "fixed" else 2.5 * dtd.patience
        assert first <= (dtd.num_clusters - 1) * stage / num_steps <= last


@pytest.mark.parametrize("name", ["component_ablation", "velocity_corruption", "convergence", "task_affinity"])
@pytest.mark.parametrize("scale", ["b4", "xl2"])
def test_at_paper_scale_all_runs_are_guided_as_published(name: str, scale: str) -> None:
    published = preset(f"{scale}-meanflow").objective
    assert isinstance(published, MeanFlow)
    for run in planned(name, scale):
        objective = run.config.objective
        assert isinstance(objective, MeanFlow | CorruptedMeanFlow)
        assert (objective.guidance, objective.adaptive) == (published.guidance, published.adaptive)


def test_the_improved_schedule_is_that_of_the_scale() -> None:
    for scale, kind in (("b4", "min_snr"), ("xl2", "dtd"), ("digits-dit", "min_snr")):
        runs = [run for run in planned("final_model", scale) if run.knobs["schedule"] == "improved"]
        assert {run.config.curricula[0].kind for run in runs} == {kind}


def test_affinity_has_one_law_of_time_and_a_warm_start_as_its_reference() -> None:
    options = [o for run in planned("task_affinity", "digits") for o in run.config.observers]
    assert {o.t_law for o in options if isinstance(o, GramOptions)} == {"matched"}
    claims = experiment("experiments", "task_affinity").claims
    assert {str(claim.against["start"]) for claim in claims} == {"warm", "v"}
