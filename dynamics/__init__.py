"""Training dynamics of one-step generative models: MeanFlow, its curricula, and the instruments to understand them."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xarray import DataTree

    from dynamics.flow.path import Velocity

__version__ = "0.1.0"
__all__ = ["load_model", "open_results"]


def open_results(path: str | PathLike[str]) -> DataTree:
    """Open a run, a merged file or a folder of runs as one labelled tree; see `dynamics.store.open_results`."""
    from dynamics.store import open_results

    return open_results(path)


def load_model(run_dir: str | PathLike[str], weights: str = "ema", checkpoint: int | None = None) -> Velocity:
    """Return the trained network u(z, t, r, y) of a run.

    Args:
        run_dir: The run folder.
        weights: "ema" (the first average), "model", or a recorded decay such as "0.999".
        checkpoint: Step of the checkpoint; None takes the newest intact one.
    """
    from pathlib import Path

    from dynamics.runner import load_network

    return load_network(Path(run_dir), weights, checkpoint)[0]
