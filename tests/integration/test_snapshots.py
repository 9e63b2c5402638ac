"""Snapshots of averages through a run's whole life: killed, resumed, on two ranks, damaged, measured, pruned around."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from forks import ended, forked, killed_run
from ranks import on_ranks, twenty_steps
from sweeps._sweep import same_results

import dynamics
from dynamics.cli import main
from dynamics.config import RunConfig, with_values
from dynamics.runner import RunFolder, run
from dynamics.runner.integrity import examine_files
from dynamics.store import open_results
from dynamics.training import DamagedCheckpointError

LENGTHS, STEPS = (0.05, 0.1), [4, 8, 12, 16, 20]
Said = pytest.CaptureFixture[str]


def kept(tiny: RunConfig, **training: object) -> RunConfig:
    return twenty_steps(tiny, ema_lengths=LENGTHS, snapshot_every=4, **training)


@pytest.fixture
def whole(tiny: RunConfig, twin: Callable[[RunConfig], Path]) -> Path:
    return twin(kept(tiny))


@pytest.fixture
def mine(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted((folder / "snapshots").rglob("step_*/*"))}


def test_snapshots_outlive_checkpoints_and_steps_are_the_same_without(
    tiny: RunConfig, whole: Path, twin: Callable[[RunConfig], Path]
) -> None:
    folder = RunFolder(whole)
    assert folder.snapshots().steps() == STEPS
    assert folder.checkpoints().steps() == [16, 20]
    plain = RunFolder(twin(twenty_steps(tiny))).checkpoints().weights(20, "ema")[1]
    for name, weight in folder.checkpoints().weights(20, "ema")[1].items():
        assert torch.equal(weight, plain[name])


def test_a_killed_run_ends_with_the_same_snapshots(tiny: RunConfig, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    for after in (1, 6, 9, 13):
        ended(forked(partial(killed_run, kept(tiny), out, after)))
    run(kept(tiny), out, progress=False)
    same_results(out, whole)
    assert contents(out) == contents(whole)


def test_split_ranks_keep_their_parts(tiny: RunConfig, whole: Path, tmp_path: Path) -> None:
    on_ranks(kept(tiny, parallel="fsdp", accumulation=2), tmp_path / "both")
    both, alone = (RunFolder(out).snapshots() for out in (tmp_path / "both", whole))
    assert both.steps() == STEPS
    assert len(list(both.path(4).glob("ema_length0.05.*-of-00002.safetensors"))) == 2
    found, expected = (snapshots.rebuilt_weights(0.08)[1] for snapshots in (both, alone))
    scale = max(float(weight.abs().max()) for weight in expected.values())
    for name, weight in expected.items():
        if not name.endswith("qkv.bias"):  # see `ranks.assert_close`
            assert float((found[name] - weight).abs().max()) <= 1e-5 * scale, name


def test_evaluations_of_lengths_lie_side_by_side(mine: Path, capsys: Said) -> None:
    small = ("--nfe", "1", "--num-samples", "12", "--exact-rows", "2")
    main(["evaluate", str(mine), *small])
    main(["evaluate", str(mine), *small, "--ema-length", "0.05", "0.08"])
    assert "length0.08" in capsys.readouterr().out
    children = open_results(mine).children
    lengths = {name: child.attrs.get("ema_length") for name, child in children.items() if name.startswith("evaluation")}
    rest = "n12_seed0_{}_rows2"
    assert lengths == {
        "evaluation": None,
        f"evaluation_{rest.format('length0.05')}": 0.05,
        f"evaluation_{rest.format('length0.08')}": 0.08,
    }
    error = children[f"evaluation_{rest.format('length0.08')}"].one_step_error
    assert float(error) != float(children["evaluation"].one_step_error)
    dynamics.evaluate(mine, ema_length=0.08, nfe=(1,), num_samples=12, exact_rows=2, progress=False)
    assert len(open_results(mine).children) == len(children), "it was measured before"


def test_no_length_is_measured_where_one_cannot_be(mine: Path, capsys: Said) -> None:
    before = (mine / "run.nc").read_bytes()
    with pytest.raises(SystemExit):
        main(["evaluate", str(mine), "--nfe", "1", "--num-samples", "12", "--ema-length", "0.05", "0.004"])
    assert "the nearest is" in capsys.readouterr().err
    assert (mine / "run.nc").read_bytes() == before


def test_a_network_of_any_length(mine: Path) -> None:
    z, t, c = torch.randn(2, 1, 8, 8), torch.ones(2), torch.tensor([0, 3])
    checkpoints = RunFolder(mine).checkpoints()
    stored = dynamics.load_model(mine, ema_length=0.05)(z, t, 0 * t, c)
    assert checkpoints.weights(20, "length0.05")[0] == 20
    assert torch.equal(stored, dynamics.load_model(mine, weights="length0.05")(z, t, 0 * t, c))
    assert not torch.equal(stored, dynamics.load_model(mine, ema_length=0.08)(z, t, 0 * t, c))
    earlier = dynamics.load_model(mine, ema_length=0.05, checkpoint=12)(z, t, 0 * t, c)
    assert not torch.equal(stored, earlier)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"ema_length": 0.4}, "0 < length <= 0.2887 of training"),
        ({"ema_length": 0.004}, "the nearest is"),
        ({"ema_length": 0.05, "weights": "model"}, "no other weights with an ema_length"),
        ({"ema_length": 0.05, "checkpoint": 5}, r"snapshot: received 5; allowed: one of \[4, 8, 12, 16, 20\]"),
    ],
)
def test_what_cannot_be_rebuilt_is_named(whole: Path, how: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        dynamics.load_model(whole, **how)  # type: ignore[arg-type]


def test_a_run_without_snapshots_says_how_to_get_them(tiny: RunConfig, twin: Callable[[RunConfig], Path]) -> None:
    with pytest.raises(ValueError, match=r"a run with snapshots of its averages; remedy: train with training.ema_l"):
        dynamics.load_model(twin(twenty_steps(tiny)), ema_length=0.05)


def test_damage_is_seen(mine: Path) -> None:
    snapshots = RunFolder(mine).snapshots()
    path = snapshots.path(16) / "ema_length0.1.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    damaged = [found for found in examine_files(mine) if found.damage]
    assert [found.path for found in damaged] == [snapshots.path(16)]
    with pytest.raises(DamagedCheckpointError, match=r"snapshot .*step_00000016 is damaged"):
        snapshots.rebuilt_weights(0.08)
    assert snapshots.rebuilt_weights(0.05)[0] == 20, "it needs no other"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"training.ema_lengths": (0.3,)}, "training.ema_lengths: received 0.3"),
        ({"training.ema_lengths": (0.1, 0.1)}, "each length once"),
        ({"training.snapshot_every": 4}, "set training.ema_lengths"),
        ({"training.snapshot_precision": "float16"}, "set training.ema_lengths"),
    ],
)
def test_options_that_do_nothing_are_refused(tiny: RunConfig, changes: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        with_values(tiny, changes)
