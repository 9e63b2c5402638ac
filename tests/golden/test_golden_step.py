"""One training step of a fixed seed against recorded numbers: a change of behaviour that nobody intended shows here.

    DYNAMICS_REGENERATE_GOLDEN=1 python -m pytest tests/golden

writes the file anew; look at its diff before committing it.
"""

import json
import os
from pathlib import Path

import pytest
import torch

from dynamics.curricula import Beta, Curriculum, LearnedVariance, MinSNR, TemporalEquilibrium
from dynamics.data import Digits
from dynamics.flow.times import TimesOptions
from dynamics.models import DiTOptions, build
from dynamics.objectives import (
    TEMF,
    TVM,
    Adaptive,
    AlphaFlow,
    Annealed,
    FlowMatching,
    Guidance,
    MeanFlow,
    Objective,
    Shortcut,
    SoFlow,
    SplitMeanFlow,
)
from dynamics.training import Recipe, TrainingNetwork, TrainingOptions, draw, start, train_step

FILE = Path(__file__).with_name("step.json")
TOLERANCE = 1e-4
REGENERATE = "DYNAMICS_REGENERATE_GOLDEN"
REMEDY = f"if the change is intended, run `{REGENERATE}=1 python -m pytest tests/golden` and commit {FILE.name}"
CASES: dict[str, tuple[Objective, float, tuple[Curriculum, ...]]] = {
    "flow_matching": (FlowMatching(), 0.0, ()),
    "meanflow": (MeanFlow(), 0.25, ()),
    "guided": (MeanFlow(guidance=Guidance(w=1.0, k=0.5)), 0.25, ()),
    "improved": (MeanFlow(), 0.25, (MinSNR(), Beta())),
    "shortcut": (Shortcut(guidance_scale=1.5), 0.25, ()),
    "split": (SplitMeanFlow(guidance=Guidance(w=1.0, k=0.5)), 0.5, ()),
    "alphaflow": (AlphaFlow(alpha=Annealed(path="linear")), 0.5, ()),
    "soflow": (SoFlow(guidance=Guidance(w=0.75, k=0.75, t_end=0.8, fade=0.025)), 0.25, ()),
    "tvm": (TVM(guidance=Guidance(w=4 / 3)), 0.5, ()),
    "dmf": (MeanFlow(adaptive=Adaptive(p=0)), 0.5, (LearnedVariance(form="log"),)),
    "temf": (TEMF(), 0.1, (TemporalEquilibrium(),)),
}


def one_step(objective: Objective, gap_share: float, curricula: tuple[Curriculum, ...]) -> dict[str, float]:
    """Train the second of ten steps on digits from perturbed weights, and describe the outcome."""
    options = TrainingOptions(num_steps=10, batch_size=32, learning_rate=1e-3, ema_decays=(0.9,), num_threads=1)
    recipe = Recipe(Digits().load(), objective, TimesOptions(gap_share=gap_share), curricula, options, seed=0)
    model = build(DiTOptions(dim=16, depth=2, heads=2), recipe.data.shape, recipe.condition, seed=0)
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():  # at initialisation u = 0 and du/dt = 0: nothing to see
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=stream))
    state = start(model, options, curricula)
    state.step = 1
    # Adam's first step is lr * sign(gradient), and the key biases' gradient is zero up to rounding: with the usual eps
    # of 1e-8 their steps, and the sums below, would depend on the processor
    state.optimizer.param_groups[0]["eps"] = 1e-3
    plan = recipe.plan(state.step, state.curricula)
    rows = draw(recipe, plan, state.step)
    record = train_step(state, TrainingNetwork(state, options), recipe, plan, rows)
    numbers = {name: value for name, value in record.flat().items() if name != "step_seconds"}
    for index, count in enumerate(numbers.pop("gap_count")):
        numbers[f"gap_count_{index}"] = count
    parameters = [p.detach().double() for p in model.parameters()]
    numbers["sum_of_weights"] = sum(float(p.sum()) for p in parameters)
    numbers["norm_of_weights"] = float(torch.stack([p.square().sum() for p in parameters]).sum().sqrt())
    numbers["sum_of_ema"] = sum(float(p.double().sum()) for p in state.emas["0.9"].values())
    numbers["sum_of_times"] = float(rows.t.double().sum() + rows.r.double().sum())
    numbers["num_dropped"] = int(rows.dropped.sum())
    return {name: value for name, value in numbers.items() if value == value}  # a step without gap rows has NaN losses


@pytest.mark.parametrize("case", CASES)
def test_one_step(case: str) -> None:
    found = one_step(*CASES[case])
    golden = json.loads(FILE.read_text()) if FILE.exists() else {}
    if os.environ.get(REGENERATE):
        golden[case] = found
        FILE.write_text(json.dumps({name: golden[name] for name in CASES if name in golden}, indent=1) + "\n")
    assert case in golden, f"no recorded numbers for {case}: {REMEDY}"
    assert found.keys() == golden[case].keys(), f"the names of the recorded numbers changed: {REMEDY}"
    changed = {
        name: (golden[case][name], value)
        for name, value in found.items()
        if value != pytest.approx(golden[case][name], rel=TOLERANCE, abs=1e-9)
    }
    assert not changed, f"one training step changed (recorded, now): {changed}; {REMEDY}"


def test_the_step_is_not_trivial() -> None:
    found = one_step(*CASES["improved"])
    assert found["du_dt_norm"] > 0.1
    assert found["grad_norm"] > 0
    assert found["total_v_weight"] < 0.75
    assert found["num_dropped"] > 0
