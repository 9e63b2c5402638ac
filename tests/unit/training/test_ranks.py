"""What can be said about several ranks with one process; the rest is in tests/integration/test_distributed.py."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import torch

from dynamics.config import RunConfig
from dynamics.flow.condition import ClassLabels
from dynamics.flow.rows import draw_rows
from dynamics.flow.times import LogitNormalPair
from dynamics.record import StepRecord
from dynamics.runner import run
from dynamics.training import NonFiniteLossError, World, on_all, on_first, world
from dynamics.training.distributed import _portable, interleaved, largest, whole


def test_rows_come_back_in_the_order_of_the_batch() -> None:
    """The pass p of one rank holds what `Rows.shard` gives it."""
    law = LogitNormalPair()
    x, c = torch.zeros(12, 1, 2, 2), torch.arange(12)
    rows = draw_rows(x, c, ClassLabels(12), equal_law=law, gap_law=law, num_gap=4, seed=0, tag=0)
    columns = torch.cat([rows.shard(p, 3).c for p in range(3)]).unsqueeze(0)
    assert interleaved(columns, passes=3).tolist() == [list(range(12))]


def test_without_a_group_there_is_one_rank() -> None:
    assert world() == World(0, 1)
    assert world().first
    assert not World(1, 2).first
    assert (on_first(lambda: 3), on_all(lambda: 4), largest(5)) == (3, 4, 5)
    weights = torch.ones(2)
    assert whole(weights) is weights


def test_errors_reach_other_ranks_with_their_text() -> None:
    with pytest.raises(ValueError, match="num_steps") as not_valid:
        RunConfig.model_validate({"training": {"num_steps": 0}})
    as_it_is = _portable(KeyError("x"))
    assert type(as_it_is) is KeyError
    nothing = dict.fromkeys((f.name for f in fields(StepRecord) if f.default is MISSING), 0.0)
    record = StepRecord(**nothing | {"step": 3})
    retold = _portable(NonFiniteLossError(record, "the loss", []))  # made from other arguments than it keeps
    assert type(retold) is RuntimeError
    assert str(retold) == "NonFiniteLossError: the loss is not finite at step 3"
    assert isinstance(_portable(not_valid.value), ValueError)
    assert "num_steps" in str(_portable(not_valid.value))
    assert _portable(None) is None


@pytest.mark.parametrize(
    ("environment", "match"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE: received 'two'"),
        ({"WORLD_SIZE": "2"}, "RANK: received ''"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_PORT: received ''"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "1"}, "MASTER_ADDR: received ''"),
    ],
)
def test_an_incomplete_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str], match: str, tiny: RunConfig, tmp_path: Path
) -> None:
    for name in ("WORLD_SIZE", "RANK", "MASTER_PORT", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=match):
        run(tiny, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
