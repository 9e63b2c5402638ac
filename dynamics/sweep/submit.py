"""Hand runs to a cluster: Slurm through submitit, this machine, or this process."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from uuid import uuid4

import submitit
from pydantic import Field

from dynamics.options import Options, invalid
from dynamics.planning.resources import Resources
from dynamics.sweep import slurm
from dynamics.sweep.events import record
from dynamics.sweep.grid import Planned, with_firsts
from dynamics.sweep.job import Job
from dynamics.sweep.status import ACTIVE, Status, evaluations_json, statuses
from dynamics.sweep.sweep_folder import SweepFolder, recall, remember

Process = TypeVar("Process")

Cluster = Literal["local", "slurm", "debug"]
Word = Annotated[str, Field(pattern=r"\A[ -~]+\z")]
"""Text of one line: it goes into the script that sbatch gets."""


class ClusterOptions(Options):
    """Where runs go and what they get; what is left out is the scale's."""

    cluster: Cluster | None = None
    """local: processes of this machine. slurm: a real cluster. debug: one after another in this process. The sweep
    remembers it with the options below: left out, all are as before but for those that are named; at first it is local.
    """
    partition: Word | None = None
    """Slurm partition."""
    account: Word | None = None
    """Slurm account."""
    qos: Word | None = None
    """Slurm quality of service."""
    gpus: int | None = Field(default=None, ge=0)
    """GPUs of each node; a run then has one process a GPU unless --tasks says otherwise."""
    nodes: int | None = Field(default=None, gt=0)
    """Nodes of a run."""
    tasks: int | None = Field(default=None, gt=0)
    """Processes of a run on each node; more than one in all train together."""
    cpus: int | None = Field(default=None, gt=0)
    """CPU cores of each process."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Memory of each node."""
    timeout: int | None = Field(default=None, gt=0)
    """Time limit of a job in minutes; a run that needs longer checkpoints, is requeued and continues."""
    signal_delay: int = Field(default=90, gt=0)
    """Seconds before the time limit at which a run is told to checkpoint."""
    max_timeouts: int = Field(default=50, ge=0)
    """How often a run may reach its time limit."""
    parallelism: int | None = Field(default=None, gt=0)
    """Runs at a time; left out, what this machine's cores allow, or 256 on Slurm."""
    sbatch: tuple[Word, ...] = ()
    """More options of sbatch, such as: constraint=h100 exclude=node7."""

    def resources(self, scale: Resources) -> Resources:
        """Return the scale's resources with what is asked for here.

        Raises:
            ValueError: Several nodes are asked of one machine.
        """
        asked: dict[str, float | None] = {
            "nodes": self.nodes,
            "gpus": self.gpus,
            "tasks": self.tasks,
            "cpus": self.cpus,
        }
        asked |= {"memory_gb": self.memory_gb, "timeout_min": self.timeout}
        if self.gpus and self.tasks is None:
            asked["tasks"] = self.gpus
        out = Resources.model_validate({**dict(scale), **{name: v for name, v in asked.items() if v is not None}})
        if out.nodes > 1 and self.cluster != "slurm":
            allowed = f"1 with --cluster {self.cluster or 'local'}"
            raise invalid("nodes", out.nodes, allowed, "use --cluster slurm, or --nodes 1")
        return out

    def additional(self) -> dict[str, str]:
        """Return the further options of sbatch by name."""
        pairs = [text.removeprefix("--").partition("=") for text in self.sbatch]
        for name, sign, _ in pairs:
            if not sign:
                raise invalid("sbatch", name, "option=value", "such as constraint=h100")
        return {name: value for name, _, value in pairs}


def destination(
    sweep: SweepFolder, named: ClusterOptions, scale: Resources, found: Sequence[Status]
) -> tuple[ClusterOptions, ClusterOptions | None]:
    """Return where a sweep's runs go, and where they went before.

    Args:
        sweep: The sweep.
        named: On the command line.
        scale: What its scale asks of a machine.
        found: States of its runs.

    Raises:
        ValueError: Nobody said where, and computing on the machine that one types on may not be what is meant; or the
            file that remembers is damaged.
    """
    try:
        before = recall(_memory(sweep), ClusterOptions, "name --cluster, and the file is written anew")
    except ValueError:
        if named.cluster is None:
            raise
        before = None
    if before is not None and named.cluster in (None, before.cluster):
        asked = {name: getattr(named, name) for name in named.model_dump(exclude_defaults=True)}
        return ClusterOptions.model_validate({**dict(before), **asked}), before
    if named.cluster is not None:
        return named, before
    if any(status.cluster == "slurm" for status in found) or (scale.gpus and shutil.which("sbatch")):
        remedy = "name --cluster slurm; or --cluster local, to compute on the machine that you type on"
        raise invalid("cluster", None, "slurm, local or debug, for a sweep of a cluster", remedy)
    return named.model_copy(update={"cluster": "local"}), None


def settle(sweep: SweepFolder, chosen: ClusterOptions, before: ClusterOptions | None) -> None:
    """Remember where a sweep's runs go."""
    if chosen != before:
        with sweep.submitting():
            remember(_memory(sweep), chosen)


def startable(found: Sequence[Status]) -> list[Planned]:
    """Return the runs that nobody works on and that are neither done nor waiting for `retry` to set files aside."""
    return [status.run for status in found if status.state not in (*ACTIVE, "done", "damaged")]


def submit_slurm(sweep: SweepFolder, runs: Sequence[Planned], options: ClusterOptions, scale: Resources) -> list[str]:
    """Submit what can be started to Slurm, with what it starts from, as arrays; return the numbers of the jobs.

    A run that starts from another waits for it (afterok), and is cancelled by Slurm if that one fails for good.

    Raises:
        SlurmError: Slurm does not answer, or refuses a submission; what was submitted before stays.
    """
    with sweep.submitting():
        found = statuses(sweep, with_firsts(runs))
        _check_known(found)
        chosen = startable(found)
        jobs = {s.run.run_id: s.job_id for s in found if s.state in ("queued", "running")}
        done = {s.run.run_id for s in found if s.state == "done"}
        limit = min(slurm.largest_array(), 1000)
        numbers: dict[str, None] = {}
        waves: dict[str, list[Planned]] = {}
        for run in chosen:
            waves.setdefault("" if run.first is None or run.first.run_id in done else run.first.run_id, []).append(run)
        for first, wave in waves.items():
            if first and first not in jobs:  # its file is damaged: `retry` comes first
                continue
            for some in (wave[i : i + limit] for i in range(0, len(wave), limit)):
                dependency = f"afterok:{jobs[first]}" if first else None
                executor = _slurm_executor(sweep, options, scale, dependency)
                jobs |= _submit(sweep, "slurm", executor, some)
                numbers |= dict.fromkeys(jobs[run.run_id].split("_")[0] for run in some)
    return list(numbers)


def submit_one(sweep: SweepFolder, cluster: Cluster, start: Callable[[Job], Process], run: Planned) -> Process | None:
    """Start one run on this machine, and return what `start` says of it; None if another process took it first."""
    with sweep.submitting():
        status = statuses(sweep, [run])[0]
        if not startable([status]):
            return None
        record(sweep.run(run.run_id).path, "submitted", cluster=cluster)
        return start(job_of(sweep, run))


def job_of(sweep: SweepFolder, run: Planned) -> Job:
    """Return what a cluster executes for a run."""
    folder = str(sweep.run(run.run_id).path.absolute())
    return Job(folder=folder, config=run.config.to_json(), evaluations=evaluations_json(run))


def _submit(
    sweep: SweepFolder, cluster: Cluster, executor: submitit.Executor, runs: Sequence[Planned]
) -> Mapping[str, str]:
    """Submit runs as one array; return their jobs' numbers.

    The name of the jobs is in the runs' diaries BEFORE they go: so the queue itself says which runs are in it, and no
    job number can be lost between submitting and noting it down.
    """
    token = f"{sweep.experiment}-{sweep.scale}-{uuid4().hex[:8]}"
    executor.update_parameters(name=token)
    for index, run in enumerate(runs):
        record(sweep.run(run.run_id).path, "submitted", cluster=cluster, token=token, index=index)
    try:
        submitted = executor.submit_array([job_of(sweep, run) for run in runs])
    except Exception as error:  # sbatch refused: nothing is queued, and each run says why
        text = f"not submitted: {str(error).strip() or type(error).__name__}"
        for run in runs:
            record(sweep.run(run.run_id).path, "failed", error=text)
        raise slurm.SlurmError(text) from error
    return {run.run_id: job.job_id for run, job in zip(runs, submitted, strict=True)}


def _slurm_executor(
    sweep: SweepFolder, options: ClusterOptions, scale: Resources, dependency: str | None
) -> submitit.Executor:
    resources = options.resources(scale)
    executor = submitit.AutoExecutor(
        folder=str(sweep.jobs.absolute() / "%j"), cluster="slurm", slurm_max_num_timeout=options.max_timeouts
    )
    wanted = {
        "timeout_min": resources.timeout_min,
        "nodes": resources.nodes,
        "tasks_per_node": resources.tasks,
        "cpus_per_task": resources.cpus,
        "gpus_per_node": resources.gpus or None,
        "mem_gb": resources.memory_gb,
        "slurm_partition": options.partition,
        "slurm_account": options.account,
        "slurm_qos": options.qos,
        "slurm_signal_delay_s": options.signal_delay,
        "slurm_array_parallelism": options.parallelism,
        "slurm_dependency": dependency,
    }
    executor.update_parameters(**{name: value for name, value in wanted.items() if value is not None})
    # a preempted run is queued again; who waits for a run that failed does not wait for ever
    further = {"requeue": True, "kill-on-invalid-dep": "yes", **options.additional()}
    executor.update_parameters(slurm_additional_parameters=further)
    return executor


def _memory(sweep: SweepFolder) -> Path:
    return sweep.jobs / "cluster.json"  # there, where only the owner may write: it goes into a script


def _check_known(found: Sequence[Status]) -> None:
    unknown = next((status for status in found if status.state == "unknown"), None)
    if unknown is not None:
        raise slurm.SlurmError(f"nothing is submitted while it is unknown what runs already ({unknown.detail})")
