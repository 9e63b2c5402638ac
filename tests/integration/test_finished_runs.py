"""A finished run is opened only where its files belong together, and never answered for by an older checkpoint."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dynamics import load_model, open_results
from dynamics.analysis import write_report
from dynamics.config import RunConfig
from dynamics.evaluation import EvaluationOptions
from dynamics.exchange.import_export import export_run
from dynamics.instruments import RowGramOptions
from dynamics.objectives import Shortcut
from dynamics.runner import RunFolder, evaluate_run, run
from dynamics.runner.measure.finished_run import network_at
from dynamics.runner.measure.probe import probe
from dynamics.store import collect, read_groups, write_run
from dynamics.training import DamagedCheckpointError

MEASURE: dict[str, Callable[[Path], object]] = {
    "evaluate": lambda out: evaluate_run(out, EvaluationOptions(num_samples=50, nfe=(1,)), progress=False),
    "probe": lambda out: probe(out, [RowGramOptions(num_rows=8, groups="model")], progress=False),
}
OPEN: dict[str, Callable[[Path], object]] = {
    **MEASURE,
    "open_results": open_results,
    "open_results of its folder's folder": lambda out: open_results(out.parent),
    "collect": lambda out: collect([out / "run.nc"]),
    "report": lambda out: write_report([out], out / "report"),
    "train": lambda out: run(RunFolder(out).read_config(), out, progress=False),
}
LOAD: dict[str, Callable[[Path], object]] = {
    **MEASURE,
    "load_model": load_model,
    "export": lambda out: export_run(out, out / "exported", "sit"),
}


@pytest.fixture
def out(tiny: RunConfig, twin: Callable[[RunConfig], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(twin(tiny), tmp_path / "study" / "run"))


def empty(out: Path) -> str:
    (out / "run.nc").write_bytes(b"")
    return "run.nc, which is empty"


def edited(out: Path) -> str:
    text = (out / "config.json").read_text()
    (out / "config.json").write_text(text.replace('"gap_share": 0.5', '"gap_share": 0.25'))
    return "config.json: received 'times.gap_share 0.25 instead of 0.5'"


def of_another_run(out: Path) -> str:
    groups = read_groups(out / "run.nc")
    root = groups.pop("/").attrs
    config = str(root["config_json"]).replace('"seed":0', '"seed":1')
    other = {**root, "config_json": config, "run_id": RunConfig.model_validate_json(config).run_id}
    write_run(out / "run.nc", {name[1:]: group for name, group in groups.items()}, other)
    return "config.json: received 'seed 0 instead of 1'"


@pytest.mark.parametrize("damage", [empty, edited, of_another_run], ids=lambda damage: damage.__name__)
def test_files_that_do_not_belong_together_are_refused(out: Path, damage: Callable[[Path], str]) -> None:
    said = damage(out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for opens in OPEN.values():
        with pytest.raises(ValueError, match=re.escape(said)):
            opens(out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}.items() >= before.items()


def test_a_loss_is_measured_with_its_teacher(tiny: RunConfig, twin: Callable[[RunConfig], Path]) -> None:
    """Which need not be the first average."""
    config = tiny.model_copy(update={"objective": Shortcut(teacher="0.99")})
    (name,) = config.objective.teachers()
    folder, z, t = RunFolder(twin(config)), torch.randn(2, 1, 8, 8), torch.full((2,), 0.5)
    asked = (z, t, t, torch.tensor([1, 2]))
    first, wanted = (network_at(folder, config, weights)[0].frozen(*asked) for weights in ("ema", name))
    for weights in ("ema", "model"):
        net, _ = network_at(folder, config, weights)
        assert torch.equal(net.frozen(*asked, weights=name), wanted)
        assert torch.equal(net.frozen(*asked, weights="ema"), first)
    assert not torch.equal(first, wanted)


def test_no_older_checkpoint_answers_for_the_last_one(out: Path) -> None:
    checkpoints = RunFolder(out).checkpoints()
    weights = checkpoints.path(24) / "ema_0.9.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    for loads in LOAD.values():
        with pytest.raises(DamagedCheckpointError, match=r"step_00000024 is damaged .*ema_0.9.safetensors"):
            loads(out)
    load_model(out, checkpoint=20)
    shutil.rmtree(checkpoints.path(24))
    for loads in LOAD.values():
        with pytest.raises(ValueError, match=r"checkpoint: received 24; allowed: one of \[20\]"):
            loads(out)
    (out / "run.nc").unlink()  # a run that goes on is another matter
    load_model(out)


def test_a_finished_run_keeps_no_file_of_a_writer_killed_at_its_last_beat(
    tiny: RunConfig, twin: Callable[[RunConfig], Path], tmp_path: Path
) -> None:
    out = shutil.copytree(twin(tiny), tmp_path / "run")
    (out / ".heartbeat.json.0123.tmp").touch()
    run(tiny, out, progress=False)
    assert not list(out.glob(".*.tmp"))
