"""A real Slurm of one node for tests, and what tests ask of it."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
HERE = Path(__file__).parent
SCRIPTS = HERE.parent / "slurm"
SBIN = ("/usr/sbin", "/sbin")
PROGRAMS = ("munged", "munge", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
ACCOUNTING_PROGRAMS = ("slurmdbd", "sacct", "sacctmgr", "mariadbd", "mariadb", "mariadb-install-db")


def missing(accounting: bool) -> list[str]:
    """Return the programs that a cluster needs and that are not on this machine."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *SBIN])
    wanted = PROGRAMS + ACCOUNTING_PROGRAMS if accounting else PROGRAMS
    return [name for name in wanted if shutil.which(name, path=path) is None]


@dataclass(frozen=True)
class Slurm:
    """A running cluster of one node with 8 CPUs.

    Partitions: main, short (a minute at most), low, and high, whose jobs preempt those of low.
    """

    folder: Path
    """Its logs, state and configuration; gone at the end of the session."""
    accounting: bool
    """Whether sacct answers."""

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a user of this cluster, whose jobs can import the modules beside this file and above."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith(PREFIXES)}
        mine = [str(HERE), str(HERE.parent)]
        others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", *mine)]
        path = os.pathsep.join([*mine, *others])
        return ours | {"SLURM_CONF": str(self.folder / "slurm.conf"), "PYTHONPATH": path}

    def ask(self, *command: str, seconds: float = 60) -> str:
        """Run a command of Slurm and return what it prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=seconds)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()

    def states(self) -> dict[str, str]:
        """Return the state of every job in the queue, each task of an array (12_3) by itself."""
        lines = self.ask("squeue", "--noheader", "--array", "--format=%i|%T").splitlines()
        return dict(line.split("|") for line in lines)

    def wait_until(self, predicate: Callable[[], T], seconds: float = 120, what: str = "what was waited for") -> T:
        """Wait until the predicate is true and return its value.

        Raises:
            TimeoutError: It is still false after these seconds.
        """
        end = time.monotonic() + seconds
        while not (value := predicate()):
            if time.monotonic() > end:
                queue = self.states() if self.answers() else "unknown, slurmctld does not answer"
                raise TimeoutError(f"after {seconds} s: {what} has not come; the queue is {queue}")
            time.sleep(0.5)  # asking takes CPU time, which the jobs need
        return value

    def signal(self, job_id: str, name: str) -> None:
        """Send a signal, such as USR2, to the processes of a job's steps: to those of srun, not to the batch script."""
        self.ask("scancel", f"--signal={name}", job_id)

    def cancel_all(self) -> None:
        """Cancel every job at once and wait until all are gone."""

        mine = "--user=" + pwd.getpwuid(os.getuid()).pw_name

        def gone() -> bool:
            if self.states():
                self.ask("scancel", "--quiet", mine, "--state=PENDING")
                self.ask("scancel", "--quiet", mine, "--signal=KILL", "--full")
            return not self.states()

        self.wait_until(gone, what="an empty queue")

    @contextlib.contextmanager
    def configured(self, line: str) -> Iterator[None]:
        """Add a line to the configuration, such as "SlurmctldParameters=preempt_send_user_signal", and take it away.

        Ports and what else is read at the start only do not change.
        """
        path = self.folder / "slurm.conf"
        before = path.read_text()
        try:
            path.write_text(f"{before}\n{line}\n")
            self.ask("scontrol", "reconfigure")
            yield
        finally:
            path.write_text(before)
            self.ask("scontrol", "reconfigure")

    @contextlib.contextmanager
    def closed(self, partition: str) -> Iterator[None]:
        """Let no job of a partition begin meanwhile."""
        self.ask("scontrol", "update", f"PartitionName={partition}", "State=DOWN")
        try:
            yield
        finally:
            self.ask("scontrol", "update", f"PartitionName={partition}", "State=UP")

    @contextlib.contextmanager
    def without_controller(self) -> Iterator[None]:
        """Stop slurmctld, so that every question fails, and start it again at the end."""
        pid = int((self.folder / "slurmctld.pid").read_text())
        os.kill(pid, signal.SIGTERM)
        self.wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="the end of slurmctld")
        try:
            yield
        finally:
            path = os.pathsep.join([self.environment.get("PATH", ""), *SBIN])
            subprocess.run(["slurmctld"], env=self.environment | {"PATH": path}, check=True, timeout=60)
            self.wait_until(self.answers, what="slurmctld")

    def answers(self) -> bool:
        """Whether slurmctld is there."""
        done = subprocess.run(["scontrol", "ping"], env=self.environment, capture_output=True, timeout=60)
        return done.returncode == 0


PREFIXES = ("SLURM", "SBATCH_", "SRUN_", "SQUEUE_", "SACCT_", "SCANCEL_", "SUBMITIT_")
"""Variables that would speak of another cluster, for tests that themselves run in a job."""


@contextlib.contextmanager
def cluster(accounting: bool) -> Iterator[Slurm]:
    """Start a cluster of its own and stop it at the end, also when this process is killed.

    Raises:
        RuntimeError: It did not start.
    """
    # not pytest's folder: the path of a unix socket may have 107 characters only
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    command = [sys.executable, str(SCRIPTS / "keep.py"), str(folder), *(["--accounting"] if accounting else [])]
    with tempfile.TemporaryFile("w+") as errors:
        # a session of its own: Ctrl-C ends the tests, and the end of the tests ends the cluster, in order
        keeper = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        try:
            if keeper.stdout.readline().strip() != "up":
                keeper.wait(90)
                errors.seek(0)
                raise RuntimeError(f"Slurm did not start: {errors.read()}")
            yield Slurm(folder, accounting)
        finally:
            keeper.stdin.close()
            keeper.wait(90)
            keeper.stdout.close()
