"""Whether what lies on the disk is what was written: everything that has a checksum."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dynamics.data.latent_files import RECORD, verify
from dynamics.options import invalid
from dynamics.runner.run_folder import RunFolder
from dynamics.store import RunLog, read_run
from dynamics.training import DamagedCheckpointError


@dataclass(frozen=True)
class Checked:
    """What is known of one file, or folder of files."""

    path: Path
    damage: str
    """What is wrong with it; "" if nothing is."""


def examine_files(path: Path) -> Iterator[Checked]:
    """Check a run folder, or a folder of latents, file by file; nothing is changed.

    Raises:
        ValueError: It is neither.
    """
    if (path / RECORD).is_file():
        yield _found(path, lambda: verify(path))
        return
    folder = RunFolder(path)
    if not folder.config.is_file():
        allowed = f"a folder with a {folder.config.name} (of a run) or a {RECORD} (of latents)"
        raise invalid("path", str(path), allowed, "check the path")
    yield (of_config := _found(folder.config, folder.read_config))
    config = None if of_config.damage else folder.read_config()
    for kept in (folder.checkpoints(config), folder.snapshots(config)):
        for step in kept.steps():
            yield _found(kept.path(step), partial(kept.verify, step))
    yield _found(folder.log, lambda: _check_log(folder))
    if folder.result.exists():
        yield _found(folder.result, partial(read_run, folder.result))


def _check_log(folder: RunFolder) -> None:
    """Compare the log with itself, and with the newest checkpoint that is intact; imported runs have none."""
    RunLog(folder.log).read()
    checkpoints = folder.checkpoints()
    for step in reversed(checkpoints.steps()):
        with suppress(DamagedCheckpointError):
            if checkpoints.content(step).get("log") or folder.log.exists():
                folder.check_log(step)
            return


def _found(path: Path, look: Callable[[], object]) -> Checked:
    try:
        look()
    except (ValueError, DamagedCheckpointError) as error:
        return Checked(path, str(error))
    return Checked(path, "")
