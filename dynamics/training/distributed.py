"""Several processes that train one run: who is who, what they agree on, and who acts alone.

Torchrun, Slurm or any other launcher starts the same command once a rank and sets RANK, WORLD_SIZE, LOCAL_RANK,
MASTER_ADDR and MASTER_PORT. Without them there is one rank, and nothing here costs anything.

What the ranks tell each other beside gradients travels through the CPU's memory: it is small, and a rank that waits for
hours while the first one measures occupies no GPU.
"""

import os
import pickle
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from itertools import count
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from dynamics.options import invalid

T = TypeVar("T")
JOIN = timedelta(minutes=10)
"""How long the ranks wait for one another at the start."""
WAIT = timedelta(hours=2)
"""How long a rank waits for the others later: the first one measures and saves alone."""
CPU = torch.device("cpu")
_groups = count()


@dataclass(frozen=True)
class World:
    """The place of this process among those that train the run."""

    rank: int
    size: int

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes, measures and speaks."""
        return self.rank == 0


def world() -> World:
    """Return this process's place; alone without a process group."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return World(0, 1)


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Belong to the process group that the environment describes; one that is there already is used and left as it is.

    Args:
        device: Where this run computes; of several GPUs each rank of a machine takes its own.

    Raises:
        ValueError: The environment is incomplete, or the group that is there has no way through the CPU.
    """
    if dist.is_available() and dist.is_initialized():
        backends = str(dist.get_backend_config())
        if "cpu:" not in backends:
            remedy = "init_process_group('cpu:gloo,cuda:nccl')"
            raise invalid("process group", backends, "one with a backend for the CPU", remedy)
        yield world()
        return
    if _number("WORLD_SIZE", 1) == 1:
        yield World(0, 1)
        return
    rank, size = _number("RANK"), _number("WORLD_SIZE")
    if device.type == "cuda":
        torch.cuda.set_device(_number("LOCAL_RANK", rank) % torch.cuda.device_count())
    meeting = _meeting(os.environ.get("MASTER_ADDR", ""), _number("MASTER_PORT"), rank, size)
    # keys of its own for every group of a process: the addresses of the one before must not be taken for this one's
    store = PrefixStore(f"dynamics {next(_groups)}", meeting)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=WAIT)
    try:
        yield World(rank, size)
    except BaseException as error:
        # the frames of the error hold the wrapped network, whose end waits for threads of the group: it must come first
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        dist.destroy_process_group()


def launched_rank() -> int:
    """Return the rank that a launcher gave this process; 0 without one.

    Raises:
        ValueError: RANK is no number.
    """
    return _number("RANK", 0)


@lru_cache(maxsize=1)
def _meeting(address: str, port: int, rank: int, size: int) -> Store:
    """Return where the ranks find one another, kept for the next group: a port cannot be left and taken at once."""
    if not address:
        raise invalid("MASTER_ADDR", address, "the first rank's host", "start all ranks with torchrun or Slurm")
    store: Store = next(rendezvous("env://", rank, size, timeout=JOIN))[0]
    return store


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name, "" if default is None else str(default))
    if not text.isdigit():
        raise invalid(name, text, "a number, as launchers set it", "start all ranks with torchrun or Slurm")
    return int(text)


def on_first(action: Callable[[], T]) -> T:
    """Let the first rank do something alone while the others wait; all return its result, or raise its error."""
    here = world()
    if here.size == 1:
        return action()
    result, error = _attempt(action) if here.first else (None, None)
    message = [(result, _portable(error))]
    dist.broadcast_object_list(message, src=0, device=CPU)
    return _outcome(message[0][0], error or message[0][1])


def on_all(action: Callable[[], T]) -> T:
    """Do something on every rank; if it fails on any, all raise: its own error, or the first among the others'."""
    here = world()
    if here.size == 1:
        return action()
    result, error = _attempt(action)
    errors: list[BaseException | None] = [None] * here.size
    dist.all_gather_object(errors, _portable(error))
    return _outcome(result, error or next(filter(None, errors), None))


def from_all(action: Callable[[], T]) -> list[T]:
    """Do something on every rank and return all results, by rank, which travel pickled; errors as in `on_all`."""
    here = world()
    if here.size == 1:
        return [action()]
    result, error = _attempt(action)
    box: list[tuple[T | None, BaseException | None]] = [(None, None)] * here.size
    dist.all_gather_object(box, (result, _portable(error)))
    _outcome(result, error or next(filter(None, (e for _, e in box)), None))
    return [cast(T, r) for r, _ in box]


def largest(number: int) -> int:
    """Return the largest of all ranks' numbers."""
    if world().size == 1:
        return number
    box = torch.tensor(number)
    dist.all_reduce(box, dist.ReduceOp.MAX)
    return int(box)


def interleaved(columns: Tensor, passes: int) -> Tensor:
    """Return the columns of all ranks in the order of the global batch.

    Args:
        columns: [Q, passes * n] on the CPU: this rank's rows, pass after pass. Row i of pass p on rank k of K is row
            (i * passes + p) * K + k of the batch, see `Rows.shard`.
        passes: Number of passes of a step.

    Returns:
        [Q, K * passes * n], the same on every rank.
    """
    here = world()
    parts = [columns]
    if here.size > 1:
        parts = [torch.empty_like(columns) for _ in range(here.size)]
        dist.all_gather(parts, columns)
    table = torch.stack([part.view(len(part), passes, -1) for part in parts], dim=-1)
    return table.transpose(1, 2).flatten(1)


def is_split(tensor: Tensor) -> bool:
    """Whether a tensor's rows are on several ranks."""
    return hasattr(tensor, "to_local")


def first_row(tensor: Tensor) -> int:
    """Return where this rank's part of a split tensor begins, in rows of the whole; 0 for one that is not split."""
    if not is_split(tensor):
        return 0
    here = world()
    share = -(-len(tensor) // here.size)  # torch.chunk: all shares are equal, but for the last ones
    return min(here.rank * share, len(tensor))


def local(tensor: Tensor) -> Tensor:
    """Return the part of a split tensor that is on this rank (a view); a tensor that is not split as it is."""
    to_local: Callable[[], Tensor] | None = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def whole(tensor: Tensor) -> Tensor:
    """Return a split tensor as a whole; all ranks must ask for it. A tensor that is not split is returned as it is."""
    full: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def _attempt(action: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    try:
        return action(), None
    except BaseException as error:  # whatever it is, the other ranks wait to hear of it
        return None, error


def _outcome(result: T | None, error: BaseException | None) -> T:
    if error is not None:
        raise error
    return cast(T, result)


def _portable(error: BaseException | None) -> BaseException | None:
    """Return an error that another process can raise: the same if it survives pickling, else one with its text."""
    if error is None:
        return None
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    except Exception:  # some errors cannot be pickled, others are made from other arguments than they keep
        pass
    kind = ValueError if isinstance(error, ValueError) else RuntimeError
    return kind(f"{type(error).__name__}: {error}")
