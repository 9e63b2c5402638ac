"""How a run is optimised."""

import os
from itertools import product
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import Field, model_validator

from dynamics.models.attention import DualAttention
from dynamics.options import Options, invalid, later
from dynamics.training.power_averages import average_name, check_carried, check_length

SNAPSHOTS = 16
"""How many a run keeps, if nothing else is said."""
CGROUP = Path("/sys/fs/cgroup/cpu.max")
"""What a container or a job is left of the machine's cores: quota and period in microseconds."""


class TrainingOptions(Options):
    """Optimiser, batch, averages and checkpoints."""

    num_steps: int = Field(default=2000, gt=0)
    """Total planned optimiser steps T; curricula read their progress from it."""
    batch_size: int = Field(default=128, gt=0)
    """Rows per optimiser step, over all ranks and accumulation steps."""
    accumulation: int = Field(default=1, gt=0)
    """Split each batch into this many passes; times the number of ranks it must divide batch_size."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """With several ranks: each holds all weights (ddp), or a part of weights, averages and moments (fsdp)."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """AdamW step size, constant after the warm-up."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises linearly."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest gradient norm; none switches clipping off, as in the paper."""
    ema_decays: tuple[float, ...] = (0.999,)
    """Decay of each exponential moving average of the weights; the first is the one evaluated."""
    ema_lengths: tuple[float, ...] = later(())
    """Averages along power functions of training time, as shares of it (0.05 0.1). Snapshots of them are kept, from
    which an average of any length is rebuilt afterwards."""
    snapshot_every: int | None = later(None, gt=0)
    """Steps between these snapshots, of which the last step always is one; none makes 16."""
    snapshot_precision: Literal["float32", "float16"] = later("float32")
    """How snapshots are kept; float16 halves the disk they take, and changes a weight by up to 0.05% of itself."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the gradient and guidance passes under autocast; the derivative stays in float32."""
    recompute: Literal["none", "blocks"] = later("none")
    """blocks keeps each block's input alone and computes the rest again on the way back: less memory, more time."""
    derivative_attention: DualAttention = later("math")
    """Attention in the derivative: the explicit product, or the fused kernel of the package jvp_flash_attention."""
    compile: bool = False
    """Compile the network and its derivative with torch.compile."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes the GPU if there is one."""
    num_threads: int | None = Field(default=None, gt=0)
    """CPU threads of this process; none takes what the environment or the allocation grants, see `threads_for`."""
    checkpoint_every: int = Field(default=500, gt=0)
    """Steps between checkpoints."""
    keep_checkpoints: int = Field(default=2, gt=0)
    """How many of the newest checkpoints stay."""
    alarm_factor: float | None = later(10.0, gt=1)
    """Warn when a loss or du/dt norm of a gap, or the gradient norm, stays this many times above its running mean."""
    skip_nonfinite: int = later(0, ge=0)
    """Leave out up to this many steps in a row, and half of all at most, whose loss or gradient is not finite. It hides
    what went wrong."""

    def rate(self, step: int) -> float:
        """Return AdamW's step size in the step after `step` steps."""
        return self.learning_rate * min(1.0, (step + 1) / max(self.warmup_steps, 1))

    @property
    def averages(self) -> tuple[str, ...]:
        """Names of all averages of the weights, the first of `ema_decays` first."""
        return *map(str, self.ema_decays), *map(average_name, self.ema_lengths)

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """Steps of which a snapshot is kept."""
        if not self.ema_lengths:
            return ()
        every = self.snapshot_every or -(-self.num_steps // SNAPSHOTS)
        return *range(every, self.num_steps, every), self.num_steps

    def check_ema_length(self, length: float) -> None:
        """Refuse the length of an average that the snapshots of a finished run will not carry.

        Raises:
            ValueError: It is none, or there will be no snapshots that carry it.
        """
        check_length(length)
        kept = list(product(self.ema_lengths, self.snapshot_steps))
        lengths, steps = [a for a, _ in kept], [step for _, step in kept]
        check_carried(length, self.num_steps, lengths, steps, self.snapshot_precision)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.batch_size % self.accumulation:
            allowed = f"a divisor of batch_size={self.batch_size}"
            raise invalid("training.accumulation", self.accumulation, allowed, "change accumulation or batch_size")
        once = len({*self.ema_decays}) == len(self.ema_decays)
        if not self.ema_decays or not once or not all(0 <= d < 1 for d in self.ema_decays):
            raise invalid("training.ema_decays", self.ema_decays, "one or more in [0, 1), each once", "such as 0.999")
        if len({*self.ema_lengths}) < len(self.ema_lengths):
            raise invalid("training.ema_lengths", self.ema_lengths, "each length once", "such as 0.05 0.1")
        for length in self.ema_lengths:
            check_length(length, name="training.ema_lengths")
        for name in () if self.ema_lengths else ("snapshot_every", "snapshot_precision"):
            if (value := getattr(self, name)) != type(self).model_fields[name].default:
                raise invalid(
                    f"training.{name}", value, "no change without averages to keep", "set training.ema_lengths"
                )
        if self.compile and self.derivative_attention != "math":
            # compiled, a kernel's own derivative is dropped without a word (pytorch#187284)
            remedy = "leave training.compile off"
            raise invalid("training.derivative_attention", self.derivative_attention, "math with compile", remedy)
        if not all(0 <= b < 1 for b in self.betas):
            raise invalid("training.betas", self.betas, "two numbers in [0, 1)", "for example 0.9 0.95")
        return self


def threads_for(options: TrainingOptions) -> int:
    """Return how many CPU threads a run uses here.

    Those that the config names; else OMP_NUM_THREADS; else the cores of the Slurm task; else those that affinity and
    cgroup leave to this process. A whole machine is nobody's allocation and may be shared: of it two are taken.
    """
    if options.num_threads is not None:
        return options.num_threads
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        said = os.environ.get(name, "").split(",")[0].strip()
        if said.isdigit() and int(said) > 0:
            return int(said)
    cores, machine = min(len(os.sched_getaffinity(0)), _quota()), os.cpu_count() or 1
    return cores if cores < machine else min(machine, 2)


def _quota() -> int:
    """Return how many cores the process's cgroup may use; as many as the machine has where it says nothing."""
    try:
        quota, period = map(int, CGROUP.read_text().split())
    except (OSError, ValueError):  # no such file, or "max"
        return os.cpu_count() or 1
    return max(quota // period, 1)


def device_for(options: TrainingOptions) -> torch.device:
    """Return where a run computes.

    Raises:
        ValueError: cuda is asked for and there is none.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        raise invalid("training.device", "cuda", "cpu or auto on this machine", "torch sees no GPU here")
    if options.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(options.device)
