"""Which harm comes when: everything about event number n follows from the seed and n, but for the moment of a kill."""

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from soak import bad_words, hostile
from soak.bench import Bench, Verdict
from soak.damage_events import damage_run, damage_sweep
from soak.inputs import bad_command, hostile_file
from soak.interruptions import Interruptions
from soak.stages import Stages

KILLS = ("train", "evaluate", "collect", "probe", "start", "encode", "train", "latents", "evaluate", "job", "probe")
DAMAGES = ("unfinished", "finished", "sweep", "latents", "finished", "child", "unfinished", "finished")
FULL = ("train", "evaluate", "collect", "probe", "encode", "train", "evaluate", "latents", "probe", "report")
PAIR = ("kill", "damage")
ORDER = (*PAIR, "bad", *PAIR, "hostile", *PAIR, "bad", *PAIR, "together", *PAIR, "bad", *PAIR, "full")
"""One round: of 1,800 events 1,200 are kills and damages and 300 are bad inputs."""
FATAL = ("lost", "silent", "traceback", "crash", "hang", "leaked")


@dataclass(frozen=True)
class Happening:
    """One event."""

    number: int
    kind: str
    verdict: Verdict

    def json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"event": self.number, "kind": self.kind, **asdict(self.verdict)}


@dataclass
class Happenings:
    """The events of a seed.

    Args:
        stages: What harm is done to.
        work: Folder for copies.
        seed: What everything follows from.
    """

    stages: Stages
    work: Path
    seed: int

    @cached_property
    def _bench(self) -> Bench:
        self.work.mkdir(parents=True, exist_ok=True)
        return Bench(self.stages, self.work)

    @cached_property
    def _interruptions(self) -> Interruptions:
        return Interruptions(self._bench)

    def __call__(self, number: int) -> Happening:
        """Let event `number` happen."""
        rounds, place = divmod(number, len(ORDER))
        kind = ORDER[place]
        nth = rounds * ORDER.count(kind) + ORDER[:place].count(kind)
        chance = random.Random(f"{self.seed}/{number}")
        name, act = self._act(kind, nth, chance)
        try:
            return Happening(number, name, act())
        except Exception as error:  # of the harness: it is counted, and does not end the others
            return Happening(number, name, Verdict("harness", "the harness failed", f"{type(error).__name__}: {error}"))

    def _act(self, kind: str, nth: int, chance: random.Random) -> tuple[str, Callable[[], Verdict]]:
        bench, interrupt = self._bench, self._interruptions
        if kind == "kill":
            name = KILLS[nth % len(KILLS)]
            return f"kill {name}", lambda: interrupt.kill(chance, name)
        if kind == "damage":
            name = DAMAGES[nth % len(DAMAGES)]
            if name == "sweep":
                return "damage sweep", lambda: damage_sweep(bench, chance)
            return f"damage {name}", lambda: damage_run(bench, chance, name)
        if kind == "full":
            name = FULL[nth % len(FULL)]
            return f"full disk {name}", lambda: interrupt.full(chance, name)
        if kind == "together":
            return "together", lambda: interrupt.together(chance)
        if kind == "bad":
            words = bad_words.commands()
            return "bad input", lambda: bad_command(bench, words[(nth + 7 * self.seed) % len(words)])
        pairs = [(trap, i) for trap in hostile.traps() for i in range(len(trap.works))]
        trap, i = pairs[nth * 7 % len(pairs)] if len(pairs) % 7 else pairs[nth % len(pairs)]
        return "hostile", lambda: hostile_file(bench, trap, trap.works[i], f"{trap.name}, {trap.file}, command {i}")
