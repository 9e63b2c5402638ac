"""Guidance as a condition of the network: drawn in training, asked for by instruments, samplers and users."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import LABELS, NOW, Counting, batch, gradients, network, recipe, state_of
from pydantic import ValidationError

import dynamics
from dynamics.cli import main
from dynamics.config import RunConfig
from dynamics.instruments import (
    DecompositionOptions,
    GapsOptions,
    GramOptions,
    InstrumentOptions,
    LookaheadOptions,
    RowGramOptions,
)
from dynamics.models import DiTOptions, Network
from dynamics.objectives import Guidance, GuidanceLaw, IMeanFlow, MeanFlow
from dynamics.objectives.asked_guidance import AskedOracle, GuidedCondition, same_guidance
from dynamics.runner import run
from dynamics.training import TrainingNetwork, TrainingOptions, draw, train_step

SAMPLED = IMeanFlow(sampled=GuidanceLaw(), guidance=Guidance(label_drop_prob=0.25))
OF = recipe(SAMPLED, seed=5)


def test_guidance_of_a_row_follows_the_law() -> None:
    rows = SAMPLED.prepare(batch(4000, 2000, dtype=torch.float32), seed=0, step=0)
    c, n = rows.c, rows.num_equal
    logs = c.scale.log() / float(np.log(8))
    for uniform in (logs, 2 * c.t_min[n:], 2 * c.t_max[n:] - 1):
        assert 0 <= float(uniform.min()) < 0.01
        assert 0.99 < float(uniform.max()) <= 1 + 1e-6
        assert float(uniform.mean()) == pytest.approx(0.5, abs=0.03)
        assert float(uniform.var()) == pytest.approx(1 / 12, abs=0.01)
    assert not c.t_min[:n].any(), "r = t rows have guidance everywhere"
    assert bool((c.t_max[:n] == 1).all())
    assert bool((c.of_data[rows.dropped] == LABELS.num_classes).all())
    assert bool((rows.c.scale[rows.dropped] > 1).any()), "a row without a label keeps its guidance"
    assert torch.equal(rows.kept.scale, c.scale)  # type: ignore[attr-defined]
    assert not bool((rows.kept.of_data == LABELS.num_classes).any())  # type: ignore[attr-defined]
    again = SAMPLED.prepare(batch(4000, 2000, dtype=torch.float32), seed=0, step=1)
    assert not torch.equal(again.c.scale, c.scale)


def test_what_is_asked_of_it() -> None:
    """One pass without gradient on kept rows' v_u and all r < t rows' v_c, whichever rows there are."""
    net, sequences = network(condition=GuidedCondition(LABELS)), set()
    for num_gap, dropped in ((4, 0), (4, 16), (0, 0), (16, 0), (16, 16), (0, 16), (4, 12)):
        rows, counting = SAMPLED.prepare(batch(16, num_gap, dtype=torch.float32), 0, 0), Counting(net)
        rows = replace(rows.to(torch.device("cpu"), torch.float64), dropped=torch.arange(16) < dropped)
        SAMPLED.loss(counting, rows, NOW)
        sequences.add(tuple(kind for kind, _ in counting.calls))
        assert counting.reached["frozen"] == ([16 - dropped + num_gap] if 16 - dropped + num_gap else [])
    assert sequences == {("frozen", "jvp", "gradient")}
    assert SAMPLED.forwards_per_row(0.5) == 3 + 2 * 0.5 + 0.5 + 0.75


def test_of_no_rows_there_is_no_gradient() -> None:
    net = network(condition=GuidedCondition(LABELS))
    rows = batch(4, 0)
    c = same_guidance(rows.c).map(lambda a: a.double() if a.is_floating_point() else a)
    none = Network(net)(rows.x[:0], rows.t[:0], rows.t[:0], c[:0]).sum()
    assert not any(bool(gradient.any()) for gradient in gradients(net, none).values()), "NaN would count as true"


@pytest.mark.parametrize("accumulation", [1, 4])
def test_training_learns_every_part_of_the_condition(accumulation: int) -> None:
    of = replace(OF, training=OF.training.model_copy(update={"accumulation": accumulation}))
    state = state_of(of, "mlp", torch.float32)
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    plan = of.plan(state.step, state.curricula)
    record = train_step(state, TrainingNetwork(state, of.training), of, plan, draw(of, plan, state.step))
    assert record.loss == pytest.approx(0.9994, abs=1e-3)  # p = 1
    for part in ("of_data", "scale.out", "t_min.out", "t_max.out"):
        name = f"conditioning.label.{part}.weight"
        assert not torch.equal(state.model.state_dict()[name], before[name]), part


INSTRUMENTS: tuple[InstrumentOptions, ...] = (
    GapsOptions(rows_per_bin=4),
    GramOptions(num_splits=2, rows_per_split=4),
    RowGramOptions(num_rows=6, guidance="off"),
    LookaheadOptions(num_splits=2, rows_per_split=4),
    DecompositionOptions(num_splits=2, rows_per_split=4, rows_per_bin=4, ode_steps=2),
)


@pytest.mark.parametrize("options", INSTRUMENTS, ids=lambda options: options.kind)
def test_instruments_measure_what_is_asked_for(options: InstrumentOptions) -> None:
    state, found = state_of(OF, "mlp", torch.float32), []
    for scale in (1.0, 4.0):
        of = replace(OF, objective=SAMPLED.asking_for(scale, None))
        measured = options.observer(of).measure(state)
        assert all(bool(np.isfinite(values).all()) for values in measured.data_vars.values())
        found.append(measured)
    assert found[0].equals(found[1]) == (getattr(options, "guidance", "run") == "off")


def test_what_cannot_be_asked_for() -> None:
    for objective in (MeanFlow(), IMeanFlow()):
        assert objective.asking_for(None, None) is objective
        with pytest.raises(ValueError, match=r"guidance scale and interval: received \(2\.0, None\).*not conditioned"):
            objective.asking_for(2.0, None)
    with pytest.raises(ValidationError, match=r"guidance.w and guidance.k.*where guidance is sampled"):
        IMeanFlow(sampled=GuidanceLaw(), guidance=Guidance(k=0.5))
    for wrong in ({"scale": (0.5, 8)}, {"t_min": (0, 0.6)}, {"t_max": (0.9, 0.8)}, {"asked_interval": (0.5, 0.4)}):
        with pytest.raises(ValidationError, match=r"two numbers in order"):
            GuidanceLaw.model_validate(wrong)
    assert isinstance(SAMPLED.measured("off").truth(OF.data.oracle()), AskedOracle)  # type: ignore[arg-type]
    off = SAMPLED.asking_for(3.0, (0.2, 0.8)).measured("off").ask(torch.zeros(1, dtype=torch.long))
    assert [float(off.scale), float(off.t_min), float(off.t_max)] == [1, 0, 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = RunConfig(
        model=DiTOptions(dim=16, depth=1, heads=2),
        objective=SAMPLED,
        training=TrainingOptions(
            num_steps=4, batch_size=8, checkpoint_every=1, num_threads=1, learning_rate=0.05, ema_decays=(0.1,)
        ),
    )
    return run(config, tmp_path_factory.mktemp("asked") / "run", progress=False)


def test_guidance_is_chosen_when_samples_are_drawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scale is a protocol of its own, and the exact errors are those against its own truth."""
    small = ["--nfe", "1", "--num-samples", "12", "--exact-rows", "2"]
    main(["evaluate", str(folder), *small])
    main(["evaluate", str(folder), *small, "--guidance-scale", "1", "4", "--guidance-interval", "0.2", "0.8"])
    children = dynamics.open_results(folder).children
    stem = "evaluation_n12_seed0_ema_guidance{}_within0.2-0.8_rows2"
    plain, one, four = (children[name].to_dataset() for name in ("evaluation", stem.format(1), stem.format(4)))
    assert (four.attrs["guidance_scale"], four.attrs["guidance_interval"]) == (4.0, "0.2-0.8")
    assert float(one.one_step_scale) == pytest.approx(float(plain.one_step_scale), rel=1e-6), "no guidance, anywhere"
    assert float(four.one_step_scale) > float(plain.one_step_scale)
    assert not np.array_equal(four.fd_digits, one.fd_digits), "samples too"
    z, t, y = torch.randn(2, 1, 8, 8), torch.ones(2), torch.tensor([3, 4])
    first, other = (dynamics.load_model(folder, guidance_scale=scale)(z, t, 0 * t, y) for scale in (None, 4.0))
    assert not torch.equal(first, other)
    monkeypatch.setattr(IMeanFlow, "asking_for", MeanFlow.asking_for)  # as of a network that knows no guidance
    monkeypatch.setattr("dynamics.runner.measure.quality.network_at", lambda *_: pytest.fail("nothing is computed"))
    with pytest.raises(SystemExit):
        main(["evaluate", str(folder), *small, "--guidance-scale", "2"])
    with pytest.raises(ValidationError, match="guidance_interval"):
        dynamics.evaluate(folder, guidance_interval=(0.8, 0.2))
