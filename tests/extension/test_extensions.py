"""Extensions of one file each, outside the package: trained on 1 and on 2 ranks, observed, evaluated, reported."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from affinity_curriculum import AffinityGate
from ranks import Result, launch
from ring_data import NUM_ANGLES, Ring, RingOptions, RingOracle, directions
from straightness_instrument import StraightnessOptions
from terminal_objective import Terminal
from waves_backbone import WavesOptions

from dynamics import load_model, open_results
from dynamics.cli import main
from dynamics.config import RunConfig, with_values
from dynamics.evaluation import EvaluationOptions
from dynamics.flow.times import TimesOptions
from dynamics.instruments import GapsOptions, GramOptions
from dynamics.models import MLPOptions
from dynamics.options import Options
from dynamics.runner import evaluate_run, run
from dynamics.training import TrainingOptions

HERE = Path(__file__).parent
OBSERVERS = (
    GapsOptions(every=15, rows_per_bin=4),
    GramOptions(every=10, num_splits=2, rows_per_split=4, groups="model"),
)
BASE = RunConfig(
    model=MLPOptions(dim=16, depth=1),
    times=TimesOptions(gap_share=0.5),
    training=TrainingOptions(
        num_steps=30, batch_size=16, learning_rate=3e-3, ema_decays=(0.9,), num_threads=1, checkpoint_every=15
    ),
    observers=OBSERVERS,
)
EXTENSIONS: dict[str, dict[str, Options | tuple[Options, ...]]] = {
    "objective": {"objective": Terminal()},
    "curriculum": {"curricula": (AffinityGate(low=0.2),)},
    "instrument": {"observers": (*OBSERVERS, StraightnessOptions(every=15, num_rows=4))},
    "data": {"data": RingOptions()},
    "backbone": {"model": WavesOptions(dim=16)},
}
CONFIGS = {name: with_values(BASE, changes) for name, changes in EXTENSIONS.items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The five runs on one rank, by name."""
    folder = tmp_path_factory.mktemp("alone")
    for name, config in CONFIGS.items():
        run(config, folder / name, progress=False)
    return folder


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The five runs on two ranks, by way of sharing and name; all from one start of two processes."""
    folder = tmp_path_factory.mktemp("together")

    def train(rank: int) -> Result:
        for parallel in ("ddp", "fsdp"):
            for name, config in CONFIGS.items():
                run(with_values(config, {"training.parallel": parallel}), folder / parallel / name, progress=False)
        return {}

    results = launch(train, folder / "ranks", seconds=300)
    assert [result.get("error") for result in results] == [None, None]
    return folder


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", EXTENSIONS)
def test_two_ranks_are_one(name: str, parallel: str, alone: Path, together: Path) -> None:
    found, expected = open_results(together / parallel / name), open_results(alone / name)
    assert set(found.children) == set(expected.children)
    assert {"training", "gaps", "gram"} <= set(found.children)
    for group in found.children:
        assert set(found[group].data_vars) == set(expected[group].data_vars)
        for key, values in expected[group].data_vars.items():
            # a standard error of nearly equal numbers is mostly their rounding
            if values.dtype.kind == "f" and key != "step_seconds" and not str(key).endswith("_sem"):
                scale = float(np.nanmax(np.abs(values)))
                np.testing.assert_allclose(
                    found[group][key], values, rtol=1e-3, atol=1e-4 * scale, err_msg=f"{name}: {group}/{key}"
                )


@pytest.mark.parametrize("name", EXTENSIONS)
def test_it_is_evaluated_and_reported(name: str, alone: Path, tmp_path: Path) -> None:
    folder = alone / name
    measured = evaluate_run(folder, EvaluationOptions(num_samples=64, nfe=(1, 2)), exact_rows=4, progress=False)
    assert np.isfinite(measured["u_error"]).all()
    assert np.isfinite(measured["one_step_error"])
    assert len(list((folder / "checkpoints").iterdir())) == 2
    main(["report", str(folder), "--out", str(tmp_path / name)])
    text = (tmp_path / name / "report.md").read_text()
    assert "error_by_gap" in text
    config = RunConfig.model_validate_json((folder / "config.json").read_text())
    assert config == CONFIGS[name], "a config with a member from elsewhere comes back from its JSON"


def test_what_an_extension_records_has_its_unit(alone: Path) -> None:
    of_objective = open_results(alone / "objective")["training"]["gap_weight"]
    assert of_objective.attrs["units"] == "1"
    # half of the rows have weight 1, the others rise to it over half of the training
    expected = [0.5 + 0.5 * min(1.0, step / 30 / 0.5) for step in range(30)]
    np.testing.assert_allclose(of_objective, expected, rtol=1e-6)
    assert open_results(alone / "instrument")["straightness"]["bend"].dims == ("step", "t")
    tree = open_results(alone / "curriculum")
    open_gaps = tree["training"]["open_gaps"].values
    assert open_gaps[0] in range(5), "it has learned from the measurement before the first step"
    assert len(set(open_gaps.tolist())) > 1 or open_gaps[0] < 4 or tree["gram"].sizes["step"] == 4


def test_a_curriculum_hears_what_the_gram_says(alone: Path) -> None:
    """Its numbers follow from the recorded measurements alone."""
    from dynamics.estimators import split_products
    from dynamics.estimators.cosine import cosines

    tree, curriculum = open_results(alone / "curriculum"), AffinityGate(low=0.2)
    state, steps = curriculum.initial_state(), tree["gram"]["step"].values.tolist()
    assert steps == [0, 10, 20, 30]
    expected = []
    for step in steps[:-1]:
        state = curriculum.learn(state, {"gram": tree["gram"].to_dataset().sel(step=step)})
        expected += [float((state["cosine"] >= 0).sum())] * 10
    assert tree["training"]["open_gaps"].values.tolist() == expected
    assert np.isfinite(cosines(split_products(tree["gram"]["gram"].sel(group="model").values))).any()


def test_an_objective_that_regresses_something_else_is_refused_by_what_needs_u(alone: Path) -> None:
    with pytest.raises(SystemExit):
        main(["probe", str(alone / "objective"), "--instruments", "lookahead"])
    with pytest.raises(SystemExit):
        main(["probe", str(alone / "objective"), "--instruments", "decomposition"])


@pytest.fixture
def rows() -> Iterator[tuple[torch.Tensor, ...]]:
    stream = torch.Generator().manual_seed(0)
    x, c = Ring(0.1).batch(0, 0, 64)
    t = 0.2 + 0.8 * torch.rand(64, generator=stream, dtype=torch.float64)
    e = torch.randn(64, 2, 1, 1, generator=stream, dtype=torch.float64)
    z = (1 - t[:, None, None, None]) * x + t[:, None, None, None] * e
    return z, t, t * torch.rand(64, generator=stream, dtype=torch.float64), c


def test_the_truth_of_the_ring_is_exact(rows: tuple[torch.Tensor, ...]) -> None:
    """Given a direction, the posterior of one Gaussian, written out; without one, u adds up along the path."""
    (z, t, r, c), oracle, std = rows, RingOracle(0.1), 0.1
    m, at = c.double().view_as(z), t[:, None, None, None]
    variance = (1 - at) ** 2 * std**2 + at**2
    x_hat = m + (1 - at) * std**2 / variance * (z - (1 - at) * m)
    torch.testing.assert_close(oracle.v(z, t, c), (z - x_hat) / at, rtol=1e-9, atol=1e-9)
    null = torch.zeros_like(c)
    middle, gap = (t + r) / 2, (t - r)[:, None, None, None]
    first = oracle.u(z, t, middle, null)
    second = oracle.u(z - gap / 2 * first, middle, r, null)
    torch.testing.assert_close(oracle.u(z, t, r, null), (first + second) / 2, rtol=1e-4, atol=1e-4)


def test_a_network_follows_a_direction(tmp_path: Path) -> None:
    """Training on the ring works: one step from noise lands near the direction asked for."""
    changes = {"training.num_steps": 400, "training.batch_size": 128, "observers": (), "model.dim": 64}
    run(with_values(CONFIGS["data"], changes), tmp_path / "run", progress=False)
    u, c = load_model(tmp_path / "run"), directions().repeat_interleave(20, 0)
    e = torch.randn(20 * NUM_ANGLES, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    one = torch.ones(len(e))
    found = (e - u(e, one, 0 * one, c)).flatten(1).detach()
    assert float((found - c).norm(dim=1).mean()) < 0.5


def test_kinds_of_extensions_are_in_the_help() -> None:
    names = "terminal_objective,affinity_curriculum,straightness_instrument,ring_data,waves_backbone"
    environment = {**os.environ, "DYNAMICS_EXTENSIONS": names, "PYTHONPATH": f"{HERE}{os.pathsep}{Path.cwd()}"}
    command = [sys.executable, "-m", "dynamics", "train", "digits-meanflow", "--objective.kind", "terminal", "--help"]
    text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout
    for kind in ("terminal", "affinity_gate", "straightness", "ring", "waves"):
        assert kind in text
    assert "--objective.ramp" in text
