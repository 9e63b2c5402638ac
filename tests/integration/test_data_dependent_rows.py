"""Objectives that ask the network about as many rows as the data say, none included: two ranks are like one."""

from dataclasses import dataclass
from itertools import product

import pytest
import torch
from invented import Picky
from ranks import Result, launch
from torch import Tensor

from dynamics.config import RunConfig, with_values
from dynamics.curricula import State
from dynamics.flow.times import TimesOptions
from dynamics.models import DiTOptions, build
from dynamics.presets import PRESETS
from dynamics.training import TrainingNetwork, TrainingOptions, draw, joined, split, start, train_step, world
from dynamics.training.distributed import whole

PASSES = ("ordinary", "derivative", "slope", "both")
FAMILY = ("alphaflow", "soflow", "shortcut", "split", "imf", "tvm", "temf", "dmf")
"""Presets on digits whose losses are the same of one rank and two."""
SHARED = ("ddp 1", "ddp 2", "fsdp 1", "fsdp 2")
"""Who holds the weights, and how many passes a step has."""
SHARED_BY_FAMILY = ("ddp 1", "fsdp 2")
STEPS, BATCH = 6, 16
STEPS_OF_FAMILY = 3
"""Of presets nobody counts rows: after three steps averages, teachers and memories differ from where they began."""


@dataclass
class Trained:
    """What a run of a few steps came to."""

    weights: dict[str, Tensor]
    """Raw ones and their average."""
    numbers: Tensor
    """Loss, norm of the gradient and series, such as the share of rows asked about, by step."""
    picked: Tensor
    """Which rows the network was asked about, [step, row] bool; of presets nobody counts."""
    memories: list[State]
    """What the curricula remember."""


def config_of(name: str) -> RunConfig:
    """Return the config of an objective of tests, by the way of its gradients, or of a preset."""
    if name in FAMILY:
        return PRESETS[f"digits-{name}"]
    objective, training = Picky.model_validate({"passes": name}), TrainingOptions(ema_decays=(0.5,))
    return RunConfig(objective=objective, times=TimesOptions(gap_share=0.5), training=training)


def train(passes: str, shared: str = "ddp 1") -> Trained:
    """Train a few steps with all ranks that there are."""
    parallel, accumulation = shared.split()
    num_steps = STEPS_OF_FAMILY if passes in FAMILY else STEPS
    options = {"parallel": parallel, "accumulation": int(accumulation), "num_steps": num_steps, "batch_size": BATCH}
    config = with_values(
        config_of(passes),
        {"model": DiTOptions(dim=16, depth=2, heads=2)}
        | {f"training.{name}": value for name, value in {**options, "num_threads": 1, "clip_norm": 1.0}.items()},
    )
    recipe, stream = config.recipe(), torch.Generator().manual_seed(0)
    model = build(config.model, recipe.data.shape, recipe.condition, config.seed)
    with torch.no_grad():  # at initialisation u = 0 and du/dt = 0: nothing to see
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=stream))
    state = start(model, config.training, config.curricula)
    # Adam's first steps are lr * sign(gradient), also of gradients that are zero up to rounding
    state.optimizer.param_groups[0]["eps"] = 1e-3
    if parallel == "fsdp" and world().size > 1:
        split(state)
    net, numbers, picked = TrainingNetwork(state, config.training), [], []
    for step in range(num_steps):
        plan = recipe.plan(step, state.curricula)
        record = train_step(state, net, recipe, plan, draw(recipe, plan, step))
        numbers.append([record.loss, record.grad_norm, *record.series.values()])
        picked.append(record.rows.extras.get("picked", torch.zeros(BATCH)).bool())
    parts = dict(state.model.named_parameters()) | {f"ema {name}": w for name, w in state.average().items()}
    weights = {name: whole(part.detach()).clone() for name, part in parts.items()}
    return Trained(weights, torch.tensor(numbers), torch.stack(picked), state.curricula)


@pytest.fixture(scope="module")
def alone() -> dict[str, Trained]:
    """Runs of one rank, by passes."""
    return {passes: train(passes) for passes in (*PASSES, *FAMILY)}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    """What each of two ranks came to, by passes and sharing, or how it failed; all from one start."""
    folder = tmp_path_factory.mktemp("together")

    def act(rank: int) -> Result:
        out: Result = {}
        with joined(torch.device("cpu")):
            for passes in (*PASSES, *FAMILY):
                for shared in SHARED if passes in PASSES else SHARED_BY_FAMILY:
                    (folder / f"at{rank}").write_text(f"{passes}, {shared}")
                    try:
                        out[f"{passes}, {shared}"] = train(passes, shared)
                    except (RuntimeError, ValueError, AssertionError) as error:
                        out[f"{passes}, {shared}"] = error
        return out

    try:
        results = launch(act, folder / "ranks", seconds=180)
    except AssertionError as hung:
        where = [(folder / f"at{rank}").read_text() for rank in (0, 1)]
        raise AssertionError(f"{hung}, at {where}") from None
    assert [result.get("error") for result in results] == [None, None]
    return results


def test_the_draw_is_what_it_has_to_be(alone: dict[str, Trained]) -> None:
    """There are steps in which one rank alone has rows to ask about, one pass alone, and nobody has any."""
    picked = alone["ordinary"].picked
    by_rank = picked.view(STEPS, -1, 2).any(1)
    assert bool((by_rank[:, 0] & ~by_rank[:, 1]).any())
    assert bool((~by_rank[:, 0] & by_rank[:, 1]).any())
    assert bool((by_rank[:, 0] & by_rank[:, 1]).any())
    by_rank_and_pass = picked.view(STEPS, -1, 4).any(1)
    assert bool((by_rank_and_pass[:, 0] & ~by_rank_and_pass[:, 2]).any())
    assert bool((~by_rank_and_pass[:, 0] & by_rank_and_pass[:, 2]).any())
    assert not bool(picked.any(1).all())
    for passes in PASSES:
        assert bool((alone[passes].numbers[:, 1] > 0).any())


@pytest.mark.parametrize(("passes", "shared"), [*product(PASSES, SHARED), *product(FAMILY, SHARED_BY_FAMILY)])
def test_two_ranks_are_one(passes: str, shared: str, alone: dict[str, Trained], together: list[Result]) -> None:
    expected = alone[passes]
    scale = max(float(weight.abs().max()) for weight in expected.weights.values())
    for result in together:
        found = result[f"{passes}, {shared}"]
        assert isinstance(found, Trained), found
        # SoFlow divides by 1 / rho, a hundred and more: so is rounding
        rtol = 1e-4 if passes == "soflow" else 1e-5
        torch.testing.assert_close(found.numbers, expected.numbers, rtol=rtol, atol=1e-7)
        assert torch.equal(found.picked, expected.picked)
        assert found.weights.keys() == expected.weights.keys()
        for name, weight in expected.weights.items():
            assert float((found.weights[name] - weight).abs().max()) <= 1e-5 * scale, name
        for memory, other in zip(found.memories, expected.memories, strict=True):
            torch.testing.assert_close(memory, other, rtol=1e-4, atol=1e-6)
    first, second = (result[f"{passes}, {shared}"] for result in together)
    for memory, other in zip(first.memories, second.memories, strict=True):
        torch.testing.assert_close(memory, other, rtol=0, atol=0)
    assert all(torch.equal(first.weights[name], weight) for name, weight in second.weights.items())
