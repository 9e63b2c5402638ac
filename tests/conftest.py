"""What all tests share: one thread, and a run small enough to be repeated many times."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from tqdm import tqdm

from dynamics.config import RunConfig
from dynamics.curricula import DTD, Beta, GapLaw, MinSNR
from dynamics.flow.times import TimesOptions
from dynamics.instruments import CellsOptions, GapsOptions
from dynamics.models import DiTOptions
from dynamics.objectives import Guidance, MeanFlow
from dynamics.training import TrainingOptions

if TYPE_CHECKING:
    from sweeps._sweep import Small


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
    # tqdm's own lock is shared by all forked processes: one that is killed while it draws would hold it for ever
    tqdm.set_lock(threading.RLock())


@pytest.fixture
def tiny() -> RunConfig:
    """A run of about a second that uses every part with state: DTD, a moving gap share, two averages, guidance."""
    return RunConfig(
        model=DiTOptions(dim=16, depth=1, heads=2),
        objective=MeanFlow(guidance=Guidance(k=0.5)),
        times=TimesOptions(gap_share=0.5),
        curricula=(DTD(num_clusters=3, patience=2), MinSNR(normalise=True), Beta(), GapLaw(start=0.2)),
        training=TrainingOptions(
            num_steps=24, batch_size=16, ema_decays=(0.9, 0.99), checkpoint_every=5, num_threads=1, warmup_steps=3
        ),
        observers=(GapsOptions(every=7, rows_per_bin=4), CellsOptions(every=7)),
    )


@pytest.fixture(scope="session")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Callable[[RunConfig], Path]:
    """Return the folder of a config's undisturbed run, which is made once a session: to compare with, not to change."""
    from dynamics.runner import run

    results = tmp_path_factory.mktemp("twins")
    return lambda config: run(config, results / config.run_id, progress=False)


@pytest.fixture
def tiny_sweep(tmp_path: Path) -> "Small":
    """A planned sweep of ten tiny runs."""
    from sweeps._sweep import small  # imported here: most tests need no sweeps

    return small("tiny", tmp_path / "results")
