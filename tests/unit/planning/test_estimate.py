"""Estimates against counts of their own."""

import pytest
import torch
from torch import Tensor

from dynamics.config import with_values
from dynamics.flow.condition import ClassLabels
from dynamics.models import DiTOptions, build
from dynamics.objectives import FlowMatching
from dynamics.planning.cost import cost
from dynamics.planning.estimate import estimate, forwards_per_row, memory
from dynamics.presets import preset

SMALL = DiTOptions(patch_size=2, dim=64, depth=2, heads=4)


@pytest.mark.parametrize("mixed", [False, True])
def test_saved_activations_are_those_of_a_real_pass(mixed: bool) -> None:
    model = build(SMALL, (4, 8, 8), ClassLabels(10), seed=0)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def kept(rows: int) -> int:
        found: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            if tensor.untyped_storage().data_ptr() not in weights:
                found[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        inputs = torch.randn(rows, 4, 8, 8), torch.rand(rows), torch.zeros(rows), torch.zeros(rows, dtype=torch.long)
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            out = model(*inputs)
        del out
        return sum(tensor.untyped_storage().nbytes() for tensor in found.values())

    expected = cost(SMALL, (4, 8, 8), ClassLabels(10), mixed)
    for rows in (3, 8):
        assert kept(rows) == pytest.approx(rows * expected.kept_per_row + expected.kept_of_weights, rel=0.02)


def test_passes_of_a_step() -> None:
    b4 = preset("b4-meanflow")
    # gradient 3, derivative 2 x 25%; guidance asks for 90% of the rows without label, and for 90% of 25% with it
    assert forwards_per_row(b4) == pytest.approx(3 + 0.5 + 0.9 * (1 + 0.25))
    plain = with_values(b4, {"objective": FlowMatching(), "times.gap_share": 0.0})
    assert forwards_per_row(plain) == 3


def test_memory_by_hand() -> None:
    config = with_values(preset("xl2-meanflow"), {"training.precision": "float32"})
    one, eight = memory(config), memory(config, ranks=8)
    size = 676_440_592 * 4 / 1e9
    assert (one.weights, one.moments, one.averages, one.gradients, one.exchange) == (size, 2 * size, size, size, 0)
    assert eight.activations == pytest.approx(one.activations / 8)
    assert eight.exchange == size
    assert one.peak == one.weights + one.moments + one.averages + one.activations
    split = memory(with_values(config, {"training.parallel": "fsdp"}), ranks=8)
    assert split.moments == pytest.approx(size / 4)
    assert 0 < split.exchange < 0.2 * size
    tiny = memory(with_values(config, {"training.batch_size": 1}))
    assert tiny.peak == pytest.approx(6 * size), "without activations the update decides"


def test_hours_follow_from_the_data_sheet() -> None:
    found = estimate(preset("xl2-improved"), 8, "h100", 0.4)
    flops = 2e9 * found.forward_gflops * found.forwards_per_row * 256
    assert found.total_flops == pytest.approx(flops * 1_201_094)
    assert found.step_seconds == pytest.approx(flops / (8 * 989e12 * 0.4))
    assert found.hours == pytest.approx(found.step_seconds * 1_201_094 / 3600)
    assert found.checkpoint_gb == pytest.approx(676_440_592 * 4 * 4 / 1e9)
    assert estimate(preset("xl2-improved"), 16, "h100", 0.4).hours == pytest.approx(found.hours / 2)


@pytest.mark.parametrize(
    ("gpus", "device", "utilisation", "message"),
    [
        (8, "voodoo", 0.4, "gpu: received 'voodoo'; allowed: .*h100"),
        (7, "h100", 0.4, "gpus: received 7; allowed: a divisor of batch_size=256"),
        (8, "h100", 1.4, "utilisation: received 1.4"),
    ],
)
def test_refusals(gpus: int, device: str, utilisation: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate(preset("b4-meanflow"), gpus, device, utilisation)


def test_recomputed_blocks_keep_their_inputs_alone() -> None:
    config = with_values(preset("b4-meanflow"), {"training.precision": "float32"})
    whole, less = memory(config), memory(with_values(config, {"training.recompute": "blocks"}))
    inputs = 256 * 12 * 64 * 768 * 4 / 1e9  # rows, blocks, tokens, width, bytes
    assert less.activations == pytest.approx(inputs + whole.activations / 12, rel=1e-3)
    assert (less.weights, less.moments, less.update) == (whole.weights, whole.moments, whole.update)
    recomputing = with_values(config, {"training.recompute": "blocks"})
    assert forwards_per_row(recomputing) == forwards_per_row(config) + 1


def test_snapshots_are_counted() -> None:
    plain = preset("xl2-meanflow")
    kept = with_values(plain, {"training.ema_lengths": (0.05, 0.1), "training.num_steps": 1000})
    size = 676_440_592 * 4 / 1e9
    assert estimate(plain, 8, "h100").snapshots_gb == 0
    assert estimate(kept, 8, "h100").snapshots_gb == pytest.approx(16 * 2 * size)
    half = with_values(kept, {"training.snapshot_precision": "float16", "training.snapshot_every": 300})
    assert estimate(half, 8, "h100").snapshots_gb == pytest.approx(4 * size)
    assert memory(kept).averages == pytest.approx(memory(plain).averages + 2 * size)
