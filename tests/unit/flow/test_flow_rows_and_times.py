"""Edges and errors of the path, the rows and the laws of times."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from builders import CPU, LABELS, LAW, Asked, LabelAndScale, batch

from dynamics.curricula import Progress, plan_for
from dynamics.flow.gap_bins import within_gap_bin
from dynamics.flow.path import expand, interpolate
from dynamics.flow.rows import Rows, chained
from dynamics.flow.times import (
    Blend,
    DyadicSteps,
    TimesOptions,
    UniformGap,
    UniformWithinTimes,
    mean_gap,
)
from dynamics.options import check_edges


def drawn(num_rows: int = 6, num_gap: int = 2, tag: str | int = 0) -> Rows:
    return batch(num_rows, num_gap, tag=tag, dtype=torch.float32)


def test_path_ends() -> None:
    x, e = torch.randn(2, 3, 1, 2, 2)
    for t, end in ((0.0, x), (1.0, e)):
        z, v = interpolate(x, e, torch.full((3,), t))
        assert torch.equal(z, end)
        assert torch.equal(v, e - x)


def test_path_is_per_row() -> None:
    x, e = torch.zeros(3, 1, 2, 2), torch.ones(3, 1, 2, 2)
    z, _ = interpolate(x, e, torch.tensor([0.1, 0.5, 0.9]))
    torch.testing.assert_close(z[:, 0, 0, 0], torch.tensor([0.1, 0.5, 0.9]))
    assert expand(torch.ones(3), x).shape == (3, 1, 1, 1)


@pytest.mark.parametrize("num_gap", [0, 2, 6])
def test_layout(num_gap: int) -> None:
    rows = drawn(num_gap=num_gap)
    assert (len(rows), rows.num_equal, rows.num_gap) == (6, 6 - num_gap, num_gap)
    n = rows.num_equal
    assert torch.equal(rows.t[:n], rows.r[:n])
    assert bool((rows.r[n:] < rows.t[n:]).all())
    assert not bool(rows.dropped.any())


def test_noise_does_not_depend_on_the_number_of_gap_rows() -> None:
    """Changing the schedule keeps the noise, so that two runs can be compared row by row."""
    assert torch.equal(drawn(num_gap=0).e, drawn(num_gap=6).e)
    assert not torch.equal(drawn(tag=0).e, drawn(tag="0").e)


def test_equal_rows_take_the_larger_draw() -> None:
    """r is overwritten after max and min: the mean of t is .535 and not the .418 of one draw."""
    assert float(drawn(20_000, 0).t.mean()) == pytest.approx(0.535, abs=0.01)


@pytest.mark.parametrize("num_gap", [-1, 7])
def test_impossible_number_of_gap_rows(num_gap: int) -> None:
    with pytest.raises(ValueError, match=rf"num_gap: received {num_gap}; allowed: 0\.\.6; remedy: "):
        drawn(num_gap=num_gap)


def test_shard_must_divide() -> None:
    with pytest.raises(ValueError, match=r"batch_size: received 6; allowed: a multiple of 4; remedy: "):
        drawn().shard(0, 4)


def test_move_to_a_device_keeps_the_mask_on_the_cpu() -> None:
    rows = drawn()
    assert rows.to(torch.device("cpu")) is rows
    moved = rows.to(torch.device("meta"))
    assert moved.x.device.type == moved.t.device.type == moved.c.device.type == "meta"
    assert moved.dropped.device.type == "cpu"
    assert moved.num_equal == rows.num_equal


def test_rows_that_ask_for_more_than_a_label_stay_together() -> None:
    """A joint condition is cut, moved, chained and dropped like any other column."""
    rows = batch(8, 3, condition=LabelAndScale(), dtype=torch.float32)
    rows = replace(rows, c=Asked(torch.arange(8), torch.arange(8) / 10))
    for part, index in ((rows.shard(1, 2), slice(1, None, 2)), (rows.part(2, 6), slice(2, 6))):
        assert torch.equal(part.c.label, torch.arange(8)[index])
        assert torch.equal(part.c.scale, rows.c.scale[index])
        assert torch.equal(part.x, rows.x[index])
        assert part.condition == LabelAndScale()
    assert (rows.shard(1, 2).num_equal, rows.part(2, 6).num_equal) == (2, 3)
    again = chained([rows.part(0, 2), rows.part(2, 5), rows.part(5, 8)])
    for name in ("x", "e", "t", "r", "dropped"):
        assert torch.equal(getattr(again, name), getattr(rows, name))
    assert torch.equal(again.c.scale, rows.c.scale)
    assert again.num_equal == 5
    double = rows.to(CPU, torch.float64)
    assert (double.c.label.dtype, double.c.scale.dtype, double.x.dtype) == (torch.int64, torch.float64, torch.float64)
    assert rows.to(torch.device("meta")).c.scale.device.type == "meta"
    where = torch.arange(8) % 3 == 0
    dropped = rows.drop(where)
    assert dropped.c.label.tolist() == [3, 1, 2, 3, 4, 5, 3, 7]
    assert torch.equal(dropped.c.scale, torch.where(where, 0, rows.c.scale))
    assert torch.equal(dropped.dropped, where)
    assert not bool(rows.dropped.any()), "the rows themselves are left alone"


def test_dropping_takes_the_null_of_the_condition() -> None:
    rows = drawn()
    where = torch.tensor([True, False, False, True, False, False])
    found = rows.drop(where)
    assert torch.equal(found.c[where], torch.full((2,), LABELS.num_classes))
    assert torch.equal(found.c[~where], rows.c[~where])
    assert torch.equal(found.x, rows.x)


def test_path_of_rows() -> None:
    rows = replace(drawn(), t=torch.zeros(6))
    assert torch.equal(rows.path()[0], rows.x)


def test_law_of_the_one_step_sampler() -> None:
    t, r = UniformGap(low=1, high=1).sample(5, torch.Generator().manual_seed(0))
    assert torch.equal(t, torch.ones(5))
    assert torch.equal(r, torch.zeros(5))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_blend_at_its_ends_is_one_of_its_parts(share: float) -> None:
    part = UniformGap() if share else LAW
    blended = Blend(base=LAW, other=UniformGap(), share=share).sample(50, torch.Generator().manual_seed(0))
    alone = part.sample(50, torch.Generator().manual_seed(0))
    torch.testing.assert_close(blended, alone)


def test_uniform_from_time() -> None:
    t, r = UniformWithinTimes(intervals=((0.8, 1.0),)).sample(2000, torch.Generator().manual_seed(0))
    assert float(t.min()) >= 0.8
    assert float(t.mean()) == pytest.approx(0.9, abs=0.01)
    assert float((r / t).mean()) == pytest.approx(0.5, abs=0.02)


def test_errors_of_laws() -> None:
    with pytest.raises(ValueError, match=r"uniform_gap: received \(0\.5, 0\.1\); allowed: low <= high; remedy: "):
        UniformGap(low=0.5, high=0.1)
    with pytest.raises(ValueError, match="less than or equal to 1"):
        TimesOptions(gap_share=1.5)
    with pytest.raises(ValueError, match="uniform_pear"):
        TimesOptions.model_validate({"law": {"kind": "uniform_pear"}})


@pytest.mark.parametrize("edges", [(), (0.5,), (0.5, 0.5), (0.3, 0.1), (-0.1, 1.0), (0.0, 1.1)])
def test_bad_edges(edges: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"bins: received .*; allowed: at least two increasing .*; remedy: "):
        check_edges("bins", edges)


def test_good_edges() -> None:
    check_edges("bins", (0.0, 0.1, 1.0))


def test_dyadic_steps_lie_on_their_grids() -> None:
    """Each gap is equally likely, and so is each of its steps; the expectation is that of the draws."""
    law = DyadicSteps(longest=0, shortest=2)
    t, r = law.sample(20_000, torch.Generator().manual_seed(0))
    found = {pair: count / 20_000 for pair, count in Counter(zip(t.tolist(), r.tolist(), strict=True)).items()}
    expected = {((i + 1) / 2**k, i / 2**k): 1 / 3 / 2**k for k in range(3) for i in range(2**k)}
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=0.015)
    assert law.expect(lambda t, r: t * r) == pytest.approx(sum(p * t * r for (t, r), p in expected.items()))
    assert mean_gap(law) == pytest.approx(float((t - r).mean()), abs=0.01)
    edges = law.quantile(torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert [a.tolist() for a in edges] == [[1.0, 1.0], [0.0, 0.75]]


def test_dyadic_steps_in_a_gap_bin() -> None:
    law = DyadicSteps()
    assert within_gap_bin(law, 0.1, 0.3) == DyadicSteps(longest=2, shortest=3)
    assert within_gap_bin(law, 0.5, 0.7) == DyadicSteps(longest=1, shortest=1)
    assert within_gap_bin(law, 0.7, 1.0) == DyadicSteps(longest=0, shortest=0)
    for low, high in ((0.3, 0.5), (0.7, 0.9)):
        with pytest.raises(ValueError, match="one of the gaps"):
            within_gap_bin(law, low, high)
    with pytest.raises(ValueError, match="longest <= shortest"):
        DyadicSteps(longest=3, shortest=2)


def test_rows_with_r_equal_t_may_have_a_law_of_their_own() -> None:
    plan = plan_for(TimesOptions(equal_law=DyadicSteps(longest=7, shortest=7)), (), Progress(0, 10), [])
    assert (plan.equal_law, plan.gap_law) == (DyadicSteps(longest=7, shortest=7), LAW)
    assert plan_for(TimesOptions(), (), Progress(0, 10), []).equal_law == LAW
    assert "equal_law" not in TimesOptions().model_dump_json()
