"""What Slurm says about our jobs. Every question has a time limit, and none needs accounting.

submitit submits; but it learns states from `sacct` alone, which many clusters lack and which can make it wait for ever.
"""

import subprocess
from collections.abc import Sequence
from typing import NamedTuple

SECONDS = 30
"""How long a question may take."""
PER_QUESTION = 500
"""Job names in one question, so that the command line does not grow too long."""


class SlurmError(RuntimeError):
    """Slurm does not do its part; the message says what to look at."""


class Job(NamedTuple):
    """A job, or one task of an array, that is in the queue."""

    job_id: str
    """Such as 12 or 12_3."""
    state: str
    """PENDING, RUNNING, COMPLETING, ..."""
    reason: str
    """Why it waits."""

    @property
    def waits(self) -> bool:
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "SUSPENDED")

    @property
    def held(self) -> bool:
        """Whether it waits for somebody to let it go, as after "launch failed requeued held"."""
        reason = self.reason.lower()
        return self.waits and (self.state in ("REQUEUE_HOLD", "SPECIAL_EXIT") or "held" in reason or "hold" in reason)


def queue(names: Sequence[str]) -> dict[tuple[str, int], Job]:
    """Return the jobs of these names that wait or run, by (name, index in the array).

    Raises:
        SlurmError: Slurm does not answer, so that nothing is known about any job.
    """
    jobs: dict[tuple[str, int], Job] = {}
    for start in range(0, len(names), PER_QUESTION):
        some = ",".join(names[start : start + PER_QUESTION])
        out = _ask("squeue", "--noheader", "--array", "--format=%i|%K|%T|%r|%j", f"--name={some}")
        for line in out.splitlines():
            job_id, index, state, reason, name = line.split("|", 4)
            jobs[name.strip(), int(index) if index.isdigit() else 0] = Job(job_id, state, reason)
    return jobs


def cancel(job_ids: Sequence[str]) -> None:
    """Cancel jobs; those that have ended meanwhile are left in peace.

    Raises:
        SlurmError: Slurm does not answer.
    """
    for start in range(0, len(job_ids), PER_QUESTION):
        _ask("scancel", "--quiet", *job_ids[start : start + PER_QUESTION])


def release(job_ids: Sequence[str]) -> None:
    """Let held jobs go.

    Raises:
        SlurmError: Slurm does not answer, or an administrator holds one.
    """
    for start in range(0, len(job_ids), PER_QUESTION):
        _ask("scontrol", "release", *job_ids[start : start + PER_QUESTION])


def ending(job_id: str) -> str:
    """Return how Slurm says that a job ended, such as OUT_OF_MEMORY; "" where it has forgotten."""
    commands = (
        ("sacct", "--noheader", "--allocations", "--parsable2", "--format=State", f"--jobs={job_id}"),
        ("scontrol", "show", "job", "--oneliner", job_id),
    )
    for command in commands:
        try:
            words = _ask(*command).split()
        except SlurmError:
            continue
        states = [word.removeprefix("JobState=") for word in words if command[0] == "sacct" or "JobState=" in word]
        if states:
            return states[0]
    return ""


def largest_array() -> int:
    """Return how many tasks an array may have on this cluster."""
    for line in _ask("scontrol", "show", "config").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "MaxArraySize":
            return max(int(value) - 1, 1)
    return 1000


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    except FileNotFoundError as error:
        raise SlurmError(f"{command[0]} is not on this machine: run this where Slurm is") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{command[0]} did not answer within {SECONDS} s: is slurmctld up?") from error
    except subprocess.CalledProcessError as error:
        text = (error.stderr or error.stdout).strip() or f"exit code {error.returncode}"
        raise SlurmError(f"{command[0]} failed: {text}") from error
    return done.stdout
