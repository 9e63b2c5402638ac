"""What holds for any batch: r = t is flow matching, rows do not know each other, shards are the batch, E[beta] = 1."""

from dataclasses import replace

import pytest
import torch
from builders import LABELS, MODELS, NOW, SHAPE, Pieces, batch, network
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dynamics.curricula import DTD, Beta, Curriculum, GapLaw, MinSNR, Plan, Progress, plan_for
from dynamics.flow.rows import Rows, chained, draw_rows
from dynamics.flow.times import LogitNormalPair, TimeLaw, TimesOptions, UniformGap, UniformPair
from dynamics.models import Network
from dynamics.objectives import Adaptive, FlowMatching, Guidance, LossTerms, MeanFlow, Objective
from dynamics.rng import generator

quick = settings(max_examples=15, deadline=None, derandomize=True, database=None)
NETWORKS = {name: network(name) for name in MODELS}
MEMBERS = {kind: member for kind, member in Objective.members().items() if member.__module__.startswith("dynamics.")}
NO_V_IN_GAPS = ("shortcut", "split_meanflow", "tvm")
"""What asks the network alone, and not v, about r < t rows."""
UNGUIDED = {"guidance": {"w": 1.0, "k": 0.0}, "mix_to": 1.0}
networks = st.sampled_from(sorted(NETWORKS))
guidances = st.builds(
    Guidance,
    w=st.sampled_from([0.2, 1.0, 2.0]),
    k=st.sampled_from([0.0, 0.5, 0.92]),
    t_start=st.sampled_from([0.0, 0.3]),
    t_end=st.sampled_from([0.8, 1.0]),
    label_drop_prob=st.sampled_from([0.0, 0.4]),
    label_drop=st.sampled_from(["independent", "first_rows"]),
)
base_laws: st.SearchStrategy[TimeLaw] = st.one_of(
    st.builds(LogitNormalPair, mean=st.floats(-1, 1), std=st.floats(0.5, 1.5)),
    st.just(UniformPair()),
    st.builds(UniformGap, low=st.floats(0, 0.3), high=st.floats(0.4, 0.9)),
)


def rows_of(num_rows: int, num_gap: int, seed: int, guidance: Guidance = Guidance()) -> Rows:  # noqa: B008 - frozen
    return guidance.drop_conditions(batch(num_rows, num_gap, seed=seed), seed, step=0)


def take(rows: Rows, index: Tensor) -> Rows:
    names = ("x", "e", "t", "r", "c", "dropped")
    return replace(rows, **{name: getattr(rows, name)[index] for name in names})


def terms(objective: Objective, net: nn.Module, rows: Rows) -> LossTerms:
    return objective.loss(Network(net, {"ema": net}), rows, NOW)


@pytest.mark.parametrize("kind", MEMBERS)
@quick
@given(networks, st.integers(1, 8), st.integers(0, 8), st.integers(0, 99), st.sampled_from([0.0, 0.5, 1.0]))
def test_at_r_equal_t_every_objective_is_flow_matching(
    kind: str, name: str, num_rows: int, num_gap: int, seed: int, p: float
) -> None:
    """Also for rows that stand in the r < t block: their gap is zero, whatever du/dt is; two steps of 0 say nothing."""
    net, num_gap, objective = (
        NETWORKS[name],
        min(num_gap, num_rows),
        MEMBERS[kind].model_validate({"adaptive": {"p": p}} | (UNGUIDED if kind == "temf" else {})),
    )
    rows = rows_of(num_rows, num_gap, seed)
    rows = replace(
        rows, r=rows.t, num_equal=rows.num_equal if objective.TAKES_GAPS and kind not in NO_V_IN_GAPS else num_rows
    )
    found = terms(objective, net, rows)
    matching = terms(FlowMatching(adaptive=Adaptive(p=p)), net, replace(rows, num_equal=num_rows))
    torch.testing.assert_close(found.raw, matching.raw, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found.adaptive, matching.adaptive, rtol=1e-11, atol=1e-11)


@quick
@given(networks, st.integers(0, 5), st.integers(0, 5), st.integers(0, 99), guidances)
def test_permuting_rows_permutes_losses(name: str, num_equal: int, num_gap: int, seed: int, g: Guidance) -> None:
    num_rows = max(num_equal + num_gap, 1)
    rows = rows_of(num_rows, min(num_gap, num_rows), seed, g)
    stream = torch.Generator().manual_seed(seed)
    n = rows.num_equal
    order = torch.cat([torch.randperm(n, generator=stream), n + torch.randperm(rows.num_gap, generator=stream)])
    for objective in (MeanFlow(guidance=g), Pieces()):
        straight, shuffled = (terms(objective, NETWORKS[name], part) for part in (rows, take(rows, order)))
        torch.testing.assert_close(shuffled.raw, straight.raw[order], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(shuffled.du_dt_norm, straight.du_dt_norm[order], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(shuffled.target_norm, straight.target_norm[order], rtol=1e-10, atol=1e-10)


@quick
@given(networks, st.integers(1, 4), st.integers(0, 8), st.integers(0, 99), guidances)
def test_rows_do_not_know_each_other(name: str, count: int, num_gap: int, seed: int, g: Guidance) -> None:
    """A shard's losses are those of its rows in the batch, also where it has no row of one kind."""
    rows = rows_of(2 * count, min(num_gap, 2 * count), seed, g)
    for objective in (MeanFlow(guidance=g), Pieces()):
        whole = terms(objective, NETWORKS[name], rows)
        for i in range(count):
            shard = terms(objective, NETWORKS[name], rows.shard(i, count))
            torch.testing.assert_close(shard.raw, whole.raw[i::count], rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(shard.du_dt_norm, whole.du_dt_norm[i::count], rtol=1e-10, atol=1e-10)


@quick
@given(base_laws, st.floats(0, 1, exclude_max=True), st.floats(0.2, 4), st.floats(0, 1))
def test_mean_of_beta_is_one(law: TimeLaw, fraction: float, k: float, share: float) -> None:
    """For every s and every law in force, also one that another curriculum changes before or after beta."""
    step = int(fraction * 1000)
    chains: list[tuple[Curriculum, ...]] = [
        (Beta(k=k),),
        (GapLaw(share_from=share, share_to=1 - share, start=0.0), Beta(k=k)),
        (Beta(k=k), GapLaw(share_from=share, share_to=1 - share, start=0.0)),
    ]
    if not isinstance(law, UniformGap):
        chains += [(Beta(k=k), DTD(scope="both")), (Beta(k=k), DTD(scope="both", law="uniform"))]
    for chain in chains:
        plan = plan_for(TimesOptions(law=law), chain, Progress(step, 1000), [c.initial_state() for c in chain])
        assert plan.gap_law.expect(plan.u_weight) == pytest.approx(1, abs=1e-9)


def test_mean_of_beta_is_one_in_samples() -> None:
    """The property above shares its quadrature with the code; this one does not."""
    for law in (LogitNormalPair(), UniformPair(), UniformGap()):
        plan = plan_for(TimesOptions(law=law), (Beta(),), Progress(300, 1000), [{}])
        t, r = law.sample(200_000, torch.Generator().manual_seed(0))
        assert float(plan.u_weight(t, r).mean()) == pytest.approx(1, abs=3e-3)


@quick
@given(st.sampled_from(["x0", "v", "eps"]), base_laws, st.booleans())
def test_normalised_alpha_has_mean_one(form: str, law: TimeLaw, with_dtd: bool) -> None:
    chain: tuple[Curriculum, ...] = (MinSNR.model_validate({"form": form, "normalise": True}),)
    if with_dtd and not isinstance(law, UniformGap):
        chain = (*chain, DTD())
    plan = plan_for(TimesOptions(law=law), chain, Progress(0, 10), [c.initial_state() for c in chain])
    assert plan.equal_law.expect(lambda t, r: plan.v_weight(t)) == pytest.approx(1, abs=1e-9)


@quick
@given(st.integers(1, 6), st.integers(1, 5), st.data())
def test_shards_partition_the_batch_and_keep_the_layout(count: int, per_shard: int, data: st.DataObject) -> None:
    num_rows = count * per_shard
    rows = rows_of(num_rows, data.draw(st.integers(0, num_rows)), seed=count, guidance=Guidance(label_drop_prob=0.5))
    rows = replace(rows, c=torch.arange(num_rows))  # a name for every row
    shards = [rows.shard(i, count) for i in range(count)]
    assert sorted(torch.cat([shard.c for shard in shards]).tolist()) == list(range(num_rows))
    for shard in shards:
        assert len(shard) == per_shard
        assert shard.num_equal == int((shard.c < rows.num_equal).sum())
        assert bool((shard.c[: shard.num_equal] < rows.num_equal).all())
        assert torch.equal(shard.r[: shard.num_equal], shard.t[: shard.num_equal])
        for name in ("x", "e", "t", "r", "dropped"):
            assert torch.equal(getattr(shard, name), getattr(rows, name)[shard.c])


@quick
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=5))
def test_chained_rows_are_their_parts_one_after_another(parts: list[tuple[int, bool]]) -> None:
    """Those with r = t first, as the layout wants."""
    drawn = [
        batch(num, num if is_gap else 0, seed=i)
        for i, (num, is_gap) in enumerate(sorted(parts, key=lambda part: part[1]))
    ]
    rows = chained(drawn)
    assert len(rows) == sum(map(len, drawn))
    assert rows.num_equal == sum(part.num_equal for part in drawn)
    start = 0
    for part in drawn:
        again = rows.part(start, start + len(part))
        assert again.num_equal == part.num_equal
        for name in ("x", "e", "t", "r", "c", "dropped"):
            assert torch.equal(getattr(again, name), getattr(part, name))
        start += len(part)


tags = st.lists(st.one_of(st.integers(0, 10**9), st.text(max_size=8)), max_size=4)


@quick
@given(st.integers(0, 2**31), tags, tags)
def test_streams_depend_on_seed_and_tags_only(seed: int, one: list[int | str], two: list[int | str]) -> None:
    first = torch.rand(4, generator=generator(seed, *one))
    torch.rand(3)  # the global stream moves
    torch.rand(5, generator=generator(seed, *two))  # and so does another one
    before = torch.random.get_rng_state()
    assert torch.equal(torch.rand(4, generator=generator(seed, *one)), first)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(torch.rand(4, generator=generator(seed + 1, *one)), first)
    if one != two:
        assert not torch.equal(torch.rand(4, generator=generator(seed, *two)), first)


def test_tags_do_not_run_together() -> None:
    lists: list[tuple[int | str, ...]] = [("ab", "c"), ("a", "bc"), ("abc",), (1, 2), (12,), ("1", "2"), (1, "2"), ()]
    draws = {float(torch.rand(1, dtype=torch.float64, generator=generator(0, *tags))) for tags in lists}
    assert len(draws) == len(lists)


@quick
@given(st.integers(0, 99), st.integers(0, 8))
def test_rows_depend_on_seed_and_tag_only(seed: int, num_gap: int) -> None:
    x, c = torch.zeros(8, *SHAPE), torch.zeros(8, dtype=torch.long)

    def draw(tag: int) -> Rows:
        laws = {"equal_law": LogitNormalPair(), "gap_law": UniformPair()}
        return draw_rows(x, c, LABELS, **laws, num_gap=num_gap, seed=seed, tag=tag)

    first, again, other = draw(3), draw(3), draw(4)
    assert torch.equal(first.t, again.t)
    assert torch.equal(first.e, again.e)
    assert not torch.equal(first.e, other.e)
    assert first.num_gap == num_gap
    assert torch.equal(first.t[: first.num_equal], first.r[: first.num_equal])


def test_label_drop_is_independent_of_the_layout_unless_asked() -> None:
    rows = batch(4000, 1000)
    independent = Guidance(label_drop_prob=0.1).drop_conditions(rows, seed=0, step=7)
    first = Guidance(label_drop_prob=0.1, label_drop="first_rows").drop_conditions(rows, seed=0, step=7)
    for found in (independent, first):
        assert 320 < int(found.dropped.sum()) < 480
        assert bool((found.c[found.dropped] == LABELS.num_classes).all())
        assert torch.equal(found.c[~found.dropped], rows.c[~found.dropped])
    assert 60 < int(independent.dropped[rows.num_equal :].sum()) < 140
    assert int(first.dropped[rows.num_equal :].sum()) == 0
    assert bool(first.dropped[: int(first.dropped.sum())].all())


@quick
@given(st.sampled_from(sorted(MEMBERS)), st.integers(0, 99), st.integers(0, 99))
def test_preparing_rows_depends_on_seed_and_step_only(kind: str, seed: int, step: int) -> None:
    objective, rows = MEMBERS[kind](), batch(64, 0, dtype=torch.float32)
    first, again = objective.prepare(rows, seed, step), objective.prepare(rows, seed, step)
    later, other = objective.prepare(rows, seed, step + 1), objective.prepare(rows, seed + 1, step)
    for name in first._columns():
        assert torch.equal(getattr(first, name), getattr(again, name)), name
    assert not torch.equal(first.dropped, later.dropped)
    assert not torch.equal(first.dropped, other.dropped)
    assert not bool(rows.dropped.any()), "the rows that came in are left alone"


def test_plan_without_curricula_weighs_every_row_by_one() -> None:
    plan = Plan(LogitNormalPair(), LogitNormalPair(), 0.25)
    t = torch.rand(5)
    assert torch.equal(plan.v_weight(t), torch.ones(5))
    assert torch.equal(plan.u_weight(t, t / 2), torch.ones(5))
