"""A process that has imported what runs need, and forks one for each: a run here starts at once and fails alone."""

import importlib
import os
import pickle
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
from submitit.core.utils import JobPaths

from dynamics.sweep.events import lives
from dynamics.sweep.job import Job
from dynamics.training import STOPPED


class Forked(NamedTuple):
    """A run's process, its time of birth and its log."""

    pid: int
    born: float
    log: Path

    def done(self) -> bool:
        """Whether it has ended."""
        return not lives(self.pid, self.born)


class WarmProcess:
    """Starts runs. It leads a session of its own, which no keyboard reaches; when who started it ends, so does it.

    Its runs go on: they belong to nobody then. One that has died, or could not start, is started anew for the next run.

    Args:
        logs: Folder of the logs, one folder a run below it.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs.absolute()
        self._log = self._logs / f"warm-{os.getpid()}.err"
        self._process = self._begin()

    def start(self, job: Job, ranks: int = 1, gpus: tuple[int, ...] = ()) -> Forked:
        """Start a run.

        Args:
            job: The run.
            ranks: Processes that it consists of.
            gpus: The GPUs that they see.

        Returns:
            Its process; where it could not start, one that has ended, with the log that says why.
        """
        for again in (False, True):
            if again:
                self.close()
                self._process = self._begin()
            # no answer: it was killed, or cannot import what it needs
            with suppress(OSError, IndexError):
                answer = self._ask(pickle.dumps((job, ranks, gpus)))
                pid, born = int(answer[0]), float(answer[1])
                return Forked(pid, born, _paths(self._logs, pid).stderr)
        return Forked(self._process.pid, 0.0, self._log)

    def close(self) -> None:
        """End the process, not its runs."""
        self._process.kill()
        self._process.communicate()
        if not self._log.stat().st_size:
            self._log.unlink()

    def _begin(self) -> "subprocess.Popen[bytes]":
        self._logs.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            command, pipe = [sys.executable, "-m", "dynamics.sweep.warm", str(self._logs)], subprocess.PIPE
            return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, start_new_session=True)

    def _ask(self, question: bytes) -> list[bytes]:
        process = self._process
        assert process.stdin and process.stdout, "both are pipes"  # noqa: PT018
        process.stdin.write(question)
        process.stdin.flush()
        return process.stdout.readline().split()


def serve(logs: Path) -> None:
    """Fork a process for every job that comes in, say its number and time of birth, and go on until nothing comes."""
    importlib.import_module("torch._dynamo")  # which every optimiser imports, a second or more
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: their diaries say how they ended
    while True:
        try:
            job, ranks, gpus = pickle.load(sys.stdin.buffer)  # from who started us, through a pipe of its own
        except (EOFError, pickle.UnpicklingError):
            return
        pid = os.fork()
        if not pid:
            return _become(job, ranks, gpus, logs)
        try:
            born = psutil.Process(pid).create_time()
        except psutil.Error:
            born = 0.0  # it is over
        print(pid, born, flush=True)


def _become(job: Job, ranks: int, gpus: tuple[int, ...], logs: Path) -> None:
    """Be the process of one run, with the environment and the logs that submitit would give it."""
    os.setpgid(0, 0)  # a kill reaches all ranks
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ |= {
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus)),
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_FOLDER": str(logs / "%j"),
        "SUBMITIT_LOCAL_JOB_ID": str(os.getpid()),
        "SUBMITIT_LOCAL_NTASKS": str(ranks),
        "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
        "SUBMITIT_LOCAL_NODEID": "0",
    }
    if ranks == 1:
        return _be_rank(job, 0, logs)
    running: list[int] = []

    def hand_on(number: int, frame: object) -> None:
        for pid in running:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    signal.signal(signal.SIGTERM, hand_on)
    for rank in range(ranks):
        pid = os.fork()
        if not pid:
            return _be_rank(job, rank, logs)
        running.append(pid)
    while running:
        pid, status = os.wait()
        running.remove(pid)
        if os.waitstatus_to_exitcode(status) not in (0, STOPPED):
            hand_on(signal.SIGKILL, None)  # the others would wait for it


def _be_rank(job: Job, rank: int, logs: Path) -> None:
    os.environ |= {"SUBMITIT_LOCAL_GLOBALID": str(rank), "SUBMITIT_LOCAL_LOCALID": str(rank)}
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # training hears it; an evaluation comes to its end
    paths = _paths(logs, int(os.environ["SUBMITIT_LOCAL_JOB_ID"]), rank)
    paths.folder.mkdir(parents=True, exist_ok=True)
    for path, stream in ((Path(os.devnull), 0), (paths.stdout, 1), (paths.stderr, 2)):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(opened, stream)
        os.close(opened)
    job()


def _paths(logs: Path, pid: int, rank: int = 0) -> JobPaths:
    return JobPaths(logs / "%j", str(pid), rank)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
