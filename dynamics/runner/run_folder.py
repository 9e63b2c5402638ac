"""Names inside a run folder, and the config in it."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from dynamics.atomic import locked, replacing
from dynamics.config import RunConfig
from dynamics.options import invalid
from dynamics.runner.agreement import differences
from dynamics.store import RunLog
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
            ValueError: It is not, or there is no valid config.
        """
        config = self.read_config()
        if not self.result.is_file():
            remedy = f"dynamics train {self.config} --out {self.path}"
            raise invalid("run", str(self.path), "a folder with a finished run (run.nc)", remedy)
        return config

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
            ValueError: The note is gone.
        """
        if not self._note.is_file():
            remedy = f"put it back, or remove {self.path} to begin anew"
            raise invalid(str(self._note), "no such file", "the note which checkpoint the run started from", remedy)
        return Origin(**json.loads(self._note.read_text()))

    @property
    def _note(self) -> Path:
        return self.path / "start.json"
