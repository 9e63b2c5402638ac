"""Training: state, step, loop, checkpoints, and the protocol of what may watch."""

from dynamics.training.checkpoint import Checkpoints
from dynamics.training.disk import DiskFullError, check_room, room_for, snapshot_bytes
from dynamics.training.distributed import World, joined, launched_rank, on_all, on_first, world
from dynamics.training.inherit import Origin, StartOptions, check_averages, inherit
from dynamics.training.loop import Interrupted, Observer, Recorder, fit
from dynamics.training.monitor import Monitor, remembering
from dynamics.training.optimisation import TrainingOptions, device_for, threads_for
from dynamics.training.power_averages import check_length, length_in, weights_name
from dynamics.training.recipe import Recipe, series_of
from dynamics.training.sharding import gathered, split
from dynamics.training.snapshots import Snapshots
from dynamics.training.state import TrainState, Weights, start
from dynamics.training.step import NonFiniteLossError, draw, train_step
from dynamics.training.step_folders import DamagedCheckpointError
from dynamics.training.stop import STOPPED, TimeLimit, time_limit
from dynamics.training.training_network import TrainingNetwork

__all__ = [
    "STOPPED",
    "Checkpoints",
    "DamagedCheckpointError",
    "DiskFullError",
    "Interrupted",
    "Monitor",
    "NonFiniteLossError",
    "Observer",
    "Origin",
    "Recipe",
    "Recorder",
    "Snapshots",
    "StartOptions",
    "TimeLimit",
    "TrainState",
    "TrainingNetwork",
    "TrainingOptions",
    "Weights",
    "World",
    "check_averages",
    "check_length",
    "check_room",
    "device_for",
    "draw",
    "fit",
    "gathered",
    "inherit",
    "joined",
    "launched_rank",
    "length_in",
    "on_all",
    "on_first",
    "remembering",
    "room_for",
    "series_of",
    "snapshot_bytes",
    "split",
    "start",
    "threads_for",
    "time_limit",
    "train_step",
    "weights_name",
    "world",
]
