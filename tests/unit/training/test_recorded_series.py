"""Numbers that objectives and curricula record: with a unit in the file, or refused before anything has changed."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from builders import recipe, state_of
from invented import Loudest, Remembering

from dynamics.config import RunConfig
from dynamics.curricula import Beta
from dynamics.flow.times import TimesOptions
from dynamics.objectives import LossTerms, MeanFlow
from dynamics.runner import run
from dynamics.store import read_run
from dynamics.training import TrainingNetwork, draw, series_of, train_step

V_ALONE = TimesOptions(gap_share=0.0)


@pytest.fixture
def loud(tiny: RunConfig) -> RunConfig:
    training = tiny.training.model_copy(update={"num_steps": 6})
    change = {"objective": Loudest(), "times": V_ALONE, "curricula": (Remembering(),), "observers": ()}
    return tiny.model_copy(update={"training": training, **change})


def test_what_is_declared_is_in_the_file_with_its_unit(loud: RunConfig, tmp_path: Path) -> None:
    training = read_run(run(loud, tmp_path / "run", progress=False) / "run.nc")["training"]
    assert training.loudest.attrs == {"units": "pixel", "long_name": Loudest.SERIES["loudest"][1]}
    assert training.hour.attrs["units"] == "1"
    assert training.spread.attrs == {"units": "1", "long_name": Remembering.SERIES["spread"][1]}
    what = loud.recipe()
    for step in range(6):
        t = draw(what, what.plan(0, [Remembering().initial_state()]), step).t.double()
        assert float(training.hour[step]) == pytest.approx(float(t.mean()), rel=1e-6)
    assert float(training.loudest[0]) == 0, "a network that has learned nothing answers 0"
    assert float(training.loudest[-1]) > 0


@pytest.mark.parametrize("says", [("loudest", "hour", "other"), ("hour",), ()])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_what_is_not_declared_is_refused_before_weights_change(says: tuple[str, ...], accumulation: int) -> None:
    what = recipe(Loudest(says=says), times=V_ALONE, curricula=(Remembering(),), accumulation=accumulation)
    state = state_of(what, dtype=torch.float32)
    state.step = 0
    parts = {**dict(state.model.named_parameters()), **{f"ema {n}": w for n, w in state.average().items()}}
    before = {name: part.detach().clone() for name, part in parts.items()}
    moments = {str(i): m["exp_avg"].clone() for i, m in state.optimizer.state_dict()["state"].items()}
    plan = what.plan(0, state.curricula)
    expected = rf"extras of loudest: received {sorted(says)}; allowed: .*; remedy: .*in Loudest.SERIES".replace(
        "[", r"\["
    )
    with pytest.raises(ValueError, match=expected):
        train_step(state, TrainingNetwork(state, what.training), what, plan, draw(what, plan, 0))
    assert all(torch.equal(part, before[name]) for name, part in parts.items())
    after = state.optimizer.state_dict()["state"]
    assert all(torch.equal(after[int(i)]["exp_avg"], moment) for i, moment in moments.items())
    assert (state.step, float(state.cells.sum()), state.curricula[0]["note"]["steps"]) == (0, 0.0, 0)


def test_every_row_has_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    what = recipe(Loudest(), times=V_ALONE)
    state = state_of(what, dtype=torch.float32)
    plan, net = what.plan(0, []), TrainingNetwork(state, what.training)
    record = train_step(state, net, what, plan, draw(what, plan, 0))
    assert {name: column.shape for name, column in record.rows.extras.items()} == {"loudest": (16,), "hour": (16,)}
    assert not any(column.requires_grad for column in record.rows.columns().values())
    torch.testing.assert_close(record.rows.extras["hour"], record.rows.t)
    loss = Loudest.loss

    def half(self: Loudest, *args: Any) -> LossTerms:
        terms = loss(self, *args)
        return replace(terms, extras={name: values[:8] for name, values in terms.extras.items()})

    monkeypatch.setattr(Loudest, "loss", half)
    before = [p.detach().clone() for p in state.model.parameters()]
    with pytest.raises(ValueError, match=r"extras of loudest: received .*\(8,\).*; allowed: one number a row, \(16,\)"):
        train_step(state, net, what, plan, draw(what, plan, 0))
    assert all(torch.equal(a, b) for a, b in zip(before, state.model.parameters(), strict=True))


def test_such_a_run_ends_at_once(loud: RunConfig, tmp_path: Path) -> None:
    more = loud.model_copy(update={"objective": Loudest(says=("loudest", "hour", "other"))})
    with pytest.raises(ValueError, match="extras of loudest"):
        run(more, tmp_path / "run", progress=False)
    log = tmp_path / "run" / "log.jsonl"
    assert not log.exists() or "training" not in log.read_text()
    assert not list((tmp_path / "run").rglob("step_*"))


class OtherSpread(Loudest):
    """Records what a curriculum records too, as something else."""

    SERIES: ClassVar[Mapping[str, tuple[str, str]]] = {"spread": ("pixel", "something else")}

    kind: Literal["other_spread"] = "other_spread"  # type: ignore[assignment]


class OwnLoss(Loudest):
    """Records a number by the name of one that every run has."""

    SERIES: ClassVar[Mapping[str, tuple[str, str]]] = {"loss": ("1", "something else")}

    kind: Literal["own_loss"] = "own_loss"  # type: ignore[assignment]


def test_one_name_means_one_thing(loud: RunConfig) -> None:
    assert {"loss", "beta_s"} <= series_of(MeanFlow(), (Beta(), Beta())).keys()
    for objective, owner in ((OtherSpread(), "remembering"), (OwnLoss(), "own_loss")):
        with pytest.raises(ValueError, match=rf"series of {owner}: received .*; allowed: a name that nobody else rec"):
            RunConfig.model_validate({**dict(loud), "objective": objective})


@pytest.mark.parametrize("name", ["raw", "t", "is_v", "step", "group", "a/b", ""])
def test_names_that_mean_something_already_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loudest, "SERIES", {name: ("1", "a text")})
    with pytest.raises(ValueError, match=rf"series of loudest: received '{name}'; allowed: an identifier that is none"):
        series_of(Loudest(), ())
