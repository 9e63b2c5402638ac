"""What a run will take, before anybody pays for it: multiply-adds, memory of a device by parts, hours, disk."""

import torch
from pydantic import Field

from dynamics.config import RunConfig
from dynamics.data import Shape, dimensions
from dynamics.models import DiTOptions
from dynamics.models.dit import Block
from dynamics.objectives import MeanFlow
from dynamics.options import Options, invalid
from dynamics.planning.cost import cost, saved

BYTES = 4
"""Of a number in single precision, in which weights, gradients, averages and moments are kept."""


class Device(Options):
    """A GPU as its data sheet has it."""

    tflops: float = Field(gt=0)
    """Dense bfloat16 peak, 1e12 floating-point operations (two a multiply-add) a second."""
    memory_gb: float = Field(gt=0)
    """Memory in 1e9 bytes."""


DEVICES: dict[str, Device] = {
    "h100": Device(tflops=989, memory_gb=80),
    "h200": Device(tflops=989, memory_gb=141),
    "b200": Device(tflops=2250, memory_gb=180),
    "a100": Device(tflops=312, memory_gb=80),
    "a100-40gb": Device(tflops=312, memory_gb=40),
    "l40s": Device(tflops=362, memory_gb=48),
}


class Memory(Options):
    """Memory of one device at the peak of a training step, 1e9 bytes, without what torch itself takes."""

    weights: float
    moments: float
    """Adam's two."""
    averages: float
    """Moving averages of the weights."""
    gradients: float
    update: float
    """Temporary copy that AdamW makes of one moment."""
    activations: float
    """What the gradient pass keeps, and the weights' copies in half precision."""
    exchange: float
    """DDP's buckets, or the blocks that FSDP puts together."""
    accumulates: bool
    """Whether gradients of earlier passes are there while a pass keeps its activations."""

    @property
    def peak(self) -> float:
        """The larger of the two moments that matter: the end of a forward pass, and the update of the weights."""
        forward = self.activations + self.gradients * self.accumulates
        return self.weights + self.moments + self.averages + self.exchange + max(forward, self.gradients + self.update)


class Estimate(Options):
    """What a run takes on so many devices."""

    num_parameters: int
    forward_gflops: float
    """1e9 multiply-adds of a forward pass of one row."""
    forwards_per_row: float
    """Forward passes that a training step costs a row, a backward pass counted as two."""
    total_flops: float
    """Floating-point operations of the whole training, two a multiply-add."""
    memory: Memory
    step_seconds: float
    hours: float
    checkpoint_gb: float
    """One checkpoint: weights, averages and moments."""
    checkpoints_gb: float
    """All that are on the disk at the same time, the one being written included."""


def forwards_per_row(config: RunConfig) -> float:
    """Return what a training step costs a row, in forward passes of the network.

    The gradient pass costs three, recomputing blocks one more; the derivative two on each r < t row. Guidance asks for
    the unconditional velocity of every row and the conditional one of r < t rows, where labels are kept.
    """
    share = config.times.gap_share
    passes = 3.0 + 2.0 * share + (config.training.recompute == "blocks")
    if isinstance(config.objective, MeanFlow) and config.objective.guidance.active:
        guidance = config.objective.guidance
        needs_null = abs(1 - guidance.w - guidance.k) > 1e-12
        passes += (1 - guidance.label_drop_prob) * (needs_null + share * (guidance.k > 0))
    return passes


def memory(config: RunConfig, ranks: int = 1) -> Memory:
    """Estimate the memory of one device.

    Args:
        config: The run.
        ranks: Devices that train it together.
    """
    shape, num_classes = dimensions(config.data)
    training = config.training
    size = cost(config.model, shape, num_classes).num_parameters * BYTES / 1e9
    kept = saved(config.model, shape, num_classes, training.precision == "bfloat16")
    rows = training.batch_size / (ranks * training.accumulation)
    per_row = kept.per_row
    if training.recompute == "blocks" and isinstance(config.model, DiTOptions):
        per_row = _recomputed(config.model, shape, per_row)
    part = size / ranks if training.parallel == "fsdp" else size
    return Memory(
        weights=part,
        moments=2 * part,
        averages=len(training.ema_decays) * part,
        gradients=part,
        update=part,
        activations=(rows * per_row + kept.of_weights) / 1e9,
        exchange=_exchange(config, size) if ranks > 1 else 0.0,
        accumulates=training.accumulation > 1,
    )


def _recomputed(model: DiTOptions, shape: Shape, per_row: int) -> int:
    """Return the activations of a row where each block keeps its input alone, and one block at a time the rest."""
    tokens = shape[1] * shape[2] // model.patch_size**2
    return per_row // model.depth + model.depth * tokens * model.dim * BYTES


def _exchange(config: RunConfig, size: float) -> float:
    if config.training.parallel == "ddp" or not isinstance(config.model, DiTOptions):
        return size
    with torch.device("meta"):
        block = sum(p.numel() for p in Block(config.model).parameters()) * BYTES / 1e9
    outside = size - config.model.depth * block
    return outside + 2 * block  # the block that computes and the one that is fetched meanwhile


def estimate(config: RunConfig, gpus: int, device: str, utilisation: float = 0.4) -> Estimate:
    """Estimate what a run takes.

    Args:
        config: The run.
        gpus: Number of devices.
        device: One of DEVICES.
        utilisation: Share of the peak that training sustains; nobody knows it before measuring.

    Raises:
        ValueError: Unknown device, or numbers that make no sense.
    """
    if device not in DEVICES:
        raise invalid("gpu", device, ", ".join(DEVICES), "choose one of these")
    if gpus < 1 or config.training.batch_size % (gpus * config.training.accumulation):
        allowed = f"a divisor of batch_size={config.training.batch_size} / accumulation={config.training.accumulation}"
        raise invalid("gpus", gpus, allowed, "change it, or training.batch_size")
    if not 0 < utilisation <= 1:
        raise invalid("utilisation", utilisation, "0 < utilisation <= 1", "0.3 to 0.5 are usual")
    training, found = config.training, cost(config.model, *dimensions(config.data))
    passes = forwards_per_row(config)
    step_flops = 2e9 * found.forward_gflops * passes * training.batch_size
    step_seconds = step_flops / (gpus * DEVICES[device].tflops * 1e12 * utilisation)
    checkpoint = found.num_parameters * BYTES * (3 + len(training.ema_decays)) / 1e9
    return Estimate(
        num_parameters=found.num_parameters,
        forward_gflops=found.forward_gflops,
        forwards_per_row=passes,
        total_flops=step_flops * training.num_steps,
        memory=memory(config, gpus),
        step_seconds=step_seconds,
        hours=step_seconds * training.num_steps / 3600,
        checkpoint_gb=checkpoint,
        checkpoints_gb=checkpoint * (training.keep_checkpoints + 1),
    )
