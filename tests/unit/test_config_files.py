"""config.json: every value is written, short and long forms are one config, and what is wrong names the file."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from dynamics.config import RunConfig, with_values
from dynamics.curricula import Beta
from dynamics.instruments import CellsOptions
from dynamics.presets import PRESETS, named_config
from dynamics.runner.run_folder import RunFolder
from dynamics.store import read_run
from dynamics.training import TrainingOptions

PRESET = PRESETS["digits-improved"]
OLD = "training.num_threads"


def test_a_run_folder_holds_every_value(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.claim(PRESET)
    written = json.loads(folder.config.read_text())
    assert set(written["training"]) == set(TrainingOptions.model_fields)
    assert (written["training"]["skip_nonfinite"], written["training"]["num_threads"]) == (0, None)
    assert folder.read_config() == PRESET == RunConfig.model_validate_json(PRESET.to_json())
    assert folder.read_config().run_id == PRESET.run_id


@pytest.mark.parametrize("name", PRESETS)
def test_both_forms_are_one_config(name: str) -> None:
    config = PRESETS[name]
    for text in (json.dumps(config.complete()), config.to_json()):
        found = RunConfig.model_validate_json(text)
        assert (found, found.run_id) == (config, config.run_id)


def test_threads_of_older_runs_belong_to_the_same_run(tmp_path: Path) -> None:
    """Two were the default: a run of two is the one whose number is left to the machine, and goes on with two."""
    older = with_values(PRESET, {OLD: 2})
    assert older.run_id == PRESET.run_id != with_values(PRESET, {OLD: 3}).run_id
    folder = RunFolder(tmp_path)
    folder.config.write_text(older.to_json())
    folder.claim(PRESET)
    assert folder.read_config() == older


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "{path}: received 'Invalid JSON: EOF.*; allowed: JSON; remedy: mend"),
        ("[" * 100_000, "{path}: received 'Invalid JSON: recursion limit"),
        ("\udcff", "{path}: received 'Invalid JSON"),
        ('{"training": {"num_steps": "x"}}', "training.num_steps of {path}: received 'x'; allowed: a valid integer; "),
        (
            '{"training": {"steps": 3}}',
            "unknown option training.steps of {path}: received 3; allowed: num_steps, batch",
        ),
        ('{"model": {"kind": "dit", "dims": 3}}', "{path}: unknown option of dit .*: received 'dims'; allowed: kind, "),
        ('{"curricula": [{"kind": "beta", "k": "x"}]}', "curricula.0.k of {path}: received 'x'; allowed: a valid num"),
        ('{"observers": [3]}', "{path}: InstrumentOptions: received 3; allowed: an object with the key kind"),
    ],
)
def test_a_damaged_config_names_its_file(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    for read in (lambda: named_config(str(path)), RunFolder(tmp_path).read_config):
        with pytest.raises(ValueError, match=message.format(path=re.escape(str(path))).removesuffix("mend")) as caught:
            read()
        assert "\n" not in str(caught.value)
        assert "pydantic" not in str(caught.value)


def test_a_chain_takes_each_curriculum_once() -> None:
    message = re.escape("curricula: received ['beta', 'beta']; allowed: each kind once")
    with pytest.raises(ValueError, match=message):
        RunConfig(curricula=(Beta(), Beta(k=2.0)))


@pytest.mark.parametrize("kind", ["alarms", "nonfinite", "monitor", "training", "evaluation", "fid"])
def test_an_instrument_cannot_take_the_group_of_something_else(kind: str) -> None:
    with pytest.raises(ValueError, match=rf"kind of Greedy: received '{kind}'; allowed: none of .*choose another name"):
        type("Greedy", (CellsOptions,), {"__annotations__": {"kind": str}, "kind": kind, "__module__": __name__})


def test_a_run_says_how_many_threads_it_used(tiny: RunConfig, twin: Callable[[RunConfig], Path]) -> None:
    """Whether the config names a number or leaves it to the machine."""
    assert read_run(RunFolder(twin(tiny)).result).attrs["num_threads"] == tiny.training.num_threads
