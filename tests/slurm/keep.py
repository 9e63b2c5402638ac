"""Keep a Slurm up for as long as the program that started this one lives, then leave nothing behind.

    python tests/slurm/keep.py FOLDER [--accounting]

Says "up" when jobs can be submitted, and stops the cluster at the end of its standard input: that comes also when the
other end is killed, so that tests need no luck to clean up.
"""

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PR_SET_CHILD_SUBREAPER = 36


def parents() -> dict[int, int]:
    """Return the parent of every process."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # the name, in brackets, may hold anything
            found[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return found


def descendants() -> set[int]:
    """Return what this process started, and what that started, and so on."""
    tree = parents()
    found = {os.getpid()}
    while more := {pid for pid, parent in tree.items() if parent in found and pid not in found}:
        found |= more
    return found - {os.getpid()}


def bury() -> None:
    """Take note of the children that have ended, or they would stay as zombies."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def main(folder: str, *options: str) -> int:
    """Start, wait, stop."""
    # a daemon cuts its ties to whoever started it; so it becomes a child of this process, as do the jobs
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        up = subprocess.run([HERE / "up.sh", folder, *options], stdin=subprocess.DEVNULL, stdout=sys.stderr)
        if up.returncode:
            return up.returncode
        print("up", flush=True)
        while not (select.select([0], [], [], 0.2)[0] and not os.read(0, 1024)):
            bury()
        return 0
    finally:
        try:
            subprocess.run([HERE / "down.sh", folder], stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=60)
        finally:
            while left := descendants():
                for pid in left:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue
                bury()
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
