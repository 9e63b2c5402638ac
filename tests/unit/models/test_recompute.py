"""Activation checkpointing changes memory and nothing else."""

import pytest
import torch
from builders import network
from torch import Tensor, nn

from dynamics.models import DiTOptions, MLPOptions, ModelOptions, Network
from dynamics.models import recompute as room
from dynamics.models.recompute import recomputing
from dynamics.rng import generator

OPTIONS: dict[str, ModelOptions] = {
    "dit": DiTOptions(dim=16, depth=4, heads=2),
    "mlp": MLPOptions(dim=16, depth=4),
}
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def example(name: str) -> tuple[nn.Module, Inputs]:
    """A network without zero layers, and rows."""
    model = network(OPTIONS[name], (1, 8, 8), dtype=torch.float32, scale=0.1)
    stream = generator(0, "test")
    z, t = torch.randn(6, 1, 8, 8, generator=stream), torch.rand(6, generator=stream)
    return model, (z, t, t / 2, torch.arange(6) % 4)


def gradient(model: nn.Module, rows: Inputs, on: bool, half: bool = False) -> tuple[list[Tensor], int]:
    """Gradients of a loss, and the bytes that its forward pass kept, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=half), recomputing(on):
        out = model(*rows)
    size = sum(kept.values())
    return list(torch.autograd.grad(out.float().square().sum(), list(model.parameters()))), size


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_are_the_same_bits_with_less_kept(name: str, half: bool) -> None:
    model, rows = example(name)
    (plain, all_kept), (again, few_kept) = (gradient(model, rows, on, half) for on in (False, True))
    assert any(float(g.abs().max()) > 0 for g in plain)
    for a, b in zip(plain, again, strict=True):
        assert torch.equal(a, b)
    assert few_kept < 0.6 * all_kept


def test_what_is_kept_grows_by_a_blocks_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Per block: its input, 6 rows x 16 tokens x 16 channels x 4 bytes, and nothing else."""
    sizes = []
    for depth in (2, 6):
        monkeypatch.setitem(OPTIONS, "dit", DiTOptions(dim=16, depth=depth, heads=2))
        sizes.append(gradient(*example("dit"), on=True)[1])
    assert sizes[1] - sizes[0] == 4 * 6 * 16 * 16 * 4


def test_passes_without_a_graph_go_past_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("a pass without gradient was checkpointed")

    model, rows = example("dit")
    net, z = Network(model), rows[0]
    expected = net.jvp(*rows, dz=z)
    monkeypatch.setattr(room, "checkpoint", never)
    with recomputing():
        found = net.jvp(*rows, dz=z)
        with torch.no_grad():
            model(*rows)
        with recomputing(False):
            model(*rows)
        with pytest.raises(AssertionError, match="was checkpointed"):
            model(*rows)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    model(*rows)  # the switch is off again
