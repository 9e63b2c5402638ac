"""Networks: sizes to the last unit, shapes, initial state, and errors."""

import pytest
import torch
from builders import LABELS, network
from torch import Tensor

from dynamics.flow.condition import ClassLabels
from dynamics.models import MLP, DiT, DiTOptions, MLPOptions, build
from dynamics.models.dit import SIZES, num_parameters
from dynamics.models.embeddings import position_table, sinusoid
from dynamics.planning.cost import cost

SMALL: dict[str, DiTOptions | MLPOptions] = {
    "dit": DiTOptions(patch_size=2, dim=16, depth=2, heads=2),
    "mlp": MLPOptions(dim=16, depth=2),
}
PUBLISHED = {"B/4": 131165248, "B/2": 131091472, "M/2": 308019216, "L/2": 459137040, "XL/2": 676440592}
GFLOPS = {"B/4": 5.6, "B/2": 23.1, "M/2": 54.0, "L/2": 80.9, "XL/2": 119.0}


def rows(
    num_rows: int, shape: tuple[int, int, int], num_classes: int = LABELS.num_classes
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    stream = torch.Generator().manual_seed(0)
    z, t = torch.randn(num_rows, *shape, generator=stream), torch.rand(num_rows, generator=stream)
    return z, t, t / 2, torch.randint(num_classes + 1, (num_rows,), generator=stream)


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_published_sizes_to_the_last_unit(name: str, count: int) -> None:
    assert num_parameters(SIZES[name], (4, 32, 32), 1000) == count


@pytest.mark.parametrize(("name", "gflops"), GFLOPS.items())
def test_published_forward_cost(name: str, gflops: float) -> None:
    """Attention and embeddings are counted differently by different tools: within 2.5%."""
    found = cost(SIZES[name], (4, 32, 32), ClassLabels(1000))
    assert found.num_parameters == PUBLISHED[name]
    assert found.forward_gflops == pytest.approx(gflops, rel=0.025)


@pytest.mark.parametrize("name", SMALL)
def test_cost_counts_the_built_network(name: str) -> None:
    model = build(SMALL[name], (1, 4, 4), LABELS, seed=0)
    assert cost(SMALL[name], (1, 4, 4), LABELS).num_parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 8), (2, 2, 2)])
@pytest.mark.parametrize("name", SMALL)
def test_forward_shape(name: str, shape: tuple[int, int, int]) -> None:
    model = build(SMALL[name], shape, LABELS, seed=0)
    assert model(*rows(5, shape)).shape == (5, *shape)
    assert model(*rows(0, shape)).shape == (0, *shape)


@pytest.mark.parametrize("name", SMALL)
def test_velocity_is_zero_at_initialisation(name: str) -> None:
    model = build(SMALL[name], (1, 4, 4), LABELS, seed=0)
    out = model(*rows(5, (1, 4, 4)))
    assert torch.equal(out, torch.zeros_like(out))
    out.sub(1).square().sum().backward()
    with_gradient = {n for n, p in model.named_parameters() if p.grad is not None and float(p.grad.norm()) > 0}
    assert with_gradient == {"final.weight", "final.bias"}, "with adaLN-zero only the final layer learns at step 0"


@pytest.mark.parametrize("name", SMALL)
def test_initialisation_is_decided_by_the_seed_alone(name: str) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = build(SMALL[name], (1, 4, 4), LABELS, seed=7)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = build(SMALL[name], (1, 4, 4), LABELS, seed=7), build(SMALL[name], (1, 4, 4), LABELS, seed=8)
    for (parameter, value), same in zip(first.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(value, same), parameter
    assert not torch.equal(first.embed.weight, other.embed.weight)


def test_dit_initialisation_follows_the_reference() -> None:
    """Xavier-uniform matrices, N(0, .02) time and label embeddings, zero biases and adaLN (2212.09748)."""
    model = build(DiTOptions(dim=64, depth=2, heads=2), (1, 8, 8), ClassLabels(10), seed=0)
    assert isinstance(model, DiT)
    weights = dict(model.named_parameters())
    bound = (6 / (64 + 192)) ** 0.5
    assert float(weights["blocks.0.attention.qkv.weight"].abs().max()) == pytest.approx(bound, rel=0.01)
    for layer in ("conditioning.time.hidden", "conditioning.gap.out", "conditioning.label"):
        assert float(weights[f"{layer}.weight"].std()) == pytest.approx(0.02, rel=0.1)
    assert all(float(p.abs().max()) == 0 for n, p in weights.items() if n.endswith("bias"))
    assert all(float(p.abs().max()) == 0 for n, p in weights.items() if "modulation" in n)


@pytest.mark.parametrize("name", SMALL)
def test_every_argument_matters(name: str) -> None:
    model = network(SMALL[name], (1, 4, 4), dtype=torch.float32)
    with torch.no_grad():
        z, t, r, y = rows(6, (1, 4, 4))
        base = model(z, t, r, y)
        for changed in ((z + 1, t, r, y), (z, t + 0.1, r, y), (z, t, r - 0.1, y), (z, t, r, (y + 1) % 4)):
            assert float((model(*changed) - base).abs().max()) > 1e-3


def test_dit_patches_keep_their_place() -> None:
    """With one block switched off the network is local: a change of one patch stays in it."""
    model = build(DiTOptions(patch_size=2, dim=16, depth=1, heads=2), (2, 4, 6), LABELS, seed=0)
    assert isinstance(model, DiT)
    with torch.no_grad():
        model.final.weight.normal_(generator=torch.Generator().manual_seed(0))
        z, t, r, y = rows(1, (2, 4, 6))
        moved = z.clone()
        moved[:, :, 2:4, 4:6] += 1
        difference = (model(moved, t, r, y) - model(z, t, r, y)).abs().sum((0, 1))
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[2:4, 4:6] = True
    assert torch.equal(difference > 0, expected)


def test_position_table() -> None:
    table = position_table(2, 3, 8)
    assert table.shape == (6, 8)
    first = torch.tensor([0.0, 1.0, 2.0]).sin()
    torch.testing.assert_close(table[:3, 0], first)  # the first quarter is the sine of the column
    torch.testing.assert_close(table[3:, 4], torch.full((3,), 1.0).sin())  # the third of the row
    assert len({tuple(row.tolist()) for row in table}) == 6


def test_sinusoid_takes_raw_times() -> None:
    out = sinusoid(torch.tensor([0.0, 1.0]))
    assert out.shape == (2, 256)
    assert float(out[1, 0]) == pytest.approx(torch.tensor(1.0).cos().item())
    assert float(out[1, 128 + 127]) == pytest.approx(10000 ** (-127 / 128), rel=1e-4)


def test_build_chooses_by_the_options() -> None:
    assert isinstance(build(SMALL["dit"], (1, 4, 4), LABELS, 0), DiT)
    assert isinstance(build(SMALL["mlp"], (1, 4, 4), LABELS, 0), MLP)


def test_errors_name_field_value_allowed_and_remedy() -> None:
    with pytest.raises(ValueError, match=r"model.patch_size: received 3; allowed: a divisor of .* 8 x 8; remedy: "):
        build(DiTOptions(patch_size=3), (1, 8, 8), ClassLabels(10), seed=0)
    with pytest.raises(ValueError, match=r"model.dim: received 96; allowed: .* heads=5; remedy: change dim or heads"):
        DiTOptions(dim=96, heads=5)
    with pytest.raises(ValueError, match=r"model.dim: received 6; allowed: a multiple of 4"):
        DiTOptions(dim=6, heads=2)
    with pytest.raises(ValueError, match="unknown"):
        DiTOptions.model_validate({"unknown": 1})
