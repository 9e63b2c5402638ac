"""Public weights of diffusion transformers in our network, and back: other names, other conventions, same function.

Time reversal is exact. The first layer of the time embedding sees cos(w t) and sin(w t); with t = 1 - s

    cos(w t) = cos(w) cos(w s) + sin(w) sin(w s),    sin(w t) = sin(w) cos(w s) - cos(w) sin(w s),

a reflection of each pair, which goes into that layer's weights and is its own inverse.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dynamics.exchange.conventions import CONVENTIONS, HEADS, UNLIKE_OURS, Convention, Source, Target
from dynamics.flow.condition import ClassLabels
from dynamics.models.dit import DiT, DiTOptions
from dynamics.models.embeddings import position_table, sinusoid
from dynamics.options import invalid

Weights = dict[str, Tensor]
POSITION_ERROR = 1e-5
"""How far positions may lie from our table; in half precision, its rounding."""

_POSITIONS, _PATCHES, _LABELS = "pos_embed", "x_embedder.proj.weight", "y_embedder.embedding_table.weight"
_HIDDEN, _FINAL = "blocks.0.mlp.fc1.weight", "final_layer.linear"
_LAYERS = {
    "x_embedder.proj": "embed",
    "final_layer.adaLN_modulation.1": "final_modulation",
    _FINAL: "final",
}
_BLOCK_LAYERS = {
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.proj",
    "mlp.fc1": "mlp_in",
    "mlp.fc2": "mlp_out",
    "adaLN_modulation.1": "modulation",
}
_TIME, _GAP = "conditioning.time.hidden.weight", "conditioning.gap.out"


@dataclass(frozen=True)
class Imported:
    """A public network in our names and conventions."""

    options: DiTOptions
    """Its sizes."""
    shape: tuple[int, int, int]
    """(C, H, W) of what it takes."""
    num_classes: int
    """Number of classes; the row after them in the table of labels is the null class."""
    weights: Weights
    """By our names. Without a second time in the source, the gap's hidden layer is left out and its last one is 0."""
    notes: tuple[str, ...] = ()
    """What was not taken over as it is, in sentences."""

    def fill(self, model: DiT) -> None:
        """Copy the weights into a network of these sizes; a layer that the source does not have keeps its own."""
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in self.weights:
                    parameter.copy_(self.weights[name])


def from_public(
    tensors: Mapping[str, Tensor], source: Source, heads: int | None = None, num_classes: int | None = None
) -> Imported:
    """Translate the tensors of a public checkpoint.

    Args:
        tensors: Its state dict. `pos_embed` is compared with our table and not kept; of an output with twice the
            channels (learn_sigma) the first half is. What no sample needs is left out and noted.
        source: Which repository's network this is.
        heads: Attention heads; None looks them up in HEADS.
        num_classes: Number of classes; None takes the last label for the null class. With as many labels as classes, a
            copy of the last one becomes the null class, for which AlphaFlow's code takes that too.

    Returns:
        The network u(z, t, r, y): v(z, t, y) at every r for "sit", the raw DiT of t = 0..999 for "dit".

    Raises:
        ValueError: Naming every tensor that is missing, unexpected, of another shape or not of finite numbers; a
            network that ours cannot be; other positions; another number of classes; sizes without known heads.
    """
    convention = CONVENTIONS[source]
    tensors, left_out = _alone(tensors, convention)
    tensors, copied = _with_null_class(tensors, num_classes)
    sizes = _sizes(tensors, convention)
    if (problems := _problems(tensors, convention, sizes)) or sizes is None:
        received = f"{len(problems)} that do not fit: {'; '.join(problems)}"
        allowed = f"the tensors that the code of {convention.repository} saves"
        raise invalid("checkpoint", received, allowed, f"choose another --from than {source}, or another file")
    options, shape, classes, _ = sizes
    if heads is None and (heads := HEADS.get((options.depth, options.dim))) is None:
        known = ", ".join(f"{depth} blocks of width {dim}" for depth, dim in HEADS)
        remedy = "pass --heads: no file says how many attention heads its network has"
        raise invalid("heads", f"none for {options.depth} blocks of width {options.dim}", known, remedy)
    _check_positions(tensors[_POSITIONS], shape, options)
    weights = {ours: tensors[name] for name, ours in _names(options.depth, convention).items()}
    weights["embed.weight"] = weights["embed.weight"].flatten(1)
    for kind in ("weight", "bias"):
        weights[f"final.{kind}"] = _channels_first(weights[f"final.{kind}"], options.patch_size, shape[0])
        if convention.reverses_time:
            weights[f"final.{kind}"] = -weights[f"final.{kind}"]
        if not convention.two_times:
            weights[f"{_GAP}.{kind}"] = torch.zeros_like(weights[f"conditioning.time.out.{kind}"])
    if convention.reverses_time:
        weights[_TIME] = _reversed(weights[_TIME])
    options = DiTOptions.model_validate({**dict(options), "heads": heads})
    return Imported(options, shape, classes, weights, left_out + copied)


def to_public(
    weights: Mapping[str, Tensor], options: DiTOptions, shape: tuple[int, int, int], target: Target
) -> Weights:
    """Translate our weights for a public repository's code; `from_public` of the result is these weights again.

    Args:
        weights: Of a DiT, by our names.
        options: Its sizes.
        shape: (C, H, W).
        target: Which repository.

    Returns:
        Its state dict, with `pos_embed`. There are as many output channels as input channels: SiT's code takes it with
        learn_sigma=False.

    Raises:
        ValueError: The target has no second time but these weights use it; or images that are not square.
    """
    convention, (channels, height, width) = CONVENTIONS[target], shape
    if height != width:
        raise invalid("shape", shape, f"square images for {convention.repository}", "export a run on square images")
    if not convention.two_times and any(bool(weights[f"{_GAP}.{kind}"].any()) for kind in ("weight", "bias")):
        received = "a network whose answer depends on the gap t - r"
        allowed = f"one whose embedding of it is 0: {convention.repository} has one time only"
        raise invalid("--to", received, allowed, "export it --to meanflow-pytorch or alphaflow")
    grid, p = height // options.patch_size, options.patch_size
    out = {name: weights[ours] for name, ours in _names(options.depth, convention).items()}
    out[_PATCHES] = out[_PATCHES].reshape(-1, channels, p, p)
    for name in (f"{_FINAL}.weight", f"{_FINAL}.bias"):
        rows = out[name]
        out[name] = rows.reshape(channels, p, p, *rows.shape[1:]).movedim(0, 2).flatten(0, 2)
        if convention.reverses_time:
            out[name] = -out[name]
    if convention.reverses_time:
        first = f"{convention.embedders[0]}.mlp.0.weight"
        out[first] = _reversed(out[first])
    out[_POSITIONS] = position_table(grid, grid, options.dim)[None]
    return out


def _alone(tensors: Mapping[str, Tensor], convention: Convention) -> tuple[Weights, tuple[str, ...]]:
    """Return the network's own tensors, named as within it, and a note on those that are left out."""
    whole = _without("module.", dict(tensors))  # of a DistributedDataParallel
    own = {name: tensor for name, tensor in whole.items() if not name.startswith(convention.left_out)}
    for mark, reason in UNLIKE_OURS.items():
        if name := next((name for name in own if mark in name), None):
            received = f"one with {name}: its network {reason}"
            raise invalid("checkpoint", received, "what our DiT can be exactly", "use it in its own code")
    counts = {part: sum(name.startswith(part) for name in whole) for part in convention.left_out}
    parts = ", ".join(f"{part} ({count})" for part, count in counts.items() if count)
    notes = (f"left out, for no sample needs these tensors: {parts}",) if parts else ()
    return _without(convention.within, own), notes


def _without(prefix: str, tensors: Weights) -> Weights:
    """Return the tensors without a prefix that all names have."""
    common = all(name.startswith(prefix) for name in tensors)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()} if common else tensors


def _with_null_class(tensors: Weights, num_classes: int | None) -> tuple[Weights, tuple[str, ...]]:
    """Return the tensors with labels that end in a null class, and a note if it had to be added."""
    table = tensors.get(_LABELS)
    if num_classes is None or table is None or table.dim() != 2 or len(table) == num_classes + 1:
        return tensors, ()
    if len(table) != num_classes:
        allowed = f"{len(table) - 1} and a null class, or {len(table)} and none"
        raise invalid("num_classes", num_classes, allowed, f"pass --num-classes for the {len(table)} rows of {_LABELS}")
    note = "it has no null class: a copy of its last class stands for it, so that guidance means nothing"
    return tensors | {_LABELS: torch.cat([table, table[-1:]])}, (note,)


def _names(depth: int, convention: Convention) -> dict[str, str]:
    """Return our name of each public parameter."""
    layers = dict(_LAYERS)
    for embedder, part in zip(convention.embedders, ("time", "gap"), strict=False):
        layers |= {f"{embedder}.mlp.0": f"conditioning.{part}.hidden", f"{embedder}.mlp.2": f"conditioning.{part}.out"}
    layers |= {f"blocks.{i}.{a}": f"blocks.{i}.{b}" for i in range(depth) for a, b in _BLOCK_LAYERS.items()}
    names = {f"{a}.{kind}": f"{b}.{kind}" for a, b in layers.items() for kind in ("weight", "bias")}
    return names | {_LABELS: "conditioning.label.weight"}


def _depth(tensors: Mapping[str, Tensor]) -> int:
    """Return how many blocks the names speak of, one at least, and no more than there are tensors."""
    indices = [int(i) for name in tensors if name.startswith("blocks.") and (i := name.split(".")[1]).isdecimal()]
    return max(1, min(max(indices, default=0) + 1, len(tensors)))


class _Sizes(NamedTuple):
    """What the shapes of a checkpoint's tensors say."""

    options: DiTOptions
    """With one head: how many there are is no matter of shapes."""
    shape: tuple[int, int, int]
    num_classes: int
    out_channels: int


def _sizes(tensors: Mapping[str, Tensor], convention: Convention) -> _Sizes | None:
    """Return the sizes; None where the tensors that say them are missing or have other dimensions."""
    dims = {_PATCHES: 4, _POSITIONS: 3, _LABELS: 2, _HIDDEN: 2, f"{_FINAL}.bias": 1}
    if any(name not in tensors or tensors[name].dim() != dim for name, dim in dims.items()):
        return None
    dim, channels, patch, _ = tensors[_PATCHES].shape
    side = math.isqrt(tensors[_POSITIONS].shape[1]) * patch
    doubled = convention.learns_sigma and len(tensors[f"{_FINAL}.bias"]) == 2 * channels * patch**2
    if not (dim and channels and patch and side and len(tensors[_LABELS]) > 1):
        return None
    hidden = len(tensors[_HIDDEN]) / dim
    options = DiTOptions(patch_size=patch, dim=dim, depth=_depth(tensors), heads=1, mlp_ratio=hidden)
    shape = (channels, side, side)
    return _Sizes(options, shape, len(tensors[_LABELS]) - 1, out_channels=channels * (2 if doubled else 1))


def _problems(tensors: Mapping[str, Tensor], convention: Convention, sizes: _Sizes | None) -> list[str]:
    """Describe every tensor that the convention's network of these sizes does not have as it is."""
    names = _names(_depth(tensors), convention)
    expected = {*names, _POSITIONS}
    found = [f"{name} is missing" for name in sorted(expected - tensors.keys())]
    found += [f"{name} is unexpected" for name in sorted(tensors.keys() - expected)]
    shapes = {} if sizes is None else _shapes(names, sizes)
    for name in sorted(expected & tensors.keys()):
        tensor = tensors[name]
        if shapes.get(name, tensor.shape) != tensor.shape:
            found.append(f"{name} has the shape {tuple(tensor.shape)} instead of {tuple(shapes[name])}")
        elif not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            found.append(f"{name} has other values than finite floating-point numbers")
        elif sizes is None and name in (_PATCHES, _POSITIONS, _LABELS, _HIDDEN, f"{_FINAL}.bias"):
            found.append(f"{name} has the shape {tuple(tensor.shape)}")
    return found


def _shapes(names: Mapping[str, str], sizes: _Sizes) -> dict[str, torch.Size]:
    """Return the shape of each public tensor."""
    options, shape, num_classes, out_channels = sizes
    with torch.device("meta"):
        ours = dict(DiT(options, shape, ClassLabels(num_classes)).named_parameters())
    shapes = {name: ours[own].shape for name, own in names.items()}
    patch = options.patch_size
    rows = out_channels * patch**2
    tokens = (shape[1] // patch) * (shape[2] // patch)
    return shapes | {
        _PATCHES: torch.Size((options.dim, shape[0], patch, patch)),
        f"{_FINAL}.weight": torch.Size((rows, options.dim)),
        f"{_FINAL}.bias": torch.Size((rows,)),
        _POSITIONS: torch.Size((1, tokens, options.dim)),
    }


def _check_positions(positions: Tensor, shape: tuple[int, int, int], options: DiTOptions) -> None:
    table = position_table(shape[1] // options.patch_size, shape[2] // options.patch_size, options.dim)
    error = float((positions[0].double() - table.double()).abs().max())
    allowed = max(POSITION_ERROR, torch.finfo(positions.dtype).eps)
    if not error <= allowed:
        received = f"{_POSITIONS} that differs by up to {error:.3g} from the fixed sines and cosines"
        remedy = "learned or otherwise changed positions have no place in our network"
        raise invalid("checkpoint", received, f"a difference of up to {allowed:.3g}", remedy)


def _channels_first(rows: Tensor, patch: int, channels: int) -> Tensor:
    """Order the last layer's rows [p p c', ...] as [c p p, ...], and leave channels beyond the first c out."""
    by_cell = rows.reshape(patch, patch, -1, *rows.shape[1:])
    return by_cell[:, :, :channels].movedim(2, 0).flatten(0, 2)


def _reversed(weight: Tensor) -> Tensor:
    """Return the layer that answers at s what this one, on cosines and sines [dim, frequencies], answers at 1 - s."""
    cos, sin = sinusoid(torch.ones(1, dtype=torch.float64), weight.shape[1])[0].chunk(2)
    of_cos, of_sin = weight.double().chunk(2, dim=1)
    return torch.cat([of_cos * cos + of_sin * sin, of_cos * sin - of_sin * cos], dim=1).to(weight.dtype)
