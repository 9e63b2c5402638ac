from dataclasses import replace

import pytest
from sweeps._sweep import Small

from dynamics.sweep.grid import Axes, experiment, plan
from dynamics.sweep.seeds_begun import SeedsBegun, begin, looks_until, seeds_begun, seeds_of_axes, went_on

TINY = experiment("sweeps", "tiny")
FAST = "init=v rate=fast"


@pytest.mark.parametrize(
    ("most", "own", "looks"),
    [(32, 3, (5, 10, 15, 20, 25, 32)), (10, 5, (5, 10)), (12, 8, (12,)), (20, 8, (10, 15, 20)), (2, 1, (2,))],
)
def test_looks_come_every_five_seeds_and_at_the_most(most: int, own: int, looks: tuple[int, ...]) -> None:
    assert looks_until(most, own) == looks


def test_arms_have_the_seeds_that_were_begun_and_what_they_start_from_comes_along() -> None:
    own, begun = plan(TINY, "digits"), SeedsBegun(looks=(3, 6), arms={FAST: 6})
    runs = plan(TINY, "digits", begun=begun)
    assert {run.run_id for run in own} < {run.run_id for run in runs}
    grid = [run for run in runs if run.role == "grid"]
    for init in ("v", "random"):
        for rate in ("slow", "fast"):
            seeds = [run.knobs["seed"] for run in grid if (run.knobs["init"], run.knobs["rate"]) == (init, rate)]
            assert seeds == list(range(6 if (init, rate) == ("v", "fast") else 3))
    first = [run for run in runs if run.role == "before"]
    assert sorted(run.config.seed for run in first) == list(range(6))
    assert all(run.first in first for run in grid if run.knobs["init"] == "v")
    assert [run.run_id for run in plan(TINY, "digits", begun=SeedsBegun(looks=(2,)))] == [run.run_id for run in own]
    assert len(plan(TINY, "digits", begun=SeedsBegun(looks=(2,), arms={FAST: 1}))) == len(own), "its own at least"


@pytest.mark.parametrize(
    "axes", [{"init": {"v": {}}}, {"seed": {"a": {"seed": 1}}}, {"seed": {0: {"seed": 0, "x": 1}}}]
)
def test_an_experiment_without_seeds_is_refused_by_name(axes: Axes) -> None:
    with pytest.raises(ValueError, match=r"experiment tiny: .*allowed: an axis seed whose labels are seeds"):
        seeds_of_axes("tiny", axes)
    with pytest.raises(ValueError, match="experiment tiny"):
        plan(replace(TINY, axes=lambda scale: axes), "digits", begun=SeedsBegun(looks=(5,)))


def test_what_was_begun_is_found_again_and_never_shrinks(tiny_sweep: Small) -> None:
    folder = tiny_sweep.folder
    assert seeds_begun(folder) is None
    assert begin(folder, 2, 10) == begin(folder, 2, None) == SeedsBegun(looks=(5, 10))
    with pytest.raises(ValueError, match="max-seeds: received 12; allowed: 10, as fixed before the first look"):
        begin(folder, 2, 12)
    after = went_on(folder, 1, [FAST])
    assert (after.made, after.arms, after.at) == (1, {FAST: 10}, 10)
    assert went_on(folder, 1, [FAST]) == went_on(folder, 1, []) == seeds_begun(folder) == after
    after = went_on(folder, 2, ["later"])
    assert (after.made, after.arms, after.behind([FAST, "later", "new"])) == (2, {FAST: 10, "later": 10}, ["new"])
    path = folder.path / "seeds.json"
    path.write_text(path.read_text().replace("10", "15"))
    with pytest.raises(ValueError, match=r"seeds\.json: received 'damaged text'.*with the same --max-seeds"):
        seeds_begun(folder)
    path.unlink()
    with pytest.raises(ValueError, match="max-seeds: received 3; allowed: at least 4"):
        begin(folder, 4, 3)
    with pytest.raises(ValueError, match=r"max-seeds: received 32; allowed: at least 40: .*remedy: --max-seeds 40"):
        begin(folder, 40, None)
    assert not path.exists()
