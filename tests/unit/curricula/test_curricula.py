"""Curricula: pacing, stage edges, knees and edges of time."""

import itertools
import json
import math
from typing import Literal

import pytest
import torch
from invented import Listening

from dynamics.config import RunConfig
from dynamics.curricula import (
    DTD,
    Beta,
    Constant,
    Curriculum,
    GapLaw,
    MinSNR,
    Plan,
    Progress,
    State,
    StepRecord,
    denoising_difficulty,
    plan_for,
)
from dynamics.curricula.plan import record
from dynamics.flow.times import (
    Blend,
    LogitNormalPair,
    TimesOptions,
    UniformGap,
    UniformPair,
    UniformWithinTimes,
    WithinTimes,
)
from dynamics.instruments import CellsOptions, GapsOptions
from dynamics.record import RowTable, summarise

TIMES = TimesOptions()


def plan(*chain: Curriculum, at: float = 0.0, times: TimesOptions = TIMES, states: list[State] | None = None) -> Plan:
    states = [c.initial_state() for c in chain] if states is None else states
    return plan_for(times, chain, Progress(round(at * 1000), 1000), states)


def of_loss(raw_v: float) -> StepRecord:
    """A step with that raw loss of v: one r = t row, and one with r < t; NaN stands for no r = t row at all."""
    is_v = torch.tensor([not math.isnan(raw_v), False])
    one = torch.ones(2, dtype=torch.float64)
    raw = torch.tensor([0.0 if math.isnan(raw_v) else raw_v, 7.0], dtype=torch.float64)
    step = summarise(1, RowTable(is_v, 0.5 * one, torch.where(is_v, 0, 0.3 * one), raw, one, one, one, one), {}, 1.0)
    assert step.raw_v == pytest.approx(raw_v, nan_ok=True)
    return step


def feed(dtd: DTD, losses: list[float]) -> list[int]:
    """The stage after each loss."""
    state, stages = dtd.initial_state(), []
    for loss in losses:
        state = dtd.observe(state, of_loss(loss))
        stages.append(state["stage"])
    return stages


# ---- DTD ----------------------------------------------------------------------------------------------------------


def test_adaptive_pacing_waits_for_patience() -> None:
    dtd = DTD(num_clusters=4, patience=3)
    #       best     best  wait wait best wait wait wait -> next stage, which forgets the best
    losses = [5.0, 4.0, 4.0, 4.5, 3.0, 3.0, 3.1, 9.0, 100.0, 101.0, 101.0, 101.0]
    assert feed(dtd, losses) == [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2]


def test_adaptive_pacing_stays_while_the_loss_improves() -> None:
    assert feed(DTD(patience=2), [1 / (i + 1) for i in range(50)])[-1] == 0


def test_fixed_pacing_ignores_the_loss() -> None:
    dtd = DTD(num_clusters=3, pacing="fixed", stage_steps=2)
    assert feed(dtd, [1.0, 0.5, 0.2, math.nan, 0.1, 0.0, 0.0]) == [0, 1, 1, 2, 2, 2, 2]


@pytest.mark.parametrize("num_steps", [400, 600, 800, 3200, 20_000, 199_999])
def test_in_a_short_training_it_ends_within_one_to_five_percent(num_steps: int) -> None:
    dtd = denoising_difficulty(num_steps)
    assert 0.01 <= feed(dtd, [1 / (i + 1) for i in range(num_steps // 20)]).index(19) / num_steps <= 0.05


def test_pacing_ends_at_the_last_stage() -> None:
    dtd = DTD(num_clusters=3, patience=1)
    assert feed(dtd, [1.0] * 20)[-1] == 2
    last = {"stage": 2, "best": None, "waited": 0, "steps": 0}
    assert dtd.observe(last, of_loss(1.0)) == last


def test_steps_without_a_v_loss_do_not_freeze_the_stage() -> None:
    """A step without r = t rows reports NaN: it never counts as the best."""
    losses = [math.nan] + [1 / (i + 1) for i in range(20)]
    assert feed(DTD(patience=3), losses)[-1] == 0, "an improving loss stays in its stage"


def test_state_is_json_and_not_changed_in_place() -> None:
    dtd = DTD(patience=2)
    before = dtd.initial_state()
    kept = dict(before)
    after = dtd.observe(before, of_loss(0.5))
    assert before == kept
    assert json.loads(json.dumps(after, allow_nan=False)) == after
    json.dumps(dtd.observe(before, of_loss(math.nan)), allow_nan=False)


@pytest.mark.parametrize(("stage", "edge"), [(0, 0.95), (1, 0.9), (10, 0.45), (18, 0.05)])
def test_uniform_clusters_accumulate_from_the_noisiest(stage: int, edge: float) -> None:
    found = plan(DTD(), states=[{"stage": stage, "best": None, "waited": 0, "steps": 0}])
    assert isinstance(found.equal_law, WithinTimes)
    assert found.equal_law.intervals == ((pytest.approx(edge), 1.0),)
    assert found.equal_law.base == found.gap_law == TIMES.law
    assert found.series["dtd_stage"] == stage


@pytest.mark.parametrize("clusters", ["uniform", "quantile"])
def test_after_the_last_stage_training_is_ordinary(clusters: str) -> None:
    dtd = DTD.model_validate({"clusters": clusters})
    found = plan(dtd, states=[{"stage": 19, "best": None, "waited": 0, "steps": 0}])
    assert found.equal_law == found.gap_law == TIMES.law


@pytest.mark.parametrize("law", [LogitNormalPair(), UniformPair()])
def test_quantile_clusters_have_equal_probability(law: LogitNormalPair | UniformPair) -> None:
    t, _ = law.sample(40_000, torch.Generator().manual_seed(0))
    for stage in (0, 4, 8):
        state = {"stage": stage, "best": None, "waited": 0, "steps": 0}
        found = plan(DTD(num_clusters=10, clusters="quantile"), times=TimesOptions(law=law), states=[state])
        assert isinstance(found.equal_law, WithinTimes)
        assert float((t >= found.equal_law.intervals[0][0]).float().mean()) == pytest.approx((stage + 1) / 10, abs=0.01)


def joined(dtd: DTD, stage: int) -> tuple[tuple[float, float], ...]:
    found = plan(dtd, states=[{"stage": stage, "best": None, "waited": 0, "steps": 0}]).equal_law
    assert isinstance(found, WithinTimes)
    return found.intervals


def test_clean_first_is_the_paper_s_order_from_the_other_end() -> None:
    assert joined(DTD(num_clusters=4, order="clean_first"), 1) == ((0.0, 0.5),)
    assert joined(DTD(num_clusters=4), 1) == ((0.5, 1.0),)


def test_a_shuffled_order_grows_by_one_cluster_a_stage_and_is_the_same_every_time() -> None:
    dtd = DTD(num_clusters=8, order="shuffled", order_seed=3)
    lengths = [sum(high - low for low, high in joined(dtd, stage)) for stage in range(7)]
    assert lengths == pytest.approx([(stage + 1) / 8 for stage in range(7)])
    assert joined(dtd, 3) == joined(DTD(num_clusters=8, order="shuffled", order_seed=3), 3)
    assert len({joined(DTD(num_clusters=8, order="shuffled", order_seed=seed), 3) for seed in range(6)}) > 1
    before = joined(dtd, 2)
    inside = [any(a <= low and high <= b for a, b in joined(dtd, 3)) for low, high in before]
    assert all(inside), "what has joined stays"
    assert all(high < low for (_, high), (low, _) in itertools.pairwise(before)), "neighbours are one"


def test_uniform_law_and_scope_both() -> None:
    found = plan(DTD(law="uniform", scope="both"))
    assert found.equal_law == found.gap_law == UniformWithinTimes(intervals=((0.95, 1.0),))


REFUSAL = r"curricula.dtd: received .*; allowed: .*; remedy: put dtd first"


def test_scope_both_refuses_a_gap_law_before_it() -> None:
    with pytest.raises(ValueError, match=REFUSAL):
        plan(GapLaw(share_from=0.3), DTD(scope="both"))


def test_a_gap_law_that_begins_later_is_refused_before_the_run() -> None:
    """Its share is zero at step 0, so that the chain would fail in the middle of the run."""
    with pytest.raises(ValueError, match=REFUSAL):
        plan(GapLaw(start=0.5), DTD(scope="both"), at=0.6)
    with pytest.raises(ValueError, match=REFUSAL):
        RunConfig(curricula=(GapLaw(start=0.5), DTD(scope="both")))


def test_scope_v_and_the_other_order_are_allowed() -> None:
    for chain in ((GapLaw(share_from=0.3), DTD()), (DTD(scope="both"), GapLaw(share_from=0.3))):
        found = plan(*chain)
        assert isinstance(found.equal_law, WithinTimes)
        assert isinstance(found.gap_law, Blend)


# ---- controls -------------------------------------------------------------------------------------------------------


def test_rising_beta_is_falling_beta_run_backwards_and_frozen_is_its_mean() -> None:
    t, r = torch.tensor([0.9, 0.5]), torch.tensor([0.1, 0.4])
    for k in (0.5, 1.0, 2.0):
        for at in (0.1, 0.4):
            rising, falling = plan(Beta(k=k, path="rising"), at=at), plan(Beta(k=k), at=1 - at)
            torch.testing.assert_close(rising.u_weight(t, r), falling.u_weight(t, r))
        mean = sum(plan(Beta(k=k), at=i / 1000).series["beta_s"] for i in range(1000)) / 1000
        assert plan(Beta(k=k, path="frozen"), at=0.3).series["beta_s"] == pytest.approx(mean, abs=2e-3)


def test_constant_weights_are_constant() -> None:
    found, t = plan(Constant(v=0.4, u=2.0), MinSNR(), at=0.7), torch.tensor([0.2, 0.8])
    torch.testing.assert_close(found.v_weight(t), 0.4 * plan(MinSNR()).v_weight(t))
    torch.testing.assert_close(found.u_weight(t, t - 0.1), torch.full((2,), 2.0))


@pytest.mark.parametrize(
    "changes",
    [
        {"times": {"law": {"kind": "gap_bin", "base": {"kind": "logit_normal"}, "low": 0.5, "high": 0.7}}},
        {"times": {"law": {"kind": "uniform_gap_from_time", "t_min": 0.9, "low": 0.1, "high": 0.3}}},
        {"curricula": [{"kind": "dtd", "order": "shuffled"}, {"kind": "beta", "path": "rising"}, {"kind": "constant"}]},
        {"objective": {"kind": "corrupted_meanflow", "level": 0.3, "scale": "literal", "noise": "run"}},
    ],
)
def test_controls_survive_a_config_file(changes: dict[str, object]) -> None:
    config = RunConfig.model_validate(changes)
    again = RunConfig.model_validate_json(config.to_json())
    assert again == config
    assert again.run_id != RunConfig().run_id


# ---- MinSNR -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["x0", "v", "eps"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alpha_is_finite_at_both_ends(form: str, dtype: torch.dtype) -> None:
    alpha = MinSNR.model_validate({"form": form})
    found = alpha.alpha(torch.tensor([0.0, 1e-30, 1e-6, 1 - 1e-7, 1.0], dtype=dtype))
    assert bool(found.isfinite().all())
    assert float(found[0]) == 0
    assert float(found[-1]) == (1.0 if form == "eps" else 0.0)


def test_alpha_has_its_knee_at_309() -> None:
    knee = 1 / (1 + math.sqrt(5))
    assert f"{knee:.3f}" == "0.309"
    below, above = (torch.tensor([knee + d], dtype=torch.float64) for d in (-1e-3, 1e-3))
    x0, v, eps = (MinSNR.model_validate({"form": form}).alpha for form in ("x0", "v", "eps"))
    assert float(x0(below)) == pytest.approx(5 * float(below) ** 2)
    assert float(x0(above)) == pytest.approx((1 - float(above)) ** 2)
    assert float(eps(below)) < 1
    assert float(eps(above)) == 1
    grid = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    assert float(grid[x0(grid).argmax()]) == pytest.approx(knee, abs=1e-4)
    assert float(grid[v(grid).argmax()]) == pytest.approx(knee, abs=1e-4)


def test_alpha_weighs_r_equal_t_rows_only() -> None:
    found, t = plan(MinSNR()), torch.tensor([0.1, 0.5])
    torch.testing.assert_close(found.v_weight(t), MinSNR().alpha(t))
    assert torch.equal(found.u_weight(t, t / 2), torch.ones(2))


# ---- beta ---------------------------------------------------------------------------------------------------------


def test_beta_moves_from_small_gaps_to_all() -> None:
    t, r = torch.tensor([0.6, 1.0]), torch.tensor([0.6, 0.0])
    start, middle, end = (plan(Beta(), at=a) for a in (0.0, 0.5, 1.0))
    torch.testing.assert_close(start.u_weight(t, r), torch.tensor([1.3045, 0.0]), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(end.u_weight(t, r), torch.ones(2))
    torch.testing.assert_close(middle.u_weight(t, r), torch.tensor([1.1522, 0.5]), rtol=1e-3, atol=1e-6)
    assert torch.equal(start.v_weight(t), torch.ones(2))
    assert start.series == {"beta_s": 1.0}


def test_beta_exponent() -> None:
    assert plan(Beta(k=2), at=0.5).series["beta_s"] == pytest.approx(0.75)
    assert plan(Beta(k=0.5), at=0.25).series["beta_s"] == pytest.approx(0.5)


# ---- gap law ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("at", "share"), [(0.0, 0.1), (0.2, 0.1), (0.5, 0.35), (0.8, 0.6), (1.0, 0.6)])
def test_gap_law_share_at_start_middle_and_end(at: float, share: float) -> None:
    found = plan(GapLaw(share_from=0.1, share_to=0.6, start=0.2, end=0.8), at=at)
    assert isinstance(found.gap_law, Blend)
    assert found.gap_law.share == pytest.approx(share)
    assert found.gap_law.other == UniformGap()
    assert found.series["uniform_gap_share"] == pytest.approx(share)
    assert found.equal_law == TIMES.law
    assert found.gap_share == TIMES.gap_share


def test_gap_law_may_move_the_number_of_gap_rows() -> None:
    shares = [plan(GapLaw(start=0.0, gap_share_to=0.75), at=at).gap_share for at in (0.0, 0.5, 1.0)]
    assert shares == pytest.approx([0.25, 0.5, 0.75])


def test_gap_law_with_a_sudden_move() -> None:
    shares = [plan(GapLaw(start=0.5, end=0.5), at=at).series["uniform_gap_share"] for at in (0.499, 0.5, 0.501)]
    assert shares[0] == 0
    assert shares[2] == 0.5


def test_gap_law_errors() -> None:
    with pytest.raises(ValueError, match=r"gap_law.start: received 0\.9; allowed: <= end=0\.1; remedy: swap the two"):
        GapLaw(start=0.9, end=0.1)


# ---- chain --------------------------------------------------------------------------------------------------------


def test_weights_of_a_chain_multiply() -> None:
    found, t = plan(MinSNR(form="v"), MinSNR(form="eps")), torch.tensor([0.2, 0.6])
    torch.testing.assert_close(found.v_weight(t), MinSNR(form="v").alpha(t) * MinSNR(form="eps").alpha(t))


def test_a_curriculum_that_reads_an_observer_needs_it() -> None:
    gaps, cells = GapsOptions(every=50), CellsOptions(every=50)
    for observers in ((), (cells,)):
        with pytest.raises(
            ValueError, match=r"observers: received .*; allowed: gaps among them, which the curriculum l"
        ):
            RunConfig(curricula=(Beta(), Listening()), observers=observers)
    config = RunConfig(curricula=(Listening(),), observers=(cells, gaps))
    assert RunConfig.model_validate_json(config.to_json()) == config
    assert RunConfig(observers=()).curricula == ()


class Silent(Constant):
    """Records a number that it has not declared."""

    kind: Literal["silent"] = "silent"  # type: ignore[assignment]

    def apply(self, plan: Plan, progress: Progress, state: State) -> Plan:
        return record(super().apply(plan, progress, state), whisper=1.0)


def test_numbers_without_a_unit_are_refused_before_the_run() -> None:
    refusal = r"series of silent: received \['whisper'\]; allowed: none; remedy: declare its unit .*Silent.SERIES"
    with pytest.raises(ValueError, match=refusal):
        plan(Beta(), Silent())
    with pytest.raises(ValueError, match=refusal):
        RunConfig(curricula=(Beta(), Silent()))


def test_states_must_match_the_chain() -> None:
    with pytest.raises(ValueError, match="shorter"):
        plan(Beta(), DTD(), states=[{}])
