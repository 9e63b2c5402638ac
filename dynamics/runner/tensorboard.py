"""Curves for TensorBoard beside the log: a convenience, from which nothing is ever read back."""

import math
from importlib.util import find_spec
from pathlib import Path

from dynamics.options import invalid
from dynamics.record import StepRecord

EVERY = 10
"""Steps between points."""


def check_installed() -> None:
    """Refuse to begin without the package.

    Raises:
        ValueError: It is not installed.
    """
    if find_spec("tensorboard") is None:
        remedy = "pip install 'meanflow-dynamics[tensorboard]', or leave the option out"
        raise invalid("tensorboard", True, "false where the package tensorboard is not installed", remedy)


class Board:
    """Event files of a run.

    Args:
        folder: Where they are.
        step: Steps done so far; what an earlier attempt wrote of later ones is purged.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # imported here: an extra, and slow

        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def add(self, record: StepRecord) -> None:
        """Write the finite numbers of a step, of every EVERY-th one."""
        if record.step % EVERY:
            return
        for name, value in record.flat().items():
            if name != "step" and isinstance(value, int | float) and math.isfinite(value):
                self._writer.add_scalar(f"training/{name}", value, record.step)

    def close(self) -> None:
        """Have everything in the files."""
        self._writer.close()
