"""What a cluster executes: one run, trained and evaluated, resumed wherever an earlier attempt left off."""

import os
import signal
import subprocess
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import submitit
from submitit.helpers import Checkpointable, DelayedSubmission, TorchDistributedEnvironment

from dynamics.config import RunConfig
from dynamics.runner import RunFolder, RunInUseError, evaluate_run, run
from dynamics.runner.measure.fid_of_run import evaluate_fid_run
from dynamics.sweep.events import events, record
from dynamics.sweep.machine_files import EVALUATIONS, FidRequest
from dynamics.training import STOPPED, Interrupted

WAIT_FOR_END = 600
"""Seconds that a process waits to be ended by the cluster once another process of its run has asked for it."""


@dataclass(frozen=True)
class Job(Checkpointable):
    """Trains and evaluates one run. submitit pickles it and, after a signal, queues it again."""

    folder: str
    """The run folder, absolute and visible from every node."""
    config: str
    """JSON of the RunConfig."""
    evaluations: str
    """JSON of the evaluations, see `machine_files.EVALUATIONS`."""

    def __call__(self) -> None:
        """Do what is left to do, and keep the run's diary."""
        environment = submitit.JobEnvironment()
        if environment.num_tasks > 1:
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        first = environment.global_rank == 0
        folder = RunFolder(Path(self.folder))
        if first:
            # in the submitting process itself there are no log files
            paths = environment.paths if "SUBMITIT_FOLDER" in os.environ else None
            record(
                folder.path,
                "started",
                cluster=environment.cluster,
                job_id=environment.job_id,
                log=paths.stderr if paths else "",
                out=paths.stdout if paths else "",
                ranks=environment.num_tasks,
                step=max(folder.checkpoints().steps(), default=0),
            )
        try:
            if not self._train(folder, environment.cluster):
                return
            seconds = self._evaluate(folder, first)
            if first:
                record(folder.path, "finished", evaluations=self.evaluations, evaluation_seconds=seconds)
        except Interrupted as stop:
            if first:
                record(folder.path, "stopped", signal=stop.signal.name, step=stop.step)
            raise SystemExit(STOPPED) from None
        except Exception as error:
            if first:
                text = f"{type(error).__name__}: {error}"
                record(folder.path, "failed", error=text, traceback=traceback.format_exc())
            raise

    def checkpoint(self) -> DelayedSubmission:
        """Let submitit queue the run again (it calls this in the handler of its signal).

        Raises:
            RuntimeError: The attempt before stopped at the same step: without progress it would go on for ever.
        """
        folder = RunFolder(Path(self.folder))
        step = max(folder.checkpoints().steps(), default=0)
        stops = [event for event in events(folder.path) if event["kind"] == "stopped"]
        if stops and stops[-1]["step"] == step and not folder.result.exists():
            text = f"two attempts in a row ended at step {step}: the time limit is too short to get any further"
            record(folder.path, "failed", error=text)
            raise RuntimeError(text)
        record(folder.path, "stopped", signal="SIGUSR2", step=step)
        return DelayedSubmission(self)

    def _train(self, folder: RunFolder, cluster: str) -> bool:
        """Train to the end; return False where another process does."""
        # with SIGTERM Slurm announces a preemption or a cancellation, and kills when the time of grace is over; who
        # leaves by himself counts as finished and is not queued again. So: write a checkpoint, and train on
        going_on = (signal.SIGTERM,) if cluster == "slurm" else ()
        try:
            run(RunConfig.model_validate_json(self.config), folder.path, going_on=going_on)
            return True
        except RunInUseError as error:  # submitted twice: the other one does it, and keeps the diary
            print(error)
            return False
        except Interrupted as stop:
            if stop.signal != signal.SIGUSR2:
                raise
        # submitit's own handler is back in place: it queues the run again and ends this process. Once: where another
        # rank had Slurm's signal first, this one's is still to come, and would find a job that is queued already
        handler = signal.getsignal(signal.SIGUSR2)
        if callable(handler):
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
            try:
                handler(signal.SIGUSR2, None)
            except subprocess.CalledProcessError as error:
                # Slurm ends every process of the job, and may end the scontrol that asked for it before its answer
                if error.returncode >= 0:
                    raise
        else:
            os.kill(os.getpid(), signal.SIGUSR2)
        # another rank has the word: wait for the end it brings
        time.sleep(WAIT_FOR_END)
        raise RuntimeError(f"the job was to be queued again, and still runs after {WAIT_FOR_END} s")

    def _evaluate(self, folder: RunFolder, first: bool) -> float:
        began = time.perf_counter()
        for wanted in EVALUATIONS.validate_json(self.evaluations):
            if isinstance(wanted, FidRequest):
                evaluate_fid_run(folder.path, wanted.fid, wanted.inception, wanted.reference, wanted.vae)
            elif first:
                evaluate_run(folder.path, wanted)
        return time.perf_counter() - began
