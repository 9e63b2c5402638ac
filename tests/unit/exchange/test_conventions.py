"""Public weights: the imported network answers as the published formulas do, and what does not fit is named."""

import math
from collections.abc import Callable
from typing import get_args, get_type_hints

import pytest
import torch
from published import (
    Kind,
    State,
    alphaflow,
    checkpoint,
    dit,
    held,
    meanflow,
    positions,
    projectors,
    repa,
    shapes,
    sit,
    velocity,
)
from torch import Tensor

from dynamics.cli.exchange_commands import ExportArgs, ImportArgs
from dynamics.exchange.conventions import CONVENTIONS, Source, Target
from dynamics.exchange.translation import from_public, to_public
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


@pytest.mark.parametrize("sizes", [{}, {"patch": 4, "channels": 3, "dim": 24, "depth": 1}])
def test_repa_answers_v_at_every_r(sizes: dict[str, int]) -> None:
    state = checkpoint("repa", **sizes)
    z, t, r, y = inputs(channels=sizes.get("channels", 4))
    model = imported(state | projectors(sizes.get("dim", 16)), "repa")
    same(model(z, t, r, y), repa(state, HEADS, z, t, y))
    assert torch.equal(model(z, t, r, y), model(z, t, t, y))


@pytest.mark.parametrize("sizes", [{}, {"patch": 4, "channels": 3, "dim": 24, "depth": 1}])
def test_alphaflow_answers_u(sizes: dict[str, int]) -> None:
    state = checkpoint("alphaflow", **sizes)
    z, t, r, y = inputs(channels=sizes.get("channels", 4))
    for given in (state, held(state)):
        model = imported(given, "alphaflow")
        same(model(z, t, r, y), alphaflow(state, HEADS, z, t, r, y))
        assert not torch.allclose(model(z, t, r, y)[0], model(z, t, r - 0.1, y)[0])


def test_what_no_sample_needs_is_left_out_by_name() -> None:
    state = checkpoint("repa")
    whole = from_public({f"module.{name}": tensor for name, tensor in (state | projectors(16)).items()}, "repa", HEADS)
    assert whole.notes == ("left out, for no sample needs these tensors: projectors. (6)",)
    assert from_public(state, "repa", HEADS).notes == ()
    (note,) = from_public(held(checkpoint("alphaflow")), "alphaflow", HEADS).notes
    assert note.endswith("autoencoder. (1), autoencoder_mean (1), autoencoder_var (1), are_ldm_stats_inited (1)")
    with pytest.raises(ValueError, match=r"6 that do not fit: projectors.0.0.bias is unexpected"):
        from_public(checkpoint("sit", sigma=False) | projectors(16), "sit", HEADS)
    # beside the network of AlphaFlow there is nothing else that is known
    with pytest.raises(ValueError, match=r"model.pos_embed is unexpected"):
        from_public(held(checkpoint("alphaflow")) | {"decoder.weight": torch.ones(2)}, "alphaflow", HEADS)


def test_without_a_null_class_the_last_class_stands_for_it() -> None:
    """As in AlphaFlow's code, whose label of no class is the table's last row."""
    state = checkpoint("alphaflow", classes=9)  # ten rows
    found = from_public(state, "alphaflow", HEADS, num_classes=10)
    assert (found.num_classes, len(found.weights["conditioning.label.weight"])) == (10, 11)
    assert ["no null class" in note for note in found.notes] == [True]
    model = build(found.options, found.shape, ClassLabels(10), seed=0).double()
    assert isinstance(model, DiT)
    found.fill(model)
    z, t, r, y = inputs()
    same(model(z, t, r, y), alphaflow(state, HEADS, z, t, r, y.clamp(max=9)))
    assert from_public(state, "alphaflow", HEADS, num_classes=9).notes == ()
    with pytest.raises(ValueError, match="num_classes: received 11; allowed: 9 and a null class, or 10 and none"):
        from_public(state, "alphaflow", HEADS, num_classes=11)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "blocks.0.attn.q_norm.weight",
            "one with blocks.0.attn.q_norm.weight: its network normalises queries and keys",
        ),
        ("net.shared_blocks.0.attn.q_proj._flax_linear.weight", "iMF's (Lyy-iiis/imeanflow), with rotary positions"),
        ("net.map_layer0.weight", "a U-Net (such as Gsunshine/py-meanflow's)"),
    ],
)
@pytest.mark.parametrize("source", get_args(Source))
def test_networks_that_ours_cannot_be_are_refused_with_the_reason(source: Source, name: str, words: str) -> None:
    """Whatever else is there: iMF's has normalised queries too."""
    beside = {name.replace("q_proj._flax_linear", "q_norm"): torch.ones(8), "net.x_embedder.proj.bias": torch.ones(8)}
    with pytest.raises(ValueError, match="what our DiT can be exactly") as error:
        from_public({"module." + each: tensor for each, tensor in (beside | {name: torch.ones(8)}).items()}, source)
    assert words in str(error.value)
    assert "that do not fit" not in str(error.value)


def test_the_commands_offer_what_there_is() -> None:
    assert get_args(get_type_hints(ImportArgs)["source"]) == get_args(Source) == tuple(CONVENTIONS)
    assert get_args(get_type_hints(ExportArgs)["target"]) == get_args(Target)


@pytest.mark.parametrize("source", ["sit", "repa", "dit"])
def test_the_gap_can_be_learned_from_where_it_is_ignored(source: Source) -> None:
    """The first layer of its embedding is as drawn, so the last one, which is zero, has a gradient."""
    model = imported(checkpoint(source), source)
    drawn = build(DiTOptions(dim=16, depth=2, heads=2), (4, 8, 8), ClassLabels(10), seed=0)
    assert isinstance(drawn, DiT)
    assert torch.equal(model.conditioning.gap.hidden.weight, drawn.conditioning.gap.hidden.weight.double())
    assert bool(model.conditioning.gap.hidden.weight.any())
    z, t, r, y = inputs()
    model(z, t, r, y).square().sum().backward()
    gradient = model.conditioning.gap.out.weight.grad
    assert gradient is not None
    assert float(gradient.abs().max()) > 0


@pytest.mark.parametrize("kind", ["sit", "repa", "meanflow-pytorch", "alphaflow"])
def test_every_tensor_of_xl_2_has_its_place(kind: Kind) -> None:
    """DiT's and SiT's code counts 675.13 M parameters, fixed positions included; with a second time 676.44 M train."""
    found = shapes(kind, **XL)
    assert shapes("dit", **XL) == shapes("sit", **XL)
    count = sum(math.prod(shape) for shape in found.values())
    trained, two_times, sigma = count - 256 * 1152, kind in ("meanflow-pytorch", "alphaflow"), kind == "sit"
    assert count == (676735504 if two_times else 675129632 - (0 if sigma else (1152 + 1) * 16))
    state = {name: torch.zeros(()).expand(shape) for name, shape in found.items()}
    imported = from_public(state | {"pos_embed": positions(16, 1152)}, kind)
    assert (imported.options, imported.shape, imported.num_classes) == (SIZES["XL/2"], (4, 32, 32), 1000)
    with torch.device("meta"):
        ours = {name: p.shape for name, p in DiT(imported.options, (4, 32, 32), ClassLabels(1000)).named_parameters()}
    given = {name: tensor.shape for name, tensor in imported.weights.items()}
    hidden = {f"conditioning.gap.hidden.{part}" for part in ("weight", "bias")}
    assert given == {name: shape for name, shape in ours.items() if two_times or name not in hidden}
    second_half = (1152 + 1) * 16 if sigma else 0
    gap = 0 if two_times else (256 + 1 + 1152 + 1) * 1152
    assert num_parameters(SIZES["XL/2"], (4, 32, 32), 1000) == trained - second_half + gap


@pytest.mark.parametrize("name", [name for name in SIZES if name != "XL/2"])
def test_heads_of_published_sizes_are_known(name: str) -> None:
    size = SIZES[name]
    found = shapes("sit", size.depth, size.dim, size.patch_size, classes=1)
    state = {key: torch.zeros(()).expand(shape) for key, shape in found.items()}
    assert from_public(state | {"pos_embed": positions(8 // size.patch_size, size.dim)}, "sit").options == size


@pytest.mark.parametrize("target", get_args(Target))
def test_there_and_back(target: Target) -> None:
    """Bitwise, but for the reversal of SiT's time and positions, which are computed."""
    state = checkpoint(target, dtype=torch.float32, sigma=False)
    found = from_public(state, target, HEADS)
    out = to_public(found.weights, found.options, found.shape, target)
    assert {name: tensor.shape for name, tensor in out.items()} == {
        name: tensor.shape for name, tensor in state.items()
    }
    for name, tensor in state.items():
        torch.testing.assert_close(out[name], tensor, rtol=2e-7, atol=2e-7)
        assert torch.equal(out[name], tensor) or name == "pos_embed" or target == "sit"
    z, t, r, y = inputs()
    exact = {name: tensor.double() for name, tensor in out.items()}
    ours = imported(state, target).double()(z, t, r, y)
    torch.testing.assert_close(ours, velocity(target, exact, HEADS, z, t, r, y), rtol=1e-4, atol=1e-4)


def test_a_sit_becomes_a_port_that_ignores_r() -> None:
    state = checkpoint("sit")
    model = imported(state, "sit")
    out = to_public(dict(model.named_parameters()), DiTOptions(dim=16, depth=2, heads=2), (4, 8, 8), "meanflow-pytorch")
    z, t, r, y = inputs()
    same(meanflow({name: p.detach() for name, p in out.items()}, HEADS, z, r, t, y), -sit(state, HEADS, z, 1 - t, y))


def test_what_a_target_cannot_be_is_refused() -> None:
    found = from_public(checkpoint("meanflow-pytorch"), "meanflow-pytorch", HEADS)
    one_time: tuple[Target, ...] = ("sit", "repa")
    for target in one_time:
        with pytest.raises(ValueError, match="--to: received 'a network whose answer depends on the gap"):
            to_public(found.weights, found.options, found.shape, target)
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
        ("sit", "repa", ["2 that do not fit", "final_layer.linear.bias has the shape (32,) instead of (16,)"]),
        ("meanflow-pytorch", "alphaflow", ["16 that do not fit", "noise_labels_next_embedder.mlp.2.bias is missing"]),
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
