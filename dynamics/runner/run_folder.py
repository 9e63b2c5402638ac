"""Names inside a run folder, and the config in it."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from dynamics.atomic import locked, replacing
from dynamics.config import RunConfig
from dynamics.options import invalid
from dynamics.runner.agreement import differences
from dynamics.store import RunLog, read_groups
from dynamics.strict_json import dumps, seal, unseal
from dynamics.training import Checkpoints, Origin, Snapshots

BESIDE = ("events.jsonl", "heartbeat.json", "nonfinite.json", "start.json", "tensorboard")
"""What may lie in the folder of a run that has not begun, or whose damaged files a sweep has set aside."""


class RunInUseError(ValueError):
    """Another process does the same to this run."""


@dataclass(frozen=True)
class RunFolder:
    """Names inside a run folder."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def result(self) -> Path:
        return self.path / "run.nc"

    @property
    def nonfinite(self) -> Path:
        return self.path / "nonfinite.json"

    def checkpoints(self, config: RunConfig | None = None) -> Checkpoints:
        """Return the run's checkpoints, which must be of its config where that is given."""
        folder = self.path / "checkpoints"
        return Checkpoints(folder, config.training.keep_checkpoints, config.run_id) if config else Checkpoints(folder)

    def snapshots(self, config: RunConfig | None = None) -> Snapshots:
        """Return the snapshots of the run's averages, which must be of its config where that is given."""
        return Snapshots(self.path / "snapshots", run_id=config.run_id if config else None)

    def read_config(self) -> RunConfig:
        """Read config.json.

        Raises:
            ValueError: there is none, or it is not a valid config.
        """
        if not self.config.is_file():
            raise invalid("run folder", str(self.path), "a folder with a config.json", "train a run there first")
        return RunConfig.read(self.config)

    def finished_config(self) -> RunConfig:
        """Read config.json of a run that is finished.

        Raises:
            ValueError: It is not, its run.nc cannot be read or is another run's, or there is no valid config.
        """
        config = self.read_config()
        if not self.result.is_file():
            remedy = f"dynamics train {self.config} --out {self.path}"
            raise invalid("run", str(self.path), "a folder with a finished run (run.nc)", remedy)
        self.check_result(config)
        return config

    def check_result(self, config: RunConfig) -> None:
        """Refuse a run.nc that cannot be read, or that another run has written.

        Raises:
            ValueError: Naming what is wrong.
        """
        there = read_groups(self.result)["/"].attrs.get("run_id")
        if there != config.run_id:
            remedy = f"put the results of run {config.run_id} back"
            raise invalid(f"run_id of {self.result}", there, f"{config.run_id}, the run of {self.config}", remedy)

    def step_to_measure(self, config: RunConfig, asked: int | None) -> int | None:
        """Return the step of the checkpoint that a measurement takes: a finished run's last one, damaged or not.

        Args:
            config: The run's.
            asked: The step that was asked for, if any.

        Returns:
            None for the newest intact one: the run goes on.
        """
        return config.training.num_steps if asked is None and self.result.is_file() else asked

    @contextmanager
    def held(self, name: str, doing: str) -> Iterator[None]:
        """Hold the right to do something to this run.

        Args:
            name: Of the file or group that it is about.
            doing: What is done, for the error's text, such as "training".

        Raises:
            RunInUseError: Another process holds it.
        """
        with ExitStack() as until_the_end:
            try:
                until_the_end.enter_context(locked(self.path / name, wait=False))
            except BlockingIOError:
                allowed = f"a run that no other process is {doing}"
                raise RunInUseError(str(invalid("run", str(self.path), allowed, "wait for it"))) from None
            yield

    def check(self, config: RunConfig) -> bool:
        """Return whether a run of this config has begun here; nothing is written.

        Raises:
            ValueError: The folder holds a run of another config, or files of something else, or cannot be made.
        """
        if self.config.exists():
            there = self.read_config()
            if there.run_id != config.run_id:
                different = ", ".join(differences(there.model_dump(mode="json"), config.model_dump(mode="json")))
                remedy = "choose another --out, or repeat the command that began this run"
                raise invalid("config", different, f"the config of the run in {self.path}", remedy)
            return True
        nearest = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
            remedy = "choose another --out"
            raise invalid("out", str(self.path), f"a folder that can be written, which {nearest} is not", remedy)
        known = (*BESIDE, ".", "set_aside_")
        if nearest == self.path and (
            other := sorted(path.name for path in self.path.iterdir() if not path.name.startswith(known))
        ):
            received = f"{self.path} with {other[0]} and no {self.config.name}"
            raise invalid("out", received, "an empty folder, or that of a run", "choose another --out")
        return False

    def claim(self, config: RunConfig) -> None:
        """Write config.json, or check that the one there is the same; only for who holds the lock.

        Raises:
            ValueError: As `check`.
        """
        if not self.check(config):
            self.write_config(config)

    def write_config(self, config: RunConfig) -> None:
        """Write config.json; only for who holds the lock."""
        with replacing(self.config) as temporary:
            temporary.write_text(dumps(config.complete(), indent=1))

    def check_log(self, step: int) -> None:
        """Refuse a log that is not what it was at a checkpoint: what was recorded would be lost.

        Args:
            step: Of the checkpoint, whose state.json is intact; 0 for the start of the run.

        Raises:
            ValueError: Steps are missing, a line is damaged, or records are others than the checkpoint's.
        """
        log, checkpoints = RunLog(self.log), self.checkpoints()
        there = {record["step"] for record in log.read() if record["group"] == "training"}
        missing = step - len([number for number in there if 1 <= number <= step])
        mark = checkpoints.content(step).get("log") if step in checkpoints.steps() else None
        if missing:
            first = next(number for number in count(1) if number not in there)
            received = f"{missing} of the {step} steps before the checkpoint are missing, such as {first}"
        elif mark is not None and log.mark_at(step) != mark:
            received = f"records up to step {step} that are not all, or not those, of the checkpoint"
        else:
            return
        remedy = f"restore the file, or remove {self.path} to begin anew"
        raise invalid(str(self.log), received, "a record of every step and measurement", remedy)

    def note(self, origin: Origin) -> None:
        """Write down which checkpoint of another run this one starts from."""
        with replacing(self._note) as temporary:
            temporary.write_text(seal(asdict(origin)))

    def origin(self) -> Origin:
        """Return which checkpoint of another run this one started from.

        Raises:
            ValueError: The note is gone or damaged.
        """
        try:
            return Origin(**unseal(self._note.read_bytes()))
        except (FileNotFoundError, ValueError, TypeError) as error:
            remedy = f"put it back, or remove {self.path} to begin anew"
            allowed = "the note which checkpoint the run started from"
            raise invalid(str(self._note), str(error), allowed, remedy) from error

    @property
    def _note(self) -> Path:
        return self.path / "start.json"
