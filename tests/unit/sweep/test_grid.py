from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import pytest

from dynamics.analysis.studies.study_table import label_text
from dynamics.config import RunConfig
from dynamics.evaluation import EvaluationOptions
from dynamics.flow.times import TimesOptions, UniformGap
from dynamics.instruments import GramOptions
from dynamics.planning.resources import RESOURCES
from dynamics.sweep.grid import (
    Experiment,
    Knob,
    Planned,
    check_plan,
    experiment,
    experiments,
    plan,
    select,
    with_values,
)

TINY = experiment("sweeps", "tiny")


def test_the_grid_is_every_combination_and_what_comes_first_is_shared() -> None:
    runs = plan(TINY, "digits")
    assert len(runs) == 2 + 2 * 2 * 2
    assert len({run.run_id for run in runs}) == len(runs)
    first = [run for run in runs if run.role == "before"]
    assert [run.knobs for run in first] == [{"init": "v", "rate": "", "seed": seed} for seed in (0, 1)]
    for run in runs[2:]:
        assert run.config.seed == run.knobs["seed"]
        assert run.config.training.learning_rate == (1e-4 if run.knobs["rate"] == "slow" else 1e-2)
        parent = first[int(run.knobs["seed"])] if run.knobs["init"] == "v" else None
        assert run.first is parent
        assert run.config.start.run == (parent.run_id if parent else None)


def test_a_run_comes_after_the_one_it_starts_from() -> None:
    seen: set[str] = set()
    for run in plan(TINY, "digits"):
        assert run.first is None or run.first.run_id in seen
        seen.add(run.run_id)


def test_a_chain_of_three_starts_one_from_the_other() -> None:
    def before(config: RunConfig, knobs: Mapping[str, Knob]) -> list[RunConfig]:
        return [with_values(config, {"training.num_steps": n}) for n in (3, 4)]

    runs = plan(replace(TINY, before=before, axes=lambda scale: {"seed": {0: {}}}), "digits")
    assert [run.config.training.num_steps for run in runs] == [3, 4, 12]
    assert [run.config.start.run for run in runs] == [None, runs[0].run_id, runs[1].run_id]
    assert [run.role for run in runs] == ["before", "before", "grid"]


def test_cells_that_are_the_same_run_are_refused() -> None:
    twins = replace(TINY, axes=lambda scale: {"init": {"x": {"seed": 1}, "y": {"seed": 1}}})
    with pytest.raises(ValueError, match=r"'init': 'x'.*'init': 'y'"):
        plan(twins, "digits")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sede": 1}, "sede"),
        ({"training.num_stepz": 1}, "num_stepz"),
        ({"seed.x": 1}, "there is no seed.x"),
        ({"nothing.x": 1}, "there is no nothing.x"),
        ({"training.num_steps": -1}, "greater than 0"),
        ({"training.batch_size": 7, "training.accumulation": 2}, "a divisor of batch_size=7"),
    ],
)
def test_values_that_do_not_fit_are_named_with_their_axis(changes: dict[str, object], message: str) -> None:
    wrong = replace(TINY, axes=lambda scale: {"arm": {"a": changes}})
    with pytest.raises(ValueError, match=message) as error:
        plan(wrong, "digits")
    assert "arm=a" in str(error.value)


def test_several_values_of_one_room_are_set_together() -> None:
    config = with_values(RunConfig(), {"training.batch_size": 9, "training.accumulation": 3, "seed": 4})
    assert (config.training.batch_size, config.training.accumulation, config.seed) == (9, 3, 4)


def test_select_by_first_letters_brings_what_comes_first() -> None:
    runs = plan(TINY, "digits")
    child = runs[-1]
    assert select(runs, ()) == runs
    assert select(runs, (child.run_id[:8],)) == [child.first, child]
    for wrong in ("zzz", ""):
        with pytest.raises(ValueError, match="run id: received"):
            select(runs, (wrong,))


def test_observers_that_the_law_of_times_cannot_feed_are_refused_before_submission() -> None:
    config = RunConfig(times=TimesOptions(law=UniformGap(low=0.1, high=0.3)), observers=(GramOptions(),))
    with pytest.raises(ValueError, match=r"gram.*gap bin"):
        check_plan([Planned(config, {}, "grid")])
    check_plan(plan(TINY, "digits"))


def test_averages_that_no_snapshot_will_carry_are_refused_before_submission() -> None:
    config, wanted = RunConfig(), (EvaluationOptions(ema_length=0.08),)
    with pytest.raises(ValueError, match=r"ema_length.*training\.ema_lengths"):
        check_plan([Planned(config, {}, "grid", wanted)])
    kept = with_values(config, {"training.ema_lengths": (0.05, 0.1)})
    check_plan([Planned(kept, {}, "grid", wanted)])
    with pytest.raises(ValueError, match=r"received 0\.004.*the nearest is"):
        check_plan([Planned(kept, {}, "grid", (EvaluationOptions(ema_length=0.004),))])


def test_experiments_are_the_files_of_the_package() -> None:
    assert experiments("sweeps") == ["looked", "slow", "tiny"]
    with pytest.raises(ValueError, match="experiment: received 'huge'; allowed: looked, slow, tiny"):
        experiment("sweeps", "huge")
    with pytest.raises(ValueError, match="no QUESTION, base, axes"):
        experiment("dynamics", "rng")


@pytest.mark.parametrize("name", experiments("experiments"))
def test_every_experiment_can_be_planned_on_a_laptop(name: str) -> None:
    which: Experiment = experiment("experiments", name)
    runs = plan(which, "digits")
    if all(run.config.data.name != "latents" for run in runs):  # those are made first, see test_sweep_slurm
        check_plan(runs)
    assert len(runs) > 1
    with open(f"experiments/{name}.py") as file:
        assert len(file.readlines()) <= 80


@pytest.mark.parametrize("name", experiments("experiments"))
def test_claims_speak_of_runs_that_are_planned(name: str) -> None:
    which = experiment("experiments", name)
    axes: dict[str, set[str]] = {}
    for scale in RESOURCES:
        with suppress(KeyError):  # a scale that the experiment has no numbers for
            for axis, labels in which.axes(scale).items():
                axes.setdefault(axis, set()).update(label_text(label) for label in labels)
    for claim in which.claims:
        named = [*claim.arm.items(), *claim.against.items()]
        assert all(label_text(label) in axes[axis] for axis, label in named), claim
        assert claim.against or claim.relative_to or claim.than is not None, "compared with something"


def test_a_scale_that_an_experiment_has_no_numbers_for_is_refused() -> None:
    which = replace(experiment("experiments", "testbed"), axes=lambda scale: {"digits": {}}[scale])
    with pytest.raises(ValueError, match=r"scale: received 'b4'; allowed: a scale of testbed; remedy: name it"):
        plan(which, "b4")
