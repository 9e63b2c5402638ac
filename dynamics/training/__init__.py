"""Training: state, step, loop, checkpoints, and the protocol of what may watch."""

from dynamics.training.checkpoint import Checkpoints, DamagedCheckpointError
from dynamics.training.loop import Interrupted, Observer, fit
from dynamics.training.options import TrainingOptions
from dynamics.training.record import GAP_BINS, UNITS, StepRecord, peak_memory_mb
from dynamics.training.state import TrainState, Weights, bound, load_weights, network, start
from dynamics.training.step import NonFiniteLossError, draw, passes, train_step
from dynamics.training.stop import STOPPED

__all__ = [
    "GAP_BINS",
    "STOPPED",
    "UNITS",
    "Checkpoints",
    "DamagedCheckpointError",
    "Interrupted",
    "NonFiniteLossError",
    "Observer",
    "StepRecord",
    "TrainState",
    "TrainingOptions",
    "Weights",
    "bound",
    "draw",
    "fit",
    "load_weights",
    "network",
    "passes",
    "peak_memory_mb",
    "start",
    "train_step",
]
