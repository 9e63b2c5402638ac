"""Which harm comes when: everything about event number n follows from the seed and n, but for the moment of a kill."""

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from soak import bad_words, hostile
from soak.harm import Harm, Verdict
from soak.stages import Stages

KILLS = ("train", "evaluate", "collect", "probe", "start", "encode", "train", "latents", "evaluate", "job", "probe")
DAMAGES = ("unfinished", "finished", "sweep", "latents", "finished", "child", "unfinished", "finished")
FULL = ("train", "evaluate", "collect", "probe", "encode", "train", "evaluate", "latents", "probe", "report")
ORDER = "kill damage kill damage bad kill damage hostile kill damage bad kill damage together kill damage bad full".split()
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
    def harm(self) -> Harm:
        self.work.mkdir(parents=True, exist_ok=True)
        return Harm(self.stages, self.work)

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
        harm = self.harm
        if kind == "kill":
            name = KILLS[nth % len(KILLS)]
            return f"kill {name}", lambda: harm.kill(chance, name)
        if kind == "damage":
            name = DAMAGES[nth % len(DAMAGES)]
            if name == "sweep":
                return "damage sweep", lambda: harm.damage_sweep(chance, name)
            return f"damage {name}", lambda: harm.damage(chance, name)
        if kind == "full":
            name = FULL[nth % len(FULL)]
            return f"full disk {name}", lambda: harm.full(chance, name)
        if kind == "together":
            return "together", lambda: harm.together(chance, "")
        if kind == "bad":
            words = bad_words.commands()
            return "bad input", lambda: harm.bad(words[(nth + 7 * self.seed) % len(words)])
        pairs = [(trap, work, i) for trap in hostile.traps() for i, work in enumerate(trap.works)]
        trap, work, i = pairs[nth * 7 % len(pairs)] if len(pairs) % 7 else pairs[nth % len(pairs)]
        return "hostile", lambda: harm.hostile(trap, work, f"{trap.name}, {trap.file}, command {i}")
