"""What all tests share: one thread, and a run small enough to be repeated many times."""

import fcntl
import gc
import os
import shutil
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from fast_files import write_fast
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tqdm import tqdm

from dynamics.atomic import locked
from dynamics.config import RunConfig
from dynamics.curricula import DTD, Beta, GapLaw, MinSNR
from dynamics.evaluation import vector_field
from dynamics.flow.times import TimesOptions
from dynamics.instruments import CellsOptions, GapsOptions, gaps
from dynamics.models import DiTOptions
from dynamics.objectives import Guidance, MeanFlow
from dynamics.oracles.posterior import PosteriorOracle
from dynamics.training import TrainingOptions

if TYPE_CHECKING:
    from sweeps._sweep import Small

    from dynamics.sweep.grid import Planned


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Send tests that share what is made once for their module to one worker, or each makes it (--dist loadgroup)."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            fixtures = getattr(item, "_fixtureinfo", None)
            scopes = [found[-1].scope for found in fixtures.name2fixturedefs.values()] if fixtures else []
            if "module" in scopes and not item.get_closest_marker("xdist_group"):
                item.add_marker(pytest.mark.xdist_group(item.nodeid.split("::")[0]))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let the first worker compile the tests: the others, which would each spend six seconds on it, wait for that."""
    folder = os.open(Path(__file__).parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(folder, fcntl.LOCK_SH)
        fcntl.flock(folder, fcntl.LOCK_UN)
    try:
        return (yield)
    finally:
        os.close(folder)


def pytest_collection_finish() -> None:
    """Look for garbage seldom, and never among what is imported: that was a tenth of all work, and of every fork's."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a pytest with which pytest-xdist takes no notice of groups: nothing else would say so."""
    if config.getoption("dist", "no") == "loadgroup" and pytest.version_tuple >= (9, 2):
        raise pytest.UsageError("pytest-xdist 3.8 does not keep groups of tests together: pip install 'pytest<9.2'")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # also of runs whose options say more: what one sets would stay, and the workers would fight for the cores
    set_num_threads = torch.set_num_threads
    torch.set_num_threads = lambda number: set_num_threads(1)
    torch.set_num_threads(1)
    # tqdm's own lock is shared by all forked processes: one that is killed while it draws would hold it for ever
    tqdm.set_lock(threading.RLock())


@pytest.fixture(autouse=True, scope="session")
def _files_written_fast() -> None:
    write_fast()


@pytest.fixture(autouse=True)
def _figures_in_brief(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw figures coarsely where a test needs a report but does not look at it; tests of `analysis` do."""
    if "analysis" in request.path.parts or "docs" in request.path.parts:
        return

    def brief(figure: Figure, file: Any, *args: Any, **options: Any) -> None:
        if options.get("format") == "svg":
            Path(file).write_text("<svg/>")
        else:
            figure.set_layout_engine("none")  # to lay out is most of the work
            figure.dpi = 20
            FigureCanvasAgg(figure).print_png(file)  # savefig would draw it twice

    monkeypatch.setattr(Figure, "savefig", brief)


@pytest.fixture
def coarse_truth(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Solve for exact velocities in a quarter of the steps, where a test needs some; nobody finds them afterwards."""
    kept = (vector_field._exact, gaps._truth)
    monkeypatch.setattr(PosteriorOracle, "num_steps", property(lambda oracle: 8, lambda oracle, number: None))
    for cache in kept:
        cache.cache_clear()
    yield
    for cache in kept:
        cache.cache_clear()


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
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the session, for all its workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def twin(shared: Path) -> Callable[[RunConfig], Path]:
    """Return the folder of a config's undisturbed run, which is made once a session: to compare with, not to change."""
    from dynamics.runner import run

    def folder(config: RunConfig) -> Path:
        out = shared / config.run_id
        with locked(out):
            return run(config, out, progress=False)

    return folder


@pytest.fixture(scope="session")
def undisturbed(shared: Path) -> "Callable[[str, Planned], Path]":
    """Return the same of a run of the tests' sweeps, by the sweep's name; it is evaluated too."""
    from sweeps._sweep import small  # imported here: most tests need no sweeps

    def folder(name: str, run: "Planned") -> Path:
        sweep = small(name, shared)
        out = sweep.folder.run(run.run_id).path
        with locked(shared / name):
            sweep.do(run)  # which does nothing where it is done
        return out

    return folder


@pytest.fixture
def tiny_sweep(tmp_path: Path) -> "Small":
    """A planned sweep of ten tiny runs."""
    from sweeps._sweep import small

    return small("tiny", tmp_path / "results")


@pytest.fixture
def have_done(tiny_sweep: "Small", undisturbed: "Callable[[str, Planned], Path]") -> "Callable[..., None]":
    """Put runs into the folder of the sweep of ten as if they had been done there."""

    def have(*runs: "Planned") -> None:
        for run in runs:
            shutil.copytree(undisturbed("tiny", run), tiny_sweep.folder.run(run.run_id).path)

    return have
