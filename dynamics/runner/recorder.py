"""What happens with everything that a run yields: log, alarms, bar, heartbeat, TensorBoard."""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict

import xarray as xr

from dynamics.config import RunConfig
from dynamics.progress_bar import ProgressBar
from dynamics.record import StepRecord, peak_memory_mb
from dynamics.runner.heartbeat import Heartbeat
from dynamics.runner.run_folder import RunFolder
from dynamics.runner.tensorboard import Board
from dynamics.store import RunLog
from dynamics.training import (
    Monitor,
    NonFiniteLossError,
    Recorder,
    remembering,
    room_for,
    world,
)


class RunRecorder(Recorder):
    """Keeps a run's log and tells everybody who wants to know; on the first rank only.

    What it must remember beyond a resume (the monitor, how many steps in a row were left out) is in the log, which is
    rewound to the checkpoint: an interrupted run gives the same alarms as an undisturbed one.
    """

    def __init__(
        self,
        log: RunLog,
        step: int,
        alarm_factor: float | None,
        bar: ProgressBar,
        heartbeat: Heartbeat,
        board: Board | None,
    ) -> None:
        self._log, self._bar, self._heartbeat, self._board = log, bar, heartbeat, board
        self._measuring = ExitStack()
        records = log.read() if step else []
        remembered = [record["series"] for record in records if record["group"] == "monitor"]
        newest = remembered[-1] if remembered else {}
        self._monitor: Monitor | None = None if alarm_factor is None else remembering(alarm_factor, newest)
        left_out = {record["step"] for record in records if record["group"] == "nonfinite"}
        self._left_out = next(n for n in range(step + 1) if step - n not in left_out)
        self._left_out_in_all = len(left_out)

    def on_step(self, record: StepRecord) -> None:
        self._left_out = 0
        self._keep({"group": "training", **record.flat()})
        for alarm in self._monitor.observe(record) if self._monitor else []:
            self._keep({"group": "alarms", **asdict(alarm)})
            self._warn(str(alarm))
        if self._board:
            self._board.add(record)
        losses = {"v": record.raw_v, "u": record.raw_u}
        shown = {f"raw {k}": f"{x:.3g}" for k, x in losses.items() if not math.isnan(x)}
        self._advance(record, {**shown, "peak MB": f"{peak_memory_mb():.0f}"})

    def on_skip(self, error: NonFiniteLossError) -> tuple[int, int]:
        self._left_out += 1
        self._left_out_in_all += 1
        self._keep({"group": "training", **error.record.flat()})
        self._keep({"group": "nonfinite", "step": error.step, "what": error.what, "rows": error.rows})
        self._warn(f"{error}, and the step not done ({self._left_out} in a row); its rows are in log.jsonl")
        self._advance(error.record)
        return self._left_out, self._left_out_in_all

    def before_measurement(self, group: str) -> None:
        self._heartbeat.tell(doing=f"measuring {group}")
        self._measuring.enter_context(self._bar.paused())  # no part of the speed of training

    def on_measurement(self, group: str, step: int, dataset: xr.Dataset) -> None:
        self._keep({"group": group, "step": step, "dataset": dataset})
        self._heartbeat.tell(doing="training")
        self._measuring.close()

    def before_checkpoint(self, step: int) -> str:
        self._heartbeat.tell(doing="saving a checkpoint")
        if self._monitor:
            self._keep({"group": "monitor", "step": step, "series": self._monitor.remembered()})
        with room_for("log.jsonl", self._log.path.parent):
            self._log.sync()
        return self._log.mark

    def after_checkpoint(self, step: int) -> None:
        self._heartbeat.tell(doing="training", last_checkpoint=step)

    def _keep(self, record: Mapping[str, object]) -> None:
        with room_for("log.jsonl", self._log.path.parent):
            self._log.append(record)

    def _advance(self, record: StepRecord, facts: Mapping[str, str] | None = None) -> None:
        self._heartbeat.tell(step=record.step, loss=record.loss)
        self._bar.update(facts=facts)

    def _warn(self, text: str) -> None:
        with self._bar.aside():
            warnings.warn(text, stacklevel=2)


@contextmanager
def recording(
    folder: RunFolder, config: RunConfig, log: RunLog, step: int, progress: bool, tensorboard: bool
) -> Iterator[Recorder]:
    """Yield who keeps a run's records from `step` on; on all ranks but the first one, who keeps nothing."""
    if not world().first:
        yield Recorder()
        return
    options = config.training
    heartbeat = Heartbeat(
        folder.path / "heartbeat.json", step, options.num_steps, max(folder.checkpoints().steps(), default=None)
    )
    board = Board(folder.path / "tensorboard", step) if tensorboard else None
    with (
        closing(board) if board else nullcontext(),
        heartbeat,
        ProgressBar(folder.path.name, options.num_steps, "step", step, progress) as bar,
    ):
        yield RunRecorder(log, step, options.alarm_factor, bar, heartbeat, board)
