"""Training: state, step, loop, checkpoints, and the protocol of what may watch."""

from dynamics.training.checkpoint import Checkpoints, DamagedCheckpointError
from dynamics.training.disk import DiskFullError, check_room, room_for
from dynamics.training.distributed import World, joined, launched_rank, on_all, on_first, world
from dynamics.training.inherit import Origin, StartOptions, inherit
from dynamics.training.loop import Interrupted, Observer, Recorder, fit
from dynamics.training.monitor import Monitor, remembering
from dynamics.training.optimisation import TrainingOptions, device_for, threads_for
from dynamics.training.recipe import Recipe, series_of
from dynamics.training.sharding import gathered, split
from dynamics.training.state import TrainState, Weights, start
from dynamics.training.step import NonFiniteLossError, draw, train_step
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
    "StartOptions",
    "TimeLimit",
    "TrainState",
    "TrainingNetwork",
    "TrainingOptions",
    "Weights",
    "World",
    "check_room",
    "device_for",
    "draw",
    "fit",
    "gathered",
    "inherit",
    "joined",
    "launched_rank",
    "on_all",
    "on_first",
    "remembering",
    "room_for",
    "series_of",
    "split",
    "start",
    "threads_for",
    "time_limit",
    "train_step",
    "world",
]
