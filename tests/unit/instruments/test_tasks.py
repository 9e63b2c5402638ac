"""Tasks and their rows, and what the tapped network refuses."""

import pytest
import torch
from builders import LAW, network, recipe
from torch import nn

from dynamics.instruments.gaps import GapProbe, GapsOptions
from dynamics.instruments.gradients import Sketch, tapped, untapped
from dynamics.instruments.row_gram import RowGramOptions, RowGramProbe
from dynamics.instruments.tasks import Task, TaskOptions, binned_tasks, task_rows, velocity_task
from dynamics.models.linear import Linear
from dynamics.objectives.split import SplitMeanFlow, SplitRows

RECIPE = recipe()


def tasks_of(options: TaskOptions) -> list[Task]:
    return [velocity_task(options, LAW), *binned_tasks(options, LAW)]


@pytest.mark.parametrize("t_law", ["training", "uniform", "matched"])
def test_rows_lie_in_their_bins(t_law: str) -> None:
    options = TaskOptions.model_validate({"t_law": t_law, "rows_per_split": 200})
    v, *others = tasks_of(options)
    rows = task_rows(v, 0, options, RECIPE)
    assert torch.equal(rows.t, rows.r)
    assert (rows.num_equal, rows.num_gap) == (200, 0)
    for task in others:
        rows = task_rows(task, 0, options, RECIPE)
        gap = rows.t - rows.r
        assert rows.num_equal == 0
        assert task.low - 1e-6 <= float(gap.min()) <= float(gap.max()) <= task.high + 1e-6
        assert float(rows.r.min()) >= 0


def test_matched_times_are_the_same_for_all_tasks() -> None:
    options = TaskOptions(t_law="matched")
    times = [task_rows(task, 1, options, RECIPE).t for task in tasks_of(options)]
    assert all(torch.equal(t, times[0]) for t in times)
    assert float(times[0].min()) >= 0.9


def test_shared_rows_are_the_same_images_and_noise_in_a_split_and_others_in_the_next() -> None:
    for sharing in ("shared", "independent"):
        options = TaskOptions.model_validate({"rows": sharing})
        a, b = tasks_of(options)[1:3]
        one, two, later = (task_rows(*which, options, RECIPE) for which in ((a, 0), (b, 0), (a, 1)))
        assert torch.equal(one.x, two.x) == torch.equal(one.e, two.e) == (sharing == "shared")
        assert not torch.equal(one.e, later.e)
        assert not torch.equal(one.x, later.x)


def test_splits_are_independent_draws_of_the_data_set() -> None:
    """Images of different splits may be the same one: rows that exclude each other would bias products downwards."""
    options = TaskOptions(rows_per_split=900)
    task = velocity_task(options, LAW)
    both = torch.cat([task_rows(task, split, options, RECIPE).x.flatten(1) for split in (0, 1)])
    assert len(torch.unique(both, dim=0)) < 1600  # of 1797 images two disjoint halves would show 1800


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = Linear(3, 3)
        self.gain = nn.Parameter(torch.ones(3))


def test_weights_that_cannot_be_tapped_are_named() -> None:
    assert untapped(Scaled()) == ["gain"]
    assert untapped(network("dit")) == untapped(network("mlp")) == []


def test_a_pass_of_other_rows_is_no_pass_of_all() -> None:
    message = r"pass: received '2 rows'; allowed: passes with gradient of all 5 rows, .*; remedy: leave ONE_PASS"
    layer = Linear(3, 3)
    with tapped(layer, lambda *_: None, num_rows=5):
        layer(torch.zeros(5, 3))
        with torch.no_grad():
            layer(torch.zeros(2, 3))
        with pytest.raises(ValueError, match=message):
            layer(torch.zeros(2, 3))
    layer(torch.zeros(2, 3))


def test_small_tensors_are_kept_whole_and_large_ones_keep_inner_products_on_average() -> None:
    a, b = torch.randn(2, 1, 600, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = Sketch(0, 600)
    assert torch.equal(whole.project("w", a, 20), a)
    assert whole.used == set()
    estimates = []
    for seed in range(400):
        sketch = Sketch(seed, 64)
        left, right = (sketch.project("w", x, 20) for x in (a, b))
        assert left.shape == (1, 63)  # the largest width up to 64 that shares no factor with the rows of 20
        assert sketch.used == {"w"}
        estimates.append((left * right).sum())
    deviation = torch.stack(estimates) - (a * b).sum()
    assert abs(float(deviation.mean())) < 4 * float(deviation.std()) / 20
    expected = (float(a.square().sum() * b.square().sum()) / 63) ** 0.5
    assert 0.8 < float(deviation.std()) / expected < 1.25


def test_instruments_draw_what_a_loss_draws_for_each_row() -> None:
    """Where intervals are split: for shared rows alike, for another split anew, and in a Gram of rows too."""
    split = recipe(SplitMeanFlow())
    options = TaskOptions(rows="shared")
    (_, a, b, *_) = tasks_of(options)
    one, two, later = (task_rows(*which, options, split) for which in ((a, 0), (b, 0), (a, 1)))
    for rows in (
        one,
        two,
        later,
        RowGramProbe(split, RowGramOptions(num_rows=8)).rows(),
        GapProbe(split, GapsOptions()).rows,
    ):
        assert isinstance(rows, SplitRows)
        assert len(set(rows.share.tolist())) > len(rows) / 2
    assert torch.equal(one.share, two.share)  # type: ignore[attr-defined]
    assert not torch.equal(one.share, later.share)  # type: ignore[attr-defined]
