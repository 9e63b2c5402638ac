"""A real Slurm for the tests that ask for one: fixtures slurm and slurm_with_accounting."""

import os
from collections.abc import Iterator

import pytest
from slurm_cluster import PREFIXES, Slurm, cluster, missing
from warm_python import warm_python

REQUIRED = "DYNAMICS_REQUIRE_SLURM"
"""Where this variable is set, tests without a Slurm fail; elsewhere they are skipped."""
FIXTURES = ("slurm_with_accounting", "slurm")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Send the tests of clusters to one worker, so that a session starts one of each kind (--dist loadgroup).

    They come first: they wait more than they work, and the other workers do the rest meanwhile.
    """
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            if of_cluster(item):
                item.add_marker(pytest.mark.xdist_group("slurm"))
        items.sort(key=lambda item: not of_cluster(item))


def of_cluster(item: pytest.Item) -> str:
    """Return the fixture by which a test asks for a cluster, "" if it asks for none."""
    return next((name for name in FIXTURES if name in getattr(item, "fixturenames", ())), "")


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
def warm_command() -> Iterator[str]:
    """Yield the command of the session's warm Python."""
    with warm_python() as command:
        yield command


@pytest.fixture
def forked_jobs(warm_command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have submitit's jobs forked from a process that has imported what they need: a start costs a tenth."""
    from submitit import SlurmExecutor

    line = SlurmExecutor._submitit_command_str.fget
    forked = property(lambda executor: line(executor).replace(executor.python, warm_command))
    monkeypatch.setattr(SlurmExecutor, "_submitit_command_str", forked)
