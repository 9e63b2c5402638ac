"""Names inside a run folder, and the config in it."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from dynamics.atomic import locked, replacing
from dynamics.config import RunConfig
from dynamics.options import invalid
from dynamics.runner.agreement import differences
from dynamics.store import RunLog, read_groups
from dynamics.training import Checkpoints, Origin


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

    def checkpoints(self, keep: int = 2) -> Checkpoints:
        """Return the run's checkpoints."""
        return Checkpoints(self.path / "checkpoints", keep)

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

    def claim(self, config: RunConfig) -> None:
        """Write config.json, or check that the one there is the same; only for who holds the lock.

        Raises:
            ValueError: The folder holds a run of another config, or files of something else.
        """
        if self.config.exists():
            there = self.read_config()
            if there.run_id != config.run_id:
                different = ", ".join(differences(there.model_dump(mode="json"), config.model_dump(mode="json")))
                remedy = "choose another --out, or repeat the command that began this run"
                raise invalid("config", different, f"the config of the run in {self.path}", remedy)
            return
        if self.result.exists() or self.log.exists() or self.checkpoints().steps():
            raise invalid("out", str(self.path), "an empty folder or one with a config.json", "choose another --out")
        self.write_config(config)

    def write_config(self, config: RunConfig) -> None:
        """Write config.json; only for who holds the lock."""
        with replacing(self.config) as temporary:
            temporary.write_text(json.dumps(config.complete(), indent=1))

    def check_log(self, step: int) -> None:
        """Refuse a log that does not hold every step up to that of a checkpoint: what was recorded would be lost.

        Raises:
            ValueError: Steps are missing, or a line is damaged.
        """
        there = {record["step"] for record in RunLog(self.log).read() if record["group"] == "training"}
        missing = sorted(set(range(1, step + 1)) - there)
        if missing:
            received = f"{len(missing)} of the {step} steps before the checkpoint are missing, such as {missing[0]}"
            remedy = f"restore the file, or remove {self.path} to begin anew"
            raise invalid(str(self.log), received, "a record of every step", remedy)

    def note(self, origin: Origin) -> None:
        """Write down which checkpoint of another run this one starts from."""
        with replacing(self._note) as temporary:
            temporary.write_text(json.dumps(asdict(origin), indent=1))

    def origin(self) -> Origin:
        """Return which checkpoint of another run this one started from.

        Raises:
            ValueError: The note is gone or damaged.
        """
        try:
            return TypeAdapter(Origin).validate_json(self._note.read_bytes())
        except (FileNotFoundError, ValueError) as error:
            received = "no such file" if isinstance(error, FileNotFoundError) else "damaged text"
            remedy = f"put it back, or remove {self.path} to begin anew"
            raise invalid(str(self._note), received, "the note which checkpoint the run started from", remedy) from None

    @property
    def _note(self) -> Path:
        return self.path / "start.json"
