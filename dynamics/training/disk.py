"""A full disk: said before it happens where that can be known, and never at the price of what was written before."""

import errno
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dynamics.training.optimisation import TrainingOptions
from dynamics.training.state import TrainState

FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFullError(RuntimeError):
    """The disk has no room, or the quota is used up; what was written before is whole, and the run can be continued."""


def checkpoint_bytes(state: TrainState) -> int:
    """Return about how large a checkpoint is: weights, their averages and Adam's two moments."""
    weights = sum(p.numel() * p.element_size() for p in state.model.parameters())
    return weights * (1 + len(state.emas) + 2)


def snapshot_bytes(state: TrainState, options: TrainingOptions) -> int:
    """Return about how large a snapshot is: averages along power functions, in the precision that is asked for."""
    weights = sum(p.numel() * p.element_size() for p in state.model.parameters())
    return weights * len(options.ema_lengths) // (2 if options.snapshot_precision == "float16" else 1)


def check_room(folder: Path, keep: int, state: TrainState, snapshots: int = 0) -> None:
    """Warn if the checkpoints of a run will not fit onto the disk: `keep` that stay, and the one being written.

    So will `snapshots`, bytes of those that are still to be written.

    It is a warning, since what a quota leaves or another program will need is not known here.
    """
    needed = (keep + 1) * checkpoint_bytes(state) - _size(folder) + snapshots
    free = shutil.disk_usage(_there(folder)).free
    if free < needed:
        warnings.warn(
            f"{folder}: {keep + 1} checkpoints of {_shown(checkpoint_bytes(state))} need {_shown(needed)} more"
            f"{f', {_shown(snapshots)} of it for snapshots' if snapshots else ''}, "
            f"{_shown(free)} are free; make room, or keep fewer (training.keep_checkpoints)",
            stacklevel=2,
        )


@contextmanager
def room_for(what: str, folder: Path, needed: int = 0) -> Iterator[None]:
    """Turn errors of a full disk into one that says what to do; other errors pass.

    Nothing is removed to make room: which checkpoints may go is for the user to say.

    Args:
        what: What is written.
        folder: Where, below the run's folder.
        needed: About how many bytes, 0 if they are few.

    Raises:
        DiskFullError: There is no room.
    """
    try:
        yield
    except Exception as error:
        free = shutil.disk_usage(_there(folder)).free
        # not every library says why it could not write
        if not (_says_full(error) or free < needed):
            raise
        size = f"about {_shown(needed)} are needed, {_shown(free)} are free" if needed else f"{_shown(free)} are free"
        older = f"; the checkpoints in {folder} take {_shown(_size(folder))}" if needed and _size(folder) else ""
        raise DiskFullError(f"no room for {what} in {folder}: {size}{older} ({error})") from error


def _says_full(error: BaseException | None) -> bool:
    if error is None:
        return False
    # safetensors has an error of its own kind, which quotes the system's
    quoted = any(os.strerror(number) in str(error) for number in FULL)
    return quoted or getattr(error, "errno", None) in FULL or _says_full(error.__cause__)


def _there(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _shown(size: float) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e8 else f"{size / 1e6:.3g} MB"
