"""`dynamics probe` and the observers of gradients: what they add, what they leave alone, what they refuse."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import xarray as xr

from dynamics import cli
from dynamics.config import RunConfig
from dynamics.flow.times import TimesOptions, UniformGap
from dynamics.instruments import (
    DecompositionOptions,
    GapsOptions,
    GramOptions,
    InstrumentOptions,
    LookaheadOptions,
    Probe,
    RowGramOptions,
    said,
)
from dynamics.models import MLPOptions
from dynamics.objectives import TVM, MeanFlow, Objective, SplitMeanFlow
from dynamics.runner import run
from dynamics.runner.measure.probe import chosen, probe, usual
from dynamics.store import read_run, write_run
from dynamics.training import Recipe, TrainState

SMALL = {"num_splits": 2, "rows_per_split": 4, "gap_edges": (0.1, 0.5, 0.9)}
GRAM = GramOptions.model_validate(SMALL)
USUAL = {"gaps", "gram", "decomposition", "lookahead"}
COMMAND = ["--gap-edges", "0.1", "0.5", "0.9", "--num-splits", "2", "--rows-per-split", "4", "--rows-per-bin", "4"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with checkpoints at 4 and 8 of 8 steps."""
    config = RunConfig(model=MLPOptions(dim=16, depth=1), observers=(GapsOptions(every=4, rows_per_bin=4),))
    changes = {"num_steps": 8, "batch_size": 8, "checkpoint_every": 4, "num_threads": 1}
    training = config.training.model_copy(update=changes)
    return run(config.model_copy(update={"training": training}), tmp_path_factory.mktemp("run"), progress=False)


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_the_command_adds_its_groups_and_keeps_the_rest(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_run(folder / "run.nc")
    cli.main(["probe", str(folder), *COMMAND, "--per-row", "--num-rows", "6", "--groups", "model", "--replace"])
    shown = capsys.readouterr().out
    assert "u 0.1-0.5" in shown
    after = read_run(folder / "run.nc")
    assert set(after.children) == {*before.children, "gram", "gram_rows", "decomposition", "lookahead"}
    assert after["training"].to_dataset().identical(before["training"].to_dataset())
    gram = after["gram"].to_dataset()
    assert gram.sizes == {"step": 1, "group": 1, "task": 3, "split": 2, "task2": 3, "split2": 2}
    assert gram.step.values.tolist() == [8]
    assert gram.task.values.tolist() == ["v", "u 0.1-0.5", "u 0.5-0.9"]
    assert gram.gap_low.values.tolist() == [0, 0.1, 0.5]
    assert after["gram_rows"].gram.shape == (1, 1, 6, 6)
    assert "cell_error" in after["gaps"]


def test_checkpoints_join_one_series(folder: Path) -> None:
    """Another checkpoint adds its step; the same one again replaces itself with equal values."""
    for step in (8, 4, 8):
        probe(folder, [GRAM], checkpoint=step, progress=False)
    gram = read_run(folder / "run.nc")["gram"].to_dataset()
    assert gram.step.values.tolist() == [4, 8]
    assert not np.allclose(gram.gram[0], gram.gram[1])
    again = probe(folder, [GRAM], checkpoint=4, progress=False)["gram"]
    np.testing.assert_array_equal(again.gram, gram.gram.sel(step=4))


def test_gaps_of_a_probe_join_the_series_of_training(folder: Path) -> None:
    before = read_run(folder / "run.nc")["gaps"].to_dataset()
    probe(folder, chosen(folder, ["gaps"], {"by_time": True}), progress=False)
    after = read_run(folder / "run.nc")["gaps"].to_dataset()
    assert after.step.values.tolist() == before.step.values.tolist() == [0, 4, 8]
    np.testing.assert_allclose(after.u_error, before.u_error, rtol=1e-5)
    assert np.isnan(after.cell_error.sel(step=4)).all()
    assert not np.isnan(after.cell_error.sel(step=8)).all()


def test_a_series_has_one_meaning(folder: Path) -> None:
    probe(folder, [GRAM], progress=False)
    raw = GRAM.model_copy(update={"loss": "raw"})
    with pytest.raises(ValueError, match=r"settings: received \{'gram': 'loss was adaptive, now raw'\}; .*--replace"):
        probe(folder, [raw], progress=False)
    edges = GRAM.model_copy(update={"gap_edges": (0.2, 0.4)})
    with pytest.raises(ValueError, match="gap_edges was"):
        probe(folder, [edges], progress=False)
    assert read_run(folder / "run.nc")["gram"].attrs["loss"] == "adaptive"
    probe(folder, [raw], checkpoint=4, replace=True, progress=False)
    after = read_run(folder / "run.nc")["gram"]
    assert (after.attrs["loss"], after.step.values.tolist()) == ("raw", [4])


class Remembering(InstrumentOptions):
    """Has an option that may be nothing, and one that is yes or no; netCDF has neither."""

    kind: Literal["remembering_of_tests"] = "remembering_of_tests"
    every: int = 1
    limit: float | None = None
    strict: bool = True

    def observer(self, recipe: Recipe, progress: bool = False) -> "RememberingProbe":
        return RememberingProbe(recipe, self, progress)


class RememberingProbe(Probe[Remembering]):
    def measure(self, state: TrainState) -> xr.Dataset:
        numbers = {"number": ((), 1.0, {"units": "1", "long_name": "a number"})}
        return xr.Dataset(numbers, attrs=said(self.options))


def test_options_that_netcdf_lacks_join_a_series(folder: Path) -> None:
    for checkpoint in (4, 8):
        probe(folder, [Remembering()], checkpoint=checkpoint, progress=False)
    assert read_run(folder / "run.nc")[Remembering().kind].step.values.tolist() == [4, 8]
    for other, message in (({"limit": 1.0}, "limit was , now 1.0"), ({"strict": False}, "strict was 1, now 0")):
        with pytest.raises(ValueError, match=message):
            probe(folder, [Remembering.model_validate(other)], progress=False)


def test_more_splits_join_a_series(folder: Path) -> None:
    probe(folder, [GRAM], checkpoint=4, progress=False)
    probe(folder, [GRAM.model_copy(update={"num_splits": 3, "groups": "model"})], checkpoint=8, progress=False)
    gram = read_run(folder / "run.nc")["gram"].gram
    assert gram.sizes["split"] == 3
    assert np.isnan(gram.sel(step=4, split=2)).all()
    assert not np.isnan(gram.sel(step=8, group="model")).any()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--checkpoint", "5"], r"checkpoint: received 5; allowed: one of \[4, 8\]"),
        (["--num-splits", "1"], "num_splits: received 1; allowed: 2 or more"),
        (["--gap-edges", "0.5", "0.3"], r"gap_edges: received .*allowed: at least two increasing numbers in \[0, 1\]"),
        (["--gap-edges", "0.5"], "gap_edges: received .*at least two increasing numbers"),
        (["--t-law", "matched", "--gap-edges", "0.5", "1.0"], "gap_edges: .*edges below 1 with t_law 'matched'"),
        (["--num-rows", "9"], r"options: received \['num_rows'\]; .*add their instrument"),
        (["--rows-per-split", "0"], "greater than 0"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_bad_input_is_refused_by_name_before_anything_changes(
    finished: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (finished / "run.nc").read_bytes()
    with pytest.raises(SystemExit) as stop:
        cli.main(["probe", str(finished), "--instruments", "gram", *words])
    assert stop.value.code == 2
    assert re.search(said, capsys.readouterr().err)
    assert (finished / "run.nc").read_bytes() == content


def test_a_checkpoint_of_another_model_is_refused(folder: Path) -> None:
    """Of an earlier version, that is: today's know their run."""
    config = json.loads((folder / "config.json").read_text())
    config["model"]["dim"] = 20
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "run.nc").unlink()
    write_run(folder / "run.nc", {}, {"run_id": RunConfig.model_validate(config).run_id})
    state = folder / "checkpoints" / "step_00000008" / "state.json"
    content = json.loads(state.read_text())
    with pytest.raises(ValueError, match="received 'one of run "):
        probe(folder, [GRAM], progress=False)
    state.write_text(json.dumps({name: content[name] for name in content.keys() - {"run_id", "checksum"}}))
    with pytest.raises(ValueError, match=r"tensors that differ, such as .* \(32,\).*weights of this config's model"):
        probe(folder, [GRAM], progress=False)


def test_a_bin_that_the_law_never_draws_is_refused(finished: Path, tmp_path: Path) -> None:
    config = RunConfig.model_validate_json((finished / "config.json").read_text())
    narrow = config.model_copy(update={"times": TimesOptions(law=UniformGap(low=0.0, high=0.4))})
    folder = run(narrow, tmp_path / "narrow", progress=False)
    with pytest.raises(ValueError, match=r"gap bin: received \(0\.5, 0\.9\); allowed: gaps between 0 and 0\.4"):
        probe(folder, [GRAM], progress=False)


def test_exact_gradients_that_cannot_fit_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"backend: received 'exact, .* GB for .* gradients'; .*use backend sketch"):
        probe(folder, [GRAM.model_copy(update={"num_splits": 10**6})], progress=False)


def test_what_cannot_be_probed_is_refused(folder: Path) -> None:
    for kinds in ([], ["cells"], ["gram", "gram"]):
        with pytest.raises(ValueError, match="instruments: received"):
            probe(folder, chosen(folder, kinds, {}), progress=False)
    with pytest.raises(ValueError, match="instruments: received"):
        chosen(folder, ["spectrum"], {})
    (folder / "run.nc").unlink()
    with pytest.raises(ValueError, match=r"a folder with a finished run \(run\.nc\)"):
        probe(folder, [GRAM], progress=False)


def test_every_instrument_leaves_training_bitwise_unchanged(
    tiny: RunConfig, twin: Callable[[RunConfig], Path], tmp_path: Path
) -> None:
    every = {"every": 6}
    everything = (
        GramOptions.model_validate({**SMALL, **every, "backend": "sketch", "sketch_size": 64}),
        RowGramOptions(num_rows=6, every=6, precondition="adam"),
        LookaheadOptions.model_validate({**SMALL, **every}),
        DecompositionOptions.model_validate({**SMALL, **every, "rows_per_bin": 4, "ode_steps": 2}),
    )
    a = run(tiny.model_copy(update={"observers": everything}), tmp_path / "on", progress=False)
    b = twin(tiny.model_copy(update={"observers": ()}))
    for name in ("model.safetensors", "ema_0.9.safetensors", "optimizer.safetensors"):
        paths = [folder / "checkpoints" / "step_00000024" / name for folder in (a, b)]
        assert paths[0].read_bytes() == paths[1].read_bytes(), name
    tree = read_run(a / "run.nc")
    assert tree["gram"].step.values.tolist() == tree["lookahead"].step.values.tolist() == [0, 6, 12, 18, 24]
    assert tree["gram_rows"].step.values.tolist() == [6, 12, 18, 24]  # Adam has no memory before the first step
    for name in ("gram", "gram_rows", "lookahead", "decomposition"):
        for variable in tree[name].to_dataset().data_vars.values():
            assert np.isfinite(variable).all(), variable.name
    probed = probe(a, [everything[0]], progress=False)["gram"]
    np.testing.assert_allclose(probed.gram, tree["gram"].gram.sel(step=24), rtol=1e-6)


def test_two_observers_of_a_kind_are_refused(tiny: RunConfig) -> None:
    with pytest.raises(ValueError, match=r"observers: received \['gram', 'gram'\]; allowed: each kind once"):
        RunConfig.model_validate({**dict(tiny), "observers": (GRAM, GRAM)})


@pytest.mark.parametrize(
    ("objective", "left_out"),
    [(MeanFlow(), set()), (SplitMeanFlow(), {"decomposition"}), (TVM(), USUAL - {"gaps", "gram"})],
)
def test_what_is_measured_if_nothing_is_named(objective: Objective, left_out: set[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(RunConfig(objective=objective).to_json())
    assert set(usual(tmp_path)) == USUAL - left_out
