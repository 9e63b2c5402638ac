"""Costs of deep networks follow from shallow ones where blocks are alike, and are counted where they are not."""

from typing import Any

import pytest
from torch import nn

from dynamics.flow.condition import ClassLabels
from dynamics.models import DiTOptions, MLPOptions, build
from dynamics.planning import cost as room
from dynamics.planning.cost import cost

SHAPE, LABELS = (4, 8, 8), ClassLabels(10)
SMALL = DiTOptions(patch_size=2, dim=64, depth=5, heads=4)


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    cost.cache_clear()


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("options", [SMALL, MLPOptions(depth=4)])
def test_two_shallow_networks_say_what_a_deep_one_costs(options: DiTOptions | MLPOptions, mixed: bool) -> None:
    assert cost(options, SHAPE, LABELS, mixed) == room._traced(options, SHAPE, LABELS, mixed)


def test_blocks_are_what_the_network_calls_so() -> None:
    found, model = cost(SMALL, SHAPE, LABELS), build(SMALL, SHAPE, LABELS, seed=0)
    assert found.num_parameters == sum(p.numel() for p in model.parameters())
    assert found.num_blocks == 5
    assert found.block_parameters == sum(p.numel() for p in model.blocks[0].parameters())
    assert found.block_inputs == 5 * 16 * 64 * 4, "blocks, tokens, width, bytes"


def test_blocks_that_differ_are_counted_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def uneven(options: DiTOptions, *rest: Any, **named: Any) -> nn.Module:
        model = build(options, *rest, **named)
        for i, block in enumerate(model.blocks):
            block.extra = nn.Linear(7, 7 * (1 + i**2))
        return model

    monkeypatch.setattr(room, "build", uneven)
    extra = sum(8 * 7 * (1 + i**2) for i in range(5))
    found = cost(SMALL, SHAPE, LABELS)
    assert found.num_parameters == extra + sum(p.numel() for p in build(SMALL, SHAPE, LABELS, seed=0).parameters())
