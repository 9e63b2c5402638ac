"""How do the tasks of anybody's network get along? Gradient Grams and affinities inside a foreign training loop.

    import dynamics.attach as da

    tasks = da.gap_tasks(edges=(0.1, 0.3, 0.5, 0.7, 0.9))     # or {name: loss of each row, as a function (net, batch)}
    gram = da.gram(net, tasks, batches)                        # xarray, as a run's own measurements
    da.plots.affinity_heatmap(da.affinity(gram))

    with da.watching(net, tasks, batches, every=500, to="runs/mine"):
        train(net)                                             # whatever it does, with whatever optimiser
    da.affinity(dynamics.open_results("runs/mine"))

The network is any module; each task takes one backward pass a split, exact for every parameter that the loss reaches.
Gradients that lie in `.grad`, torch's random state on CPU and CUDA, and buffers stay as they are.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.optim.optimizer import register_optimizer_step_post_hook

from dynamics.analysis import affinity, noise_scale, plots
from dynamics.flow.condition import ClassLabels
from dynamics.flow.progress import Progress
from dynamics.flow.rows import Rows
from dynamics.flow.times import TimeLaw, UniformGap
from dynamics.instruments.gradients import Gradients, Sketch
from dynamics.instruments.gram import gram_dataset
from dynamics.instruments.instrument import asking
from dynamics.models import Network
from dynamics.objectives import MeanFlow, Objective
from dynamics.options import check_edges, invalid
from dynamics.progress_bar import ProgressBar
from dynamics.store import write_run

__all__ = ["affinity", "gap_tasks", "gram", "noise_scale", "plots", "watching"]

RowLoss = Callable[[nn.Module, Any], Tensor]
"""(network, batch) -> the loss of each row [B], with gradient. Random numbers come from torch's generators."""
Call = Callable[[nn.Module, Tensor, Tensor, Tensor, Any], Tensor]
"""(network, z [B, ...], t [B], r [B], y) -> u(z, t, r, y) [B, ...], at t = 1 noise, z_t = (1 - t) x + t e."""
Groups = Literal["model", "block", "tensor"]
SPLITS = 8
"""Independent splits, unless told otherwise."""
SAME = 1e-4
"""Relative difference of two values of one loss that is still the same loss."""


class _Labels(ClassLabels):
    """Labels whose null class is unknown where no number of classes was said."""

    def null(self, c: Tensor) -> Tensor:
        if len(c) and not self.num_classes:
            allowed = "the number of classes, where the target holds the network's answer to the null class"
            raise invalid("num_classes", 0, allowed, "pass num_classes to gap_tasks, and labels with each batch")
        return super().null(c)


def _plain_call(net: nn.Module, z: Tensor, t: Tensor, r: Tensor, y: Any) -> Tensor:
    out: Tensor = net(z, t, r, y)
    return out


@dataclass(frozen=True)
class GapTask:
    """The loss of an objective on rows whose gaps t - r lie in one bin, or whose r is t."""

    low: float
    """Smallest gap."""
    high: float
    """Largest gap; 0 is the task of v."""
    objective: Objective
    call: Call
    law: TimeLaw
    num_classes: int

    def __call__(self, net: nn.Module, batch: Any) -> Tensor:
        """Return the weighted loss of each row of a batch: images x [B, C, H, W], or (x, y)."""
        x, y = batch if isinstance(batch, tuple | list) else (batch, None)
        c = torch.zeros(len(x), dtype=torch.long, device=x.device) if y is None else y
        num_classes = 0 if y is None else self.num_classes
        seed = int(torch.randint(2**31, ()))
        stream = torch.Generator().manual_seed(seed)
        e = torch.randn(x.shape, generator=stream)
        t, r = self.law.sample(len(x), stream)
        num_equal = 0 if self.high else len(x)
        kept = torch.zeros(len(x), dtype=torch.bool)
        rows = Rows(x, e.to(x), t.to(x), (r if self.high else t).to(x), c, kept, num_equal, _Labels(num_classes))
        rows = asking(rows, self.objective, seed, "attached")
        u = Network(lambda z, t, r, c: self.call(net, z, t, r, None if y is None else c))
        terms = self.objective.loss(u, rows, Progress(0, 1))
        return terms.adaptive * terms.raw


def gap_tasks(
    edges: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    call: Call = _plain_call,
    objective: Objective | None = None,
    num_classes: int = 0,
) -> dict[str, GapTask]:
    """Return the tasks v and u by gap, t uniform given the gap: functions of (net, batch) that return the loss by row.

    Args:
        edges: Edges of the bins of the gap t - r.
        call: How the network is called, such as `lambda net, z, t, r, y: net(z, timestep=t, target=r, labels=y)`.
        objective: What is minimised; None takes MeanFlow's loss with its adaptive weight. A batch is x [B, C, H, W] or
            (x, y); forward-mode derivatives must exist of all that the network does. One that moves while training
            proceeds (AlphaFlow, TEMF) stands at its start.
        num_classes: Number of classes, which is the null class, for an objective with guidance in its target.

    Raises:
        ValueError: Edges do not increase between 0 and 1; an objective without a loss for r < t, or with teachers,
            which are no part of the network.
    """
    check_edges("edges", tuple(edges))
    chosen = MeanFlow() if objective is None else objective
    if chosen.teachers() or not chosen.TAKES_GAPS:
        allowed = "one with a loss for r < t rows that asks no averaged weights"
        raise invalid("objective", chosen.kind, allowed, "write its tasks as functions of (net, batch)")

    def task(low: float, high: float) -> GapTask:
        return GapTask(low, high, chosen, call, UniformGap(low=low, high=high), num_classes)

    return {"v": task(0, 0), **{f"u {a:g}-{b:g}": task(a, b) for a, b in itertools.pairwise(edges)}}


def gram(
    net: nn.Module,
    tasks: Mapping[str, RowLoss],
    batches: Iterable[Any],
    num_splits: int = SPLITS,
    groups: Groups = "model",
    sketch_size: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Measure inner products between the gradients of tasks on independent batches.

    All tasks of a split see the same batch and the same random numbers.

    Args:
        net: Any module, in the mode in which it is to be measured.
        tasks: Losses of each row, by name; see `RowLoss` and `gap_tasks`.
        batches: At least `num_splits` independent batches, of any kind that the tasks take; the first ones are used.
        num_splits: Independent splits K; error bars come from them.
        groups: Inner products of the whole model; also of each part (the first word of a tensor's name, or two where
            that is "blocks"); also of each tensor.
        sketch_size: Numbers kept of each tensor by a seeded sketch; None keeps whole gradients, tasks x K of them.
        seed: Of the random numbers of the losses, and of the sketch.
        progress: Show a bar.

    Returns:
        `gram` [group, task, split, task2, split2], `product_error`, `loss` [task, split], as of a run of this toolkit:
        `affinity` and `noise_scale` take it, the latter where all batches and tasks have as many rows
        (`rows_per_split`). The attribute `unreached` names parameters that no loss depends on.

    Raises:
        ValueError: No tasks, too few batches or splits, no trainable parameter, unknown options, a loss that is not
            one finite number a row, that changes buffers (batch norm in train mode), or is not the same twice.
    """
    _check_options(groups, sketch_size)
    kept, names = list(itertools.islice(iter(batches), num_splits)), list(tasks)
    weights = {name: weight for name, weight in net.named_parameters() if weight.requires_grad}
    _check(weights, names, kept, num_splits)
    _check_same_twice(net, tasks, kept[0], seed)
    into = Gradients(len(names) * num_splits, None if sketch_size is None else Sketch(seed, sketch_size))
    losses, sizes, reached = np.zeros((len(names), num_splits)), set[int](), set[str]()
    with ProgressBar("gradients", losses.size, "pass", show=progress, leave=False) as bar:
        for i, split in itertools.product(range(len(names)), range(num_splits)):
            rows = _losses(net, names[i], tasks[names[i]], kept[split], seed + split)
            found = torch.autograd.grad(_whole(rows).mean(), list(weights.values()), allow_unused=True)
            losses[i, split], sizes = float(_whole(rows.detach()).mean()), sizes | {len(rows)}
            where = slice(i * num_splits + split, i * num_splits + split + 1)
            for (name, weight), gradient in zip(weights.items(), found, strict=True):
                reached |= set() if gradient is None else {name}
                whole = torch.zeros_like(weight) if gradient is None else gradient
                into.add(name, where, _whole(whole.detach()).reshape(1, *(whole.shape or (1,))))
            bar.update(1)
    out = gram_dataset(into, groups, names, losses)
    for end, word in (("low", "smallest"), ("high", "largest")):
        gaps = [float(getattr(task, end, np.nan)) for task in tasks.values()]
        out = out.assign_coords({f"gap_{end}": ("task", gaps, {"units": "1", "long_name": f"{word} gap t - r"})})
    out["loss"].attrs = {"units": "1", "long_name": "loss of the task, mean over rows"}
    unreached = [name for name in weights if name not in reached]
    size = {"rows_per_split": sizes.pop()} if len(sizes) == 1 else {}
    return out.assign_attrs(rows="shared", **size, num_splits=num_splits, unreached=unreached)


@contextmanager
def watching(
    net: nn.Module,
    tasks: Mapping[str, RowLoss],
    batches: Iterable[Any],
    every: int,
    to: str | Path,
    **options: Any,
) -> Iterator[None]:
    """Measure the Gram of a network while any code trains it: at first, and after every so many optimiser steps.

    Steps are those of the torch optimisers that hold a parameter of the network. The same batches serve every time.
    `to` has a run.nc after the first measurement, written anew after each; `dynamics.open_results(to)` reads it.

    Args:
        net: As of `gram`; so are tasks, batches and options.
        tasks: Losses of each row, by name.
        batches: At least num_splits batches.
        every: Optimiser steps between measurements.
        to: A folder, made if missing.
        options: Of `gram`: num_splits, groups, sketch_size, seed.

    Raises:
        ValueError: As `gram`, before the first step, or at a later one whose loss cannot be measured any more; `every`
            below 1; a folder that holds a run.nc already.
    """
    file = Path(to) / "run.nc"
    if every < 1:
        raise invalid("every", every, "1 or more", "measure after every so many optimiser steps")
    if file.exists():
        raise invalid("to", str(to), "a folder without run.nc", "choose another one, or delete it")
    kept = list(itertools.islice(iter(batches), int(options.get("num_splits", SPLITS))))
    own, found, step = {id(weight) for weight in net.parameters()}, list[xr.Dataset](), 0

    def measure() -> None:
        found.append(gram(net, tasks, kept, **options).expand_dims(step=[step]))
        joined = xr.concat(found, "step", data_vars="minimal", coords="minimal", compat="override", join="exact")
        joined["step"].attrs.update(long_name="optimiser step", units="1")
        write_run(file, {"gram": joined}, {"run_id": Path(to).name})

    def after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        nonlocal step
        if any(id(weight) in own for group in optimizer.param_groups for weight in group["params"]):
            step += 1
            if step % every == 0:
                measure()

    measure()
    handle = register_optimizer_step_post_hook(after_step)
    try:
        yield
    finally:
        handle.remove()


def _whole(numbers: Tensor) -> Tensor:
    """Return numbers in single precision at least: products of gradients lose more than a network in half does."""
    return numbers.float() if numbers.dtype in (torch.bfloat16, torch.float16) else numbers


def _losses(net: nn.Module, name: str, task: RowLoss, batch: Any, seed: int) -> Tensor:
    """Compute the losses of a batch's rows under a seed of their own, and leave torch's random state alone."""
    # torch.manual_seed seeds every GPU, and those that are not yet in use too once they are
    in_use: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if in_use else ()
    with torch.random.fork_rng(devices), torch.enable_grad():
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        out = task(net, batch)
    received = ""
    if not isinstance(out, Tensor) or out.ndim != 1 or not len(out):
        received = f"a tensor {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
    elif not bool(out.isfinite().all()):
        received = "numbers that are not finite"
    elif not out.requires_grad:
        received = "a loss without gradient"
    if received:
        remedy = "return the losses of the rows, neither reduced nor detached"
        raise invalid(f"task {name!r}", received, "a finite loss of each row, [B], that depends on the network", remedy)
    return out


def _check(weights: Mapping[str, Tensor], names: Sequence[str], kept: Sequence[Any], num_splits: int) -> None:
    if not names:
        raise invalid("tasks", "none", "at least one loss by name", "see gap_tasks")
    if num_splits < 2:
        remedy = "an unbiased product needs two independent gradients; 8 give usable error bars"
        raise invalid("num_splits", num_splits, "2 or more", remedy)
    if len(kept) < num_splits:
        raise invalid("batches", len(kept), f"at least num_splits={num_splits}", "give more batches, or fewer splits")
    if not weights:
        raise invalid("net", "no trainable parameter", "a module with parameters", "set requires_grad")


def _check_options(groups: str, sketch_size: int | None) -> None:
    if groups not in get_args(Groups):
        raise invalid("groups", groups, ", ".join(get_args(Groups)), "choose one of these")
    if sketch_size is not None and sketch_size < 1:
        raise invalid("sketch_size", sketch_size, "1 or more, or None", "4096 is usual")


def _check_same_twice(net: nn.Module, tasks: Mapping[str, RowLoss], batch: Any, seed: int) -> None:
    """Refuse losses that change the network's buffers, or that differ from call to call under one seed."""
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    try:
        first, again = (
            [_losses(net, name, task, batch, seed).detach() for name, task in tasks.items()] for _ in range(2)
        )
    finally:
        buffers = {name: buffer for name, buffer in net.named_buffers() if name in before}
        moved = [name for name, buffer in buffers.items() if not torch.equal(buffer, before[name])]
        for name in moved:
            buffers[name].copy_(before[name])
    remedy = "call net.eval() for the measurement"
    if moved:
        norms = [name for name, module in net.named_modules() if isinstance(module, _BatchNorm) and module.training]
        raise invalid("net", f"buffers that change: {', '.join(norms or moved)}", "losses that only read", remedy)
    for name, one, two in zip(tasks, first, again, strict=True):
        if len(one) != len(two) or float((one - two).abs().max()) > SAME * float(one.abs().max()):
            random = [n for n, m in net.named_modules() if isinstance(m, _DropoutNd) and m.training]
            received = f"a loss that differs from call to call{': ' + ', '.join(random) if random else ''}"
            allowed = "one that is the same under the same torch.manual_seed"
            raise invalid(f"task {name!r}", received, allowed, f"draw all random numbers from torch, or {remedy}")
