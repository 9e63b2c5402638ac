"""Public weights: the imported network answers as the published formulas do, and what does not fit is named."""

import math
from collections.abc import Callable

import pytest
import torch
from published import Kind, State, checkpoint, dit, meanflow, positions, shapes, sit
from torch import Tensor

from dynamics.exchange.conventions import CONVENTIONS, Source, from_public, to_public
from dynamics.flow.condition import ClassLabels
from dynamics.models import DiT, DiTOptions, build
from dynamics.models.dit import SIZES, num_parameters

HEADS = 2
XL: dict[str, int] = {"depth": 28, "dim": 1152, "side": 32, "classes": 1000}


def imported(state: State, source: Source) -> DiT:
    """Our network, in the checkpoint's precision."""
    found = from_public(state, source, HEADS)
    model = build(found.options, found.shape, ClassLabels(found.num_classes), seed=0)
    assert isinstance(model, DiT)
    model.to(next(iter(state.values())).dtype)
    found.fill(model)
    return model


def inputs(side: int = 8, channels: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z, t, r and y: edges r = t, t = 0, t = 1, and the null class."""
    stream = torch.Generator().manual_seed(1)
    z = torch.randn(6, channels, side, side, generator=stream, dtype=torch.float64)
    t = torch.tensor([0.0, 1.0, 1.0, 0.3, 0.7, 0.999], dtype=torch.float64)
    r = torch.tensor([0.0, 0.0, 1.0, 0.1, 0.7, 0.5], dtype=torch.float64)
    return z, t, r, torch.tensor([0, 10, 3, 9, 10, 5])


def same(ours: Tensor, theirs: Tensor) -> None:
    assert float(theirs.std()) > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sizes", [{}, {"sigma": False}, {"patch": 4, "channels": 3, "dim": 24, "depth": 1}])
def test_sit_answers_v_at_every_r(sizes: dict[str, int]) -> None:
    state = checkpoint("sit", **sizes)
    z, t, r, y = inputs(channels=sizes.get("channels", 4))
    theirs = -sit(state, HEADS, z, 1 - t, y)  # its time runs from noise to data, and so does its velocity
    model = imported(state, "sit")
    same(model(z, t, r, y), theirs)
    assert torch.equal(model(z, t, r, y), model(z, t, t, y))


def test_dit_answers_the_noise_at_its_own_times() -> None:
    state = checkpoint("dit")
    z, t, r, y = inputs()
    own = (999 * t).round()
    same(imported(state, "dit")(z, own, r, y), dit(state, HEADS, z, own, y))


@pytest.mark.parametrize("sizes", [{}, {"patch": 4, "channels": 3}])
def test_the_port_answers_u(sizes: dict[str, int]) -> None:
    state = checkpoint("meanflow-pytorch", **sizes)
    z, t, r, y = inputs(channels=sizes.get("channels", 4))
    model = imported(state, "meanflow-pytorch")
    same(model(z, t, r, y), meanflow(state, HEADS, z, r, t, y))
    assert not torch.allclose(model(z, t, r, y)[0], model(z, t, r - 0.1, y)[0])


@pytest.mark.parametrize("source", ["sit", "dit"])
def test_the_gap_can_be_learned_from_where_it_is_ignored(source: Source) -> None:
    """The first layer of its embedding is as drawn, so the last one, which is zero, has a gradient."""
    model = imported(checkpoint("sit" if source == "sit" else "dit"), source)
    drawn = build(DiTOptions(dim=16, depth=2, heads=2), (4, 8, 8), ClassLabels(10), seed=0)
    assert isinstance(drawn, DiT)
    assert torch.equal(model.conditioning.gap.hidden.weight, drawn.conditioning.gap.hidden.weight.double())
    assert bool(model.conditioning.gap.hidden.weight.any())
    z, t, r, y = inputs()
    model(z, t, r, y).square().sum().backward()
    gradient = model.conditioning.gap.out.weight.grad
    assert gradient is not None
    assert float(gradient.abs().max()) > 0


@pytest.mark.parametrize("kind", ["sit", "meanflow-pytorch"])
def test_every_tensor_of_xl_2_has_its_place(kind: Kind) -> None:
    """DiT's and SiT's code counts 675.13 M parameters, fixed positions included; with a second time 676.44 M train."""
    found = shapes(kind, **XL)
    assert shapes("dit", **XL) == shapes("sit", **XL)
    count = sum(math.prod(shape) for shape in found.values())
    trained = count - 256 * 1152
    assert (trained if kind == "meanflow-pytorch" else count) == (
        676440592 if kind == "meanflow-pytorch" else 675129632
    )
    state = {name: torch.zeros(()).expand(shape) for name, shape in found.items()}
    imported = from_public(state | {"pos_embed": positions(16, 1152)}, kind)
    assert (imported.options, imported.shape, imported.num_classes) == (SIZES["XL/2"], (4, 32, 32), 1000)
    with torch.device("meta"):
        ours = {name: p.shape for name, p in DiT(imported.options, (4, 32, 32), ClassLabels(1000)).named_parameters()}
    given = {name: tensor.shape for name, tensor in imported.weights.items()}
    hidden = {f"conditioning.gap.hidden.{part}" for part in ("weight", "bias")}
    assert given == {name: shape for name, shape in ours.items() if kind == "meanflow-pytorch" or name not in hidden}
    second_half = 0 if kind == "meanflow-pytorch" else (1152 + 1) * 16
    gap = 0 if kind == "meanflow-pytorch" else (256 + 1 + 1152 + 1) * 1152
    assert num_parameters(SIZES["XL/2"], (4, 32, 32), 1000) == trained - second_half + gap


@pytest.mark.parametrize("name", [name for name in SIZES if name != "XL/2"])
def test_heads_of_published_sizes_are_known(name: str) -> None:
    size = SIZES[name]
    found = shapes("sit", size.depth, size.dim, size.patch_size, classes=1)
    state = {key: torch.zeros(()).expand(shape) for key, shape in found.items()}
    assert from_public(state | {"pos_embed": positions(8 // size.patch_size, size.dim)}, "sit").options == size


@pytest.mark.parametrize("target", ["sit", "meanflow-pytorch"])
def test_there_and_back(target: Kind) -> None:
    state = checkpoint(target, dtype=torch.float32, sigma=False)
    found = from_public(state, target, HEADS)
    out = to_public(found.weights, found.options, found.shape, "sit" if target == "sit" else "meanflow-pytorch")
    assert {name: tensor.shape for name, tensor in out.items()} == {
        name: tensor.shape for name, tensor in state.items()
    }
    for name, tensor in state.items():
        torch.testing.assert_close(out[name], tensor, rtol=2e-7, atol=2e-7)
    z, t, r, y = inputs()
    exact = {name: tensor.double() for name, tensor in out.items()}
    ours = imported(state, target).double()(z, t, r, y)
    theirs = -sit(exact, HEADS, z, 1 - t, y) if target == "sit" else meanflow(exact, HEADS, z, r, t, y)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_sit_becomes_a_port_that_ignores_r() -> None:
    state = checkpoint("sit")
    model = imported(state, "sit")
    out = to_public(dict(model.named_parameters()), DiTOptions(dim=16, depth=2, heads=2), (4, 8, 8), "meanflow-pytorch")
    z, t, r, y = inputs()
    same(meanflow({name: p.detach() for name, p in out.items()}, HEADS, z, r, t, y), -sit(state, HEADS, z, 1 - t, y))


def test_what_a_target_cannot_be_is_refused() -> None:
    found = from_public(checkpoint("meanflow-pytorch"), "meanflow-pytorch", HEADS)
    with pytest.raises(ValueError, match="--to: received 'a network whose answer depends on the gap"):
        to_public(found.weights, found.options, found.shape, "sit")
    only_bias = found.weights | {"conditioning.gap.out.weight": torch.zeros(16, 16)}
    with pytest.raises(ValueError, match="--to"):
        to_public(only_bias, found.options, found.shape, "sit")
    with pytest.raises(ValueError, match="square images"):
        to_public(found.weights, found.options, (4, 8, 4), "meanflow-pytorch")


def without(*names: str) -> Callable[[State], State]:
    return lambda state: {name: tensor for name, tensor in state.items() if name not in names}


def changed(**tensors: Tensor) -> Callable[[State], State]:
    return lambda state: state | {name.replace("__", "."): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            without("blocks.1.attn.qkv.weight", "pos_embed"),
            ["blocks.1.attn.qkv.weight is missing", "pos_embed is miss"],
        ),
        (changed(rope__freqs=torch.zeros(3)), ["1 that do not fit", "rope.freqs is unexpected"]),
        (changed(blocks__0__attn__q_norm__weight=torch.ones(8)), ["blocks.0.attn.q_norm.weight is unexpected"]),
        (changed(blocks__7__mlp__fc1__bias=torch.ones(64)), ["blocks.6.mlp.fc2.bias is missing"]),
        (
            changed(t_embedder__mlp__0__weight=torch.zeros(16, 128), x_embedder__proj__bias=torch.zeros(1)),
            [
                "2 that do not fit",
                "mlp.0.weight has the shape (16, 128) instead of (16, 256)",
                "proj.bias has the shape (1,)",
            ],
        ),
        (
            lambda state: without("x_embedder.proj.bias")(changed(other=torch.ones(1))(state)),
            ["2 that do not fit", "x_embedder.proj.bias is missing", "other is unexpected"],
        ),
        (changed(x_embedder__proj__weight=torch.zeros(16, 16)), ["x_embedder.proj.weight has the shape (16, 16)"]),
        (changed(pos_embed=torch.zeros(1, 15, 16)), ["pos_embed has the shape (1, 15, 16) instead of (1, 9, 16)"]),
        (changed(final_layer__linear__bias=torch.zeros(48)), ["bias has the shape (48,) instead of (16,)"]),
        (changed(x_embedder__proj__bias=torch.zeros(16).long()), ["x_embedder.proj.bias has other values than finite"]),
        (changed(x_embedder__proj__bias=torch.full((16,), math.nan)), ["x_embedder.proj.bias has other values"]),
        (changed(pos_embed=positions(4, 16) + 2e-5), ["pos_embed that differs by up to 2e-05", "up to 1e-05"]),
        (changed(pos_embed=positions(4, 16).mT.reshape(1, 16, 16)), ["pos_embed that differs by up to"]),
        (lambda state: {}, ["pos_embed is missing", "blocks.0.mlp.fc1.weight is missing"]),
    ],
)
def test_every_tensor_that_does_not_fit_is_named(change: Callable[[State], State], words: list[str]) -> None:
    with pytest.raises(ValueError, match="checkpoint: received") as error:
        from_public(change(checkpoint("sit")), "sit", HEADS)
    for word in [*words, "allowed: ", "remedy: "]:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("kind", "source", "words"),
    [
        ("sit", "meanflow-pytorch", ["r_embedder.mlp.0.weight is missing", "linear.weight has the shape (32, 16)"]),
        ("meanflow-pytorch", "sit", ["r_embedder.mlp.2.bias is unexpected", "choose another --from than sit"]),
    ],
)
def test_a_network_of_another_repository_is_refused(kind: Kind, source: Source, words: list[str]) -> None:
    with pytest.raises(ValueError, match=CONVENTIONS[source].repository) as error:
        from_public(checkpoint(kind), source, HEADS)
    assert all(word in str(error.value) for word in words)


def test_unknown_heads_are_asked_for() -> None:
    with pytest.raises(ValueError, match=r"heads: received 'none for 2 blocks of width 16'.*pass --heads"):
        from_public(checkpoint("sit"), "sit")
    with pytest.raises(ValueError, match="a multiple of 4 and of heads=3"):
        from_public(checkpoint("sit"), "sit", heads=3)


def test_prefixes_of_parallel_training_and_half_precision_are_read() -> None:
    state = checkpoint("sit", dtype=torch.float32)
    plain = from_public(state, "sit", HEADS).weights
    prefixed = from_public({f"module.{name}": tensor for name, tensor in state.items()}, "sit", HEADS).weights
    assert all(torch.equal(prefixed[name], tensor) for name, tensor in plain.items())
    half = from_public({name: tensor.half() for name, tensor in state.items()}, "sit", HEADS).weights
    for name, tensor in plain.items():
        torch.testing.assert_close(half[name].float(), tensor, rtol=2e-3, atol=2e-3)
