"""Training: state, step, loop, checkpoints, and the protocol of what may watch."""

from dynamics.training.checkpoint import Checkpoints, DamagedCheckpointError
from dynamics.training.disk import DiskFullError, check_room, room_for
from dynamics.training.distributed import World, joined, on_all, on_first, world
from dynamics.training.inherit import Origin, StartOptions, inherit
from dynamics.training.loop import Interrupted, Observer, Recorder, fit
from dynamics.training.monitor import Monitor, remembering
from dynamics.training.options import TrainingOptions, device_for
from dynamics.training.record import GAP_BINS, UNITS, StepRecord, peak_memory_mb
from dynamics.training.sharding import gathered, split
from dynamics.training.state import TrainState, Weights, bound, network, start
from dynamics.training.step import NonFiniteLossError, draw, passes, train_step
from dynamics.training.stop import STOPPED, TimeLimit, time_limit

__all__ = [
    "GAP_BINS",
    "STOPPED",
    "UNITS",
    "Checkpoints",
    "DamagedCheckpointError",
    "DiskFullError",
    "Interrupted",
    "Monitor",
    "NonFiniteLossError",
    "Observer",
    "Origin",
    "Recorder",
    "StartOptions",
    "StepRecord",
    "TimeLimit",
    "TrainState",
    "TrainingOptions",
    "Weights",
    "World",
    "bound",
    "check_room",
    "device_for",
    "draw",
    "fit",
    "gathered",
    "inherit",
    "joined",
    "network",
    "on_all",
    "on_first",
    "passes",
    "peak_memory_mb",
    "remembering",
    "room_for",
    "split",
    "start",
    "time_limit",
    "train_step",
    "world",
]
