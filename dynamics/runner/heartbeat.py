"""A small file that says that a run is alive and how far it is, for whoever watches from outside."""

import json
import math
import os
import platform
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from dynamics.atomic import replacing
from dynamics.training import world

EVERY = 10.0
"""Seconds between beats."""


class Heartbeat:
    """`heartbeat.json`, replaced while the context lasts by a thread of its own: measuring and saving do not stop it.

    `time` is that of the beat and `since` that of the last progress, both Unix seconds: an old `time` is a process that
    is gone, an old `since` under a new `time` one that is `doing` the same thing all the while. Speed and ETA are those
    of this attempt, measuring included, and null before its first step.

    Args:
        path: The file.
        step: Steps done so far.
        num_steps: Planned steps.
        last_checkpoint: Step of the newest checkpoint, if there is one.
    """

    def __init__(self, path: Path, step: int, num_steps: int, last_checkpoint: int | None) -> None:
        self._path, self._first, self._began = path, step, time.time()
        self._told: dict[str, Any] = {
            "doing": "training",
            "since": self._began,
            "step": step,
            "num_steps": num_steps,
            "loss": None,
            "last_checkpoint": last_checkpoint,
        }
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)

    def tell(self, **values: object) -> None:
        """Change what the next beat says: doing, step, loss (not finite: null) or last_checkpoint."""
        loss = values.get("loss")
        if isinstance(loss, float) and not math.isfinite(loss):
            values["loss"] = None
        # a new dictionary, never a half-changed one
        self._told = {**self._told, **values, "since": time.time()}

    def content(self) -> dict[str, Any]:
        """Return what the file says now."""
        told, now = self._told, time.time()
        done = told["step"] - self._first
        pace = (now - self._began) / done if done else None
        return {
            "time": now,
            **told,
            "steps_per_s": 1 / pace if pace else None,
            "eta_s": pace * (told["num_steps"] - told["step"]) if pace else None,
            "host": platform.node(),
            "pid": os.getpid(),
            "ranks": world().size,
        }

    def __enter__(self) -> "Heartbeat":
        self._beat()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self.tell(doing="stopped" if error else "finished")
        self._beat()

    def _beat_on(self) -> None:
        while not self._over.wait(EVERY):
            self._beat()

    def _beat(self) -> None:
        if not self._path.parent.is_dir():  # somebody removed the run's folder: what writes the log will say so
            return
        try:
            with replacing(self._path) as temporary:
                temporary.write_text(json.dumps(self.content(), indent=1))
        except OSError:  # a full disk: no reason to end a run, and an old file tells enough
            pass
