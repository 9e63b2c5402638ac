"""What a run will take, before anybody pays for it: multiply-adds, memory of a device by parts, hours, disk."""

from pydantic import Field

from dynamics.config import RunConfig
from dynamics.curricula import Progress, plan_for
from dynamics.options import Options, invalid
from dynamics.planning.cost import Cost, cost

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
    snapshots_gb: float
    """All snapshots of averages at the end."""


def cost_of(config: RunConfig) -> Cost:
    """Return what a run's network costs."""
    shape, condition = config.data.dimensions()
    condition = config.objective.condition(condition)
    return cost(config.model, shape, condition, config.training.precision == "bfloat16")


def forwards_per_row(config: RunConfig) -> float:
    """Return what a training step costs a row, in forward passes of the network.

    The objective says what its passes cost, on average over a training in which curricula may move the share of r < t
    rows; recomputing blocks costs one more.
    """
    states = [curriculum.initial_state() for curriculum in config.curricula]
    shares = [plan_for(config.times, config.curricula, Progress(i, 100), states).gap_share for i in range(100)]
    return config.objective.forwards_per_row(sum(shares) / 100) + (config.training.recompute == "blocks")


def memory(config: RunConfig, ranks: int = 1) -> Memory:
    """Estimate the memory of one device.

    Args:
        config: The run.
        ranks: Devices that train it together.
    """
    training = config.training
    found = cost_of(config)
    size = found.num_parameters * BYTES / 1e9
    per_row = found.kept_per_row
    if training.recompute == "blocks" and found.num_blocks:  # each keeps its input alone, one at a time the rest
        per_row = per_row // found.num_blocks + found.block_inputs
    part = size / ranks if training.parallel == "fsdp" else size
    exchange = size
    if training.parallel == "fsdp" and found.num_blocks:
        block = found.block_parameters * BYTES / 1e9
        # what is outside the blocks, the block that computes, and the one that is fetched meanwhile
        exchange = size - found.num_blocks * block + 2 * block
    return Memory(
        weights=part,
        moments=2 * part,
        averages=len(training.averages) * part,
        gradients=part,
        update=part,
        activations=(training.batch_size / (ranks * training.accumulation) * per_row + found.kept_of_weights) / 1e9,
        exchange=exchange if ranks > 1 else 0.0,
        accumulates=training.accumulation > 1,
    )


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
    training, found = config.training, cost_of(config)
    passes = forwards_per_row(config)
    step_flops = 2e9 * found.forward_gflops * passes * training.batch_size
    step_seconds = step_flops / (gpus * DEVICES[device].tflops * 1e12 * utilisation)
    checkpoint = found.num_parameters * BYTES * (3 + len(training.averages)) / 1e9
    kept = len(training.snapshot_steps) * len(training.ema_lengths) / (1 + (training.snapshot_precision == "float16"))
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
        snapshots_gb=found.num_parameters * BYTES * kept / 1e9,
    )
