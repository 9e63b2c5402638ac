"""A real Slurm for the tests that ask for one: fixtures slurm and slurm_with_accounting."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm_cluster import PREFIXES, Slurm, cluster, missing
from sweeps._sweep import small

from dynamics.sweep.grid import Planned

REQUIRED = "DYNAMICS_REQUIRE_SLURM"
"""Where this variable is set, tests without a Slurm fail; elsewhere they are skipped."""
FIXTURES = ("slurm_with_accounting", "slurm")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Send the tests of a cluster to one worker, so that a session starts one of each kind (--dist loadgroup)."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            wanted = [name for name in FIXTURES if name in getattr(item, "fixturenames", ())]
            if wanted:
                item.add_marker(pytest.mark.xdist_group(wanted[0]))


def session(accounting: bool) -> Iterator[Slurm]:
    if lacking := missing(accounting):
        text = f"no Slurm on this machine, {', '.join(lacking)} missing; on Debian and Ubuntu .ci/run installs it"
        if os.environ.get(REQUIRED):
            pytest.fail(f"{text} ({REQUIRED} is set)")
        pytest.skip(text)
    with cluster(accounting) as slurm:
        yield slurm


@pytest.fixture(scope="session")
def slurm_session() -> Iterator[Slurm]:
    """Yield the session's cluster without accounting, as it is."""
    yield from session(accounting=False)


@pytest.fixture(scope="session")
def slurm_accounting_session() -> Iterator[Slurm]:
    """Yield the session's cluster with accounting, as it is."""
    yield from session(accounting=True)


def use(slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    from submitit import SlurmJob

    for name in os.environ:
        if name.startswith(PREFIXES):
            monkeypatch.delenv(name)
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    # it remembers the states of another cluster's jobs
    SlurmJob.watcher.clear()
    yield slurm
    slurm.cancel_all()


@pytest.fixture
def slurm(slurm_session: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """Yield a Slurm without accounting that this process and its children use; jobs that are left are cancelled."""
    yield from use(slurm_session, monkeypatch)


@pytest.fixture
def slurm_with_accounting(slurm_accounting_session: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """Yield a Slurm whose sacct answers; otherwise like slurm."""
    yield from use(slurm_accounting_session, monkeypatch)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Planned], Path]:
    """Return the folder of a run of the tests' sweeps, by the sweep's name, that nobody disturbed; made once."""
    results = tmp_path_factory.mktemp("undisturbed")

    def folder(name: str, run: Planned) -> Path:
        sweep = small(name, results)
        sweep.do(run)  # which does nothing where it is done
        return sweep.folder.run(run.run_id).path

    return folder
