"""What each scale asks of a machine, and what a run is expected to cost."""

from pydantic import Field

from dynamics.config import RunConfig
from dynamics.options import Options
from dynamics.planning.estimate import cost_of, forwards_per_row


class Resources(Options):
    """The machine of one run."""

    nodes: int = Field(default=1, gt=0)
    """Nodes of a run."""
    tasks: int = Field(default=1, gt=0)
    """Processes on each node; more than one in all start torch.distributed."""
    gpus: int = Field(default=0, ge=0)
    """GPUs of each node."""
    cpus: int = Field(default=1, gt=0)
    """CPU cores of each process."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Memory of each node; none leaves it to the cluster."""
    timeout_min: int = Field(default=60, gt=0)
    """Time limit of a job; a run that needs longer is requeued and continues."""
    gflops: float = Field(default=20.0, gt=0)
    """1e9 multiply-adds a second that one device (GPU, or core where there is none) is expected to sustain."""

    @property
    def devices(self) -> int:
        """GPUs of a run, or cores where there is none."""
        return self.nodes * (self.gpus or self.tasks * self.cpus)


RESOURCES: dict[str, Resources] = {
    "digits": Resources(cpus=1, timeout_min=60, gflops=10),
    "digits-dit": Resources(cpus=1, timeout_min=60, gflops=10),
    "mnist5k": Resources(cpus=1, timeout_min=60, gflops=10),
    "testbed": Resources(cpus=1, timeout_min=60, gflops=10),
    "testbed-mlp": Resources(cpus=1, timeout_min=60, gflops=10),
    "b4": Resources(tasks=8, gpus=8, cpus=8, timeout_min=24 * 60, gflops=100_000),
    "xl2": Resources(nodes=4, tasks=8, gpus=8, cpus=8, timeout_min=24 * 60, gflops=100_000),
}
"""One row per scale. 100 Tmadd/s are a fifth of an H100's dense bf16 peak; a core's figure is that of small tensors."""


def device_hours(config: RunConfig, resources: Resources) -> float:
    """Estimate a run's device-hours from its multiply-adds.

    Measuring and evaluating are left out, and small networks wait more than they compute: the estimate is good to a
    factor of two or three.
    """
    training, forward = config.training, cost_of(config).forward_gflops
    rows = training.num_steps * training.batch_size
    return rows * forward * forwards_per_row(config) / resources.gflops / 3600
