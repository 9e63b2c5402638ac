"""What curricula and objectives declare: numbers with their units, and the observers that they learn from."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import pytest
import torch
from builders import recipe, state_of

from dynamics.config import RunConfig
from dynamics.curricula import Beta, Curriculum, GapLaw, Plan, Progress, State, plan_for
from dynamics.curricula.plan import record
from dynamics.flow.rows import Rows
from dynamics.flow.times import TimesOptions
from dynamics.instruments import CellsOptions, GapsOptions, GramOptions
from dynamics.models import Network
from dynamics.objectives import FlowMatching, LossTerms, MeanFlow
from dynamics.training import TrainingNetwork, draw, series_of, train_step

ONE = ("1", "made up")


class Silent(Curriculum):
    """It records a number that it has not declared."""

    kind: Literal["silent_of_tests"] = "silent_of_tests"
    from_step: int = 0

    def apply(self, plan: Plan, progress: Progress, state: State) -> Plan:
        return record(plan, secret=1.0, other=2.0) if progress.step >= self.from_step else plan


class Declared(Silent):
    SERIES: ClassVar[Mapping[str, tuple[str, str]]] = {"secret": ONE, "other": ("pixel", "made up too")}

    kind: Literal["declared_of_tests"] = "declared_of_tests"  # type: ignore[assignment]


class Renamed(Curriculum):
    """It declares a number of another curriculum in another unit."""

    SERIES: ClassVar[Mapping[str, tuple[str, str]]] = {"beta_s": ("pixel", "something else")}

    kind: Literal["renamed_of_tests"] = "renamed_of_tests"

    def apply(self, plan: Plan, progress: Progress, state: State) -> Plan:
        return plan


class Reader(Curriculum):
    READS: ClassVar[frozenset[str]] = frozenset({"gram", "gaps"})

    kind: Literal["reader_of_tests"] = "reader_of_tests"

    def apply(self, plan: Plan, progress: Progress, state: State) -> Plan:
        return plan


class Extra(MeanFlow):
    """It records the smaller of two times of each row."""

    SERIES: ClassVar[Mapping[str, tuple[str, str]]] = {"mean_r": ("1", "r, mean over rows")}

    kind: Literal["extra_of_tests"] = "extra_of_tests"  # type: ignore[assignment]

    def loss(self, net: Network, rows: Rows, now: Progress) -> LossTerms:
        return replace(super().loss(net, rows, now), extras={"mean_r": rows.r, "fraction": rows.r * 0 + now.fraction})


class Complete(Extra):
    SERIES: ClassVar[Mapping[str, tuple[str, str]]] = {**Extra.SERIES, "fraction": ("1", "progress of training")}

    kind: Literal["complete_of_tests"] = "complete_of_tests"  # type: ignore[assignment]


def test_a_number_without_a_unit_is_refused_by_name() -> None:
    message = (
        r"series of silent_of_tests: received \['other', 'secret'\]; allowed: none; "
        r"remedy: declare its unit and text in Silent.SERIES"
    )
    for chain in ((Silent(),), (GapLaw(), Silent(), Beta())):
        with pytest.raises(ValueError, match=message):
            plan_for(TimesOptions(), chain, Progress(0, 10), [{}] * len(chain))
    found = plan_for(TimesOptions(), (Declared(), Beta()), Progress(5, 10), [{}, {}])
    assert found.series == {"secret": 1.0, "other": 2.0, "beta_s": 0.5}


def test_it_is_refused_before_the_run_also_if_it_comes_late() -> None:
    last = RunConfig().training.num_steps - 1
    for step in (0, last):
        with pytest.raises(ValueError, match="series of silent_of_tests"):
            RunConfig(curricula=(Silent(from_step=step),))
        assert RunConfig(curricula=(Declared(from_step=step),)).curricula[0].kind == "declared_of_tests"


def test_one_name_has_one_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "series of renamed_of_tests: received 'beta_s'; allowed: a name that nobody else records; remedy: choose"
    with pytest.raises(ValueError, match=message):
        RunConfig(curricula=(Beta(), Renamed()))
    RunConfig(curricula=(Renamed(),))
    found = series_of(Complete(), (Beta(), Declared()))
    assert found["secret"] == ONE
    assert found["fraction"] == ("1", "progress of training")
    assert {"loss", "grad_norm", "beta_s", "mean_r", "other"} < set(found)
    monkeypatch.setattr(Complete, "SERIES", {"loss": ("pixel", "another loss")})
    with pytest.raises(ValueError, match="series of complete_of_tests: received 'loss'; allowed: a name that nobody"):
        series_of(Complete(), ())


def test_a_curriculum_that_hears_needs_somebody_who_speaks() -> None:
    for observers, missing in (
        ((), "gaps, gram"),
        ((GapsOptions(),), "gram"),
        ((GramOptions(), CellsOptions()), "gaps"),
    ):
        message = rf"observers: received .*; allowed: {missing} among them, which the curriculum reader_of_tests reads"
        with pytest.raises(ValueError, match=message):
            RunConfig(curricula=(Beta(), Reader()), observers=observers)
    RunConfig(curricula=(Beta(), Reader()), observers=(GramOptions(), GapsOptions()))
    RunConfig(curricula=(Beta(),), observers=())


def test_a_loss_of_velocities_alone_takes_no_gaps_at_any_step() -> None:
    message = (
        r"times.gap_share: received 0\.25; allowed: 0 at every step with the flow_matching objective; remedy: set it"
    )
    with pytest.raises(ValueError, match=message):
        RunConfig(objective=FlowMatching())
    later = GapLaw(start=0.5, gap_share_to=0.5)
    with pytest.raises(ValueError, match=r"times.gap_share: received 0\.4"):
        RunConfig(objective=FlowMatching(), times=TimesOptions(gap_share=0.0), curricula=(later,))
    RunConfig(objective=FlowMatching(), times=TimesOptions(gap_share=0.0))


def test_numbers_of_an_objective_are_recorded_as_means_over_the_rows() -> None:
    """Of all passes of a step; no step is done with numbers that have no unit."""
    means = []
    for accumulation in (1, 4):
        of = recipe(Complete(), accumulation=accumulation)
        state = state_of(of, dtype=torch.float32)
        plan = of.plan(state.step, [])
        rows = draw(of, plan, state.step)
        found = train_step(state, TrainingNetwork(state, of.training), of, plan, rows)
        assert found.series["mean_r"] == pytest.approx(float(rows.r.mean()), rel=1e-6)
        assert found.series["fraction"] == pytest.approx(0.2)
        assert torch.equal(found.rows.extras["mean_r"], rows.r.double()), "in the order of the batch"
        means.append(found.series["mean_r"])
    assert means[0] == pytest.approx(means[1])
    of = recipe(Extra())
    state = state_of(of, dtype=torch.float32)
    before = {name: p.clone() for name, p in state.model.named_parameters()}
    message = (
        r"extras of extra_of_tests: received \['fraction', 'mean_r'\]; allowed: \['mean_r'\]; "
        r"remedy: declare their units and texts in Extra.SERIES"
    )
    with pytest.raises(ValueError, match=message):
        train_step(state, TrainingNetwork(state, of.training), of, plan, rows)
    assert all(torch.equal(p, before[name]) for name, p in state.model.named_parameters())
    assert state.step == 2
