import os
import re
import stat

import pytest
from sweeps._sweep import Small


def test_only_the_owner_may_write_what_runs_as_his_job(tiny_sweep: Small) -> None:
    folder = tiny_sweep.folder
    before = os.umask(0)
    try:
        with folder.submitting():
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.jobs.stat().st_mode) == 0o700
    for mode in (0o720, 0o702):
        folder.jobs.chmod(mode)
        with pytest.raises(ValueError, match=re.escape(f"remedy: chmod 700 {folder.jobs}")), folder.submitting():
            pass
    folder.jobs.chmod(0o755)
    with folder.submitting():
        pass


def test_leftovers_of_killed_writers_go(tiny_sweep: Small) -> None:
    folder = tiny_sweep.folder
    folder.jobs.mkdir(parents=True)
    left = [folder.path / ".files.json.0a.tmp", folder.jobs / ".cluster.json.0b.tmp"]
    for path in left:
        path.touch()
    with folder.submitting():
        assert not any(path.exists() for path in left)
