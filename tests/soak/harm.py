"""The kinds of harm, and what is said of how each ended.

handled    the command refused in words that name the file, or the end is that of the undisturbed twin
unnamed    it refused, without saying which file is at fault
untidy     handled, but temporary files stay, a refused command had written already, or its error has several lines
stuck      what was named damaged could not be done again
lost       something that was finished is gone
silent     it ended well with other results than the twin
traceback, crash, hang, leaked (a foreign file's content, or code in a file that ran)
missed     the harm came too late, or did nothing
"""

import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from soak import bad_words, hostile, results, stages
from soak.damage import damaged
from soak.results import differences
from soak.stages import COLLECT, ENCODE, EVALUATE, PROBE, REPORT, TRAIN, Stages
from soak.warm import Blow, Ended, Work, command, ended, together

Chance = random.Random
NEVER = 10**9


@dataclass(frozen=True)
class Verdict:
    """How one harm ended."""

    verdict: str
    what: str
    """What was done, to whom."""
    said: str = ""
    """What was said or differs, where it was not handled."""


@dataclass(frozen=True)
class Task:
    """A command that finishes something: where it can begin, and what it ends as."""

    name: str
    work: Work
    begins: dict[Path, Path]
    """Where it can begin, and how an undisturbed one ends from there."""
    made: tuple[str, ...]
    """What it makes or adds to; see `results.of`."""


@dataclass
class Harm:
    """All kinds of harm, on copies of the same stages.

    Args:
        stages: What it is done to.
        work: Folder for the copies.
    """

    stages: Stages
    work: Path
    _twins: dict[tuple[Path, str], results.Digests] = field(default_factory=dict)
    _lengths: dict[tuple[str, Path], tuple[float, int]] = field(default_factory=dict)

    # ---- what there is to do ---------------------------------------------------------------------------------------

    def task(self, name: str) -> Task:
        """Return a task; its stages are made when it is first asked for."""
        s, run = self.stages, ("run/run.nc", "run/checkpoints")
        if name == "train":
            return Task(name, TRAIN, dict.fromkeys((s.fresh, s.halfway), s.finished), run)
        if name == "start":
            made = ("child/run.nc", "child/checkpoints")
            return Task(name, stages.CHILD, {s.child_halfway: s.child_finished}, made)
        if name == "evaluate":
            return Task(name, EVALUATE, {s.finished: s.evaluated, s.probed: s.measured}, run)
        if name == "probe":
            return Task(name, PROBE, {s.finished: s.probed, s.evaluated: s.measured}, run)
        if name == "report":
            return Task(name, REPORT, {s.measured: s.reported}, (*run, "report/report.md", "report/merged.nc"))
        if name == "encode":
            return Task(name, ENCODE, dict.fromkeys((s.images, s.half_encoded), s.encoded), ("latents",))
        if name == "latents":
            begins = dict.fromkeys((s.encoded, s.latents_halfway), s.latents_finished)
            return Task(name, stages.ON_LATENTS, begins, run)
        if name == "collect":
            begins = dict.fromkeys((s.swept, s.collected), s.collected)
            return Task(name, COLLECT, begins, ("results/tiny/digits.nc",))
        assert name == "job"
        alone = s.sweep_ids[-1]
        made = tuple(f"results/tiny/digits/{alone}/{part}" for part in ("run.nc", "checkpoints"))
        return Task(name, s.submit, {s.unswept: s.swept}, made)

    # ---- kinds of harm ---------------------------------------------------------------------------------------------

    def kill(self, chance: Chance, name: str) -> Verdict:
        """Kill a task at a random moment or between two changes of the disk, perhaps again, then let it end."""
        task = self.task(name)
        begin = chance.choice(list(task.begins))
        seconds, writes = self._length(task, begin)
        with self._place(begin) as place:
            before = self._made(begin, task)
            blows = []
            for _ in range(chance.choice((1, 1, 1, 2, 3))):
                if chance.random() < 0.5:
                    blow, text = Blow(after=(at := chance.uniform(0, seconds))), f"after {at:.3f} s"
                else:
                    blow, text = Blow(before_write=(n := chance.randint(1, writes))), f"before change {n} of the disk"
                end = ended(task.work, place, blow)
                if not end.killed:
                    if blows and end.code == 0:
                        break
                    return self._judged(f"{name} of {begin.name} {text}", end, place, task, begin)
                blows.append(text)
                if name not in ("train", "start", "latents", "encode", "job"):
                    lost = differences(before, results.of(place, *task.made), all_of_both=False)
                    if lost:
                        return Verdict("lost", f"{name} of {begin.name} killed {', '.join(blows)}", str(lost[:5]))
            what = f"{name} of {begin.name} killed {', '.join(blows)}"
            return self._judged(what, ended(task.work, place), place, task, begin, counted=True)

    def full(self, chance: Chance, name: str) -> Verdict:
        """Let a task run out of room, then give it room and let it end."""
        task = self.task(name)
        begin = chance.choice(list(task.begins))
        with self._place(begin) as place:
            before = self._made(begin, task)
            if os.geteuid() == 0 and chance.random() < 0.7:
                with _small_disk(begin, place, chance) as (disk, text):
                    end = ended(task.work, disk)
                    shutil.rmtree(place)
                    shutil.copytree(disk, place, symlinks=True)
            else:
                limit = int(10 ** chance.uniform(2, 5))
                end, text = ended(task.work, place, Blow(file_bytes=limit)), f"files of at most {limit} bytes"
            what = f"{name} of {begin.name} with {text}"
            if end.code == 0:
                return self._judged(what, end, place, task, begin)
            if bad := _ugly(end):
                return Verdict(bad, what, end.said[-1500:])
            lost = differences(before, results.of(place, *task.made), all_of_both=False)
            if lost and name not in ("train", "start", "latents", "encode", "job"):
                return Verdict("lost", what, str(lost[:5]))
            known = ("No space left", "File too large", "no room", "disk")
            if not any(word in end.said for word in known):
                return Verdict("unnamed", what, end.said[-1500:])
            return self._judged(f"{what}, then with room", ended(task.work, place), place, task, begin, counted=True)

    def together(self, chance: Chance, _: str) -> Verdict:
        """Let several processes measure one run at once: what each says that it has done is there."""
        s = self.stages
        each = {nfe: command("evaluate", "run", "--nfe", nfe, "--num-samples", "20", "--exact-rows", "4") for nfe in (1, 2)}
        works, begin = chance.choice(
            [
                ([each[1], each[2]], s.probed),
                ([EVALUATE, PROBE], s.finished),
                ([each[2], PROBE, each[1]], s.finished),
            ]
        )
        what = f"{len(works)} commands at once on {begin.name}"
        with self._place(begin) as place:
            found = together(works, place)
            for end in found:
                if (bad := _ugly(end)) or (end.code and "no other process" not in end.said):
                    return Verdict(bad or "unnamed", what, end.said[-1500:])
            for work, end in zip(works, found, strict=True):
                if end.code and (again := ended(work, place)).code:
                    return Verdict("stuck", what, again.said[-1500:])
            made = ("run/run.nc",)
            gone = differences(self._digests(s.measured, made), results.of(place, *made))
            return Verdict("lost" if gone else "handled", what, str(gone[:5]) if gone else "")

    def damage(self, chance: Chance, name: str) -> Verdict:
        """Damage a file, work with it, then put it back and work on: all that was intact is still there."""
        begin, other, readers = self._damageable(name)
        reader, work, delivers, twin = chance.choice(readers)
        with self._place(begin) as place:
            path = _any_file(place, chance, name)
            inside = path.relative_to(place)
            what = f"{reader} of {begin.name}, {inside} damaged: {damaged(path, _fellow(inside, other), chance)}"
            before = results.files(place)
            end = ended(work, place)
            if bad := _ugly(end):
                return Verdict(bad, what, end.said[-1500:])
            expected = self._digests(twin, delivers)
            if end.code == 0:
                found = self._seen(end) if reader == "open" else results.of(place, *delivers)
                if reader == "open":
                    expected = self._seen_of(twin)
                wrong = differences(expected, found)
                return Verdict("silent" if wrong else "handled", what, f"{wrong[:5]} {end.said[-500:]}" if wrong else "")
            if not _names(end.said, inside):
                return Verdict("unnamed", what, end.said[-1500:])
            after = results.files(place)
            gone = [n for n in before if n != str(inside) and not n.endswith("log.jsonl") and after.get(n) != before[n]]
            if gone:
                return Verdict("lost", what, f"{gone[:5]} {end.said[-300:]}")
            if reader == "open" or chance.random() < 0.5:
                return Verdict("handled", what)
            shutil.copyfile(begin / inside, path)
            again = ended(work, place)
            wrong = [] if again.code else differences(expected, results.of(place, *delivers))
            if again.code or wrong:
                return Verdict("lost", f"{what}; then put back", f"{wrong[:5]} {again.said[-1000:]}")
            return Verdict("handled", what)

    def damage_sweep(self, chance: Chance, _: str) -> Verdict:
        """Damage a file of a sweep: collect goes on with the rest and names it, and retry does it again."""
        s, merged = self.stages, "results/tiny/digits.nc"
        with self._place(s.collected) as place:
            path = _any_file(place, chance, "sweep")
            inside = path.relative_to(place)
            ids = [run_id for run_id in s.sweep_ids if run_id != inside.parts[3]] if len(inside.parts) > 4 else []
            fellow = place.joinpath(*inside.parts[:3], ids[0], *inside.parts[4:]) if ids else None
            what = f"sweep, {inside} damaged: {damaged(path, fellow, chance)}"
            expected = self._digests(s.collected, (merged,))
            for verb in (chance.choice(("status", "collect", "report", "logs", "list")), "collect"):
                words = ("experiments", "list") if verb == "list" else (*stages.SWEEP, verb)
                end = ended(command(*words, *([s.sweep_ids[2]] if verb == "logs" else [])), place)
                if bad := _ugly(end):
                    return Verdict(bad, f"{verb} of {what}", end.said[-1500:])
                if end.code and not _names(end.said, inside):
                    return Verdict("unnamed", f"{verb} of {what}", end.said[-1500:])
            if end.code == 0:
                missing = [run_id for run_id in s.sweep_ids if f"missing {run_id}" in end.said]
                if not missing and (wrong := differences(expected, results.of(place, merged))):
                    return Verdict("silent", f"collect of {what}", str(wrong[:5]))
            if chance.random() < 0.5:
                return Verdict("handled", what)
            for verb in ("retry", "submit"):
                again = ended(command(*stages.SWEEP, verb, "--cluster", "debug", "--only", *s.sweep_ids[1:]), place)
                if bad := _ugly(again):
                    return Verdict(bad, f"{verb} of {what}", again.said[-1500:])
                if again.code:
                    return Verdict("stuck", f"{verb} of {what}", again.said[-1500:])
            final = ended(command(*stages.SWEEP, "collect", "--replace"), place)
            if bad := _ugly(final):
                return Verdict(bad, f"collect after retry of {what}", final.said[-1500:])
            wrong = differences(expected, results.of(place, merged))
            if any(f"missing {run_id}" in final.said for run_id in s.sweep_ids) or final.code:
                return Verdict("stuck", what, final.said[-1500:])
            return Verdict("silent" if wrong else "handled", f"retry of {what}", str(wrong[:5]) if wrong else "")

    def bad(self, words: bad_words.Words) -> Verdict:
        """Give a command what it must refuse, in one line and before it writes anything."""
        with self._place(self.stages.finished) as place:
            bad_words.prepare(place)
            before, what = results.files(place), " ".join(word if word else "''" for word in words)
            end = ended(command(*words), place)
            if bad := _ugly(end):
                return Verdict(bad, what, end.said[-1500:])
            if end.code == 0:
                return Verdict("silent", f"{what}: accepted", end.said[-500:])
            wrote = sorted(set(results.files(place).items()) ^ set(before.items()))
            if wrote or (place / "out").exists():
                return Verdict("untidy", f"{what}: refused after writing", str([name for name, _ in wrote][:5]))
            lines = [line for line in end.said.splitlines() if line.strip()]
            if len(lines) != 1 or not lines[0].startswith("error: ") or " at 0x" in lines[0]:
                return Verdict("unnamed", f"{what}: {len(lines)} lines", end.said[-1500:])
            return Verdict("handled", what)

    def hostile(self, trap: hostile.Trap, work: Work, what: str) -> Verdict:
        """Give a command a hostile file: it is refused by name, and nothing in it runs or is read beyond it."""
        with self._place(getattr(self.stages, trap.stage)) as place:
            hostile.set_up(trap, place)
            end = ended(hostile.watched(work, place), place)
            files = (path for path in place.rglob("*") if path.is_file() and path.name != "secret.txt")
            if (place / hostile.MARK).exists():
                return Verdict("leaked", f"{what}: executed", end.said[-1500:])
            if any(hostile.SECRET.encode() in path.read_bytes() for path in files):
                return Verdict("leaked", f"{what}: read a foreign file", end.said[-1500:])
            if bad := _ugly(end):
                return Verdict(bad, what, end.said[-1500:])
            if end.code == 0 and not trap.harmless:
                return Verdict("silent", f"{what}: accepted", end.said[-500:])
            if end.code and not _names(end.said, Path(trap.file)):
                return Verdict("unnamed", what, end.said[-1500:])
            return Verdict("handled", what)

    # ---- judging ---------------------------------------------------------------------------------------------------

    def _judged(self, what: str, end: Ended, place: Path, task: Task, begin: Path, counted: bool = False) -> Verdict:
        """Judge an end that must be that of the twin."""
        if bad := _ugly(end):
            return Verdict(bad, what, end.said[-1500:])
        if end.code:
            return Verdict("lost", f"{what}: the same command does not continue", end.said[-1500:])
        wrong = differences(self._digests(task.begins[begin], task.made), results.of(place, *task.made))
        if wrong:
            return Verdict("silent", what, str(wrong[:5]))
        if counted and (left := _litter(place)):
            return Verdict("untidy", what, str(left[:5]))
        return Verdict("handled" if counted else "missed", what)

    def _digests(self, stage: Path, made: Sequence[str]) -> results.Digests:
        key = stage, " ".join(made)
        if key not in self._twins:
            self._twins[key] = results.of(stage, *made)
            assert "unreadable" not in self._twins[key], self._twins[key]
        return self._twins[key]

    def _made(self, stage: Path, task: Task) -> results.Digests:
        return self._digests(stage, task.made) if (stage / task.made[0]).exists() else {}

    def _length(self, task: Task, begin: Path) -> tuple[float, int]:
        """Return the seconds that a task takes, and how often it changes the disk."""
        key = task.name, begin
        if key not in self._lengths:
            with self._place(begin) as place:
                end = ended(task.work, place, Blow(before_write=NEVER))
                assert end.code == 0, end.said
                self._lengths[key] = end.seconds, int((place / ".calls").read_text())
        return self._lengths[key]

    def _seen(self, end: Ended) -> results.Digests:
        lines = [line for line in end.said.splitlines() if line.startswith("{")]
        out: results.Digests = json.loads(lines[-1])
        return out

    def _seen_of(self, stage: Path) -> results.Digests:
        key = stage, "seen"
        if key not in self._twins:
            with self._place(stage) as place:
                self._twins[key] = self._seen(ended(results.user_sees("run"), place))
        return self._twins[key]

    def _damageable(self, name: str) -> tuple[Path, Path | None, list[tuple[str, Work, tuple[str, ...], Path]]]:
        """Return a stage, a run whose files may be swapped in, and who reads: command, what it delivers, twin."""
        s, both, result = self.stages, ("run/run.nc", "run/checkpoints"), ("run/run.nc",)
        if name == "unfinished":
            return s.halfway, s.another, [("train", TRAIN, both, s.finished)]
        if name == "child":
            made = ("child/run.nc", "child/checkpoints")
            return s.child_halfway, None, [("train", stages.CHILD, made, s.child_finished)]
        if name == "finished":
            probe, evaluate = ("probe", PROBE, result, s.measured), ("evaluate", EVALUATE, result, s.measured)
            open_it = ("open", results.user_sees("run"), result, s.measured)
            report = ("report", REPORT, ("report/report.md", "report/merged.nc"), s.reported)
            train = ("train", TRAIN, result, s.measured)
            return s.measured, s.another, [open_it, probe, evaluate, train, open_it, report]
        assert name == "latents"
        train = ("train", stages.ON_LATENTS, both, s.latents_finished)
        return s.latents_halfway, None, [train, train, ("encode", ENCODE, ("latents",), s.encoded)]

    @contextmanager
    def _place(self, stage: Path) -> Iterator[Path]:
        place = self.work / "place"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(stage, place, symlinks=True)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _ugly(end: Ended) -> str:
    """Return the verdict of an end that no command should have, "" for others."""
    if end.hung:
        return "hang"
    if end.code < 0 or end.code > 128 + signal.SIGABRT:
        return "crash"
    return "traceback" if "Traceback (most recent call last)" in end.said else ""


def _names(said: str, inside: Path) -> bool:
    """Whether a text says which file is at fault: its name, or the checkpoint that it is in."""
    said = " ".join(said.split())
    checkpoint = next((part for part in inside.parts if part.startswith("step_")), None)
    return inside.name in said or (checkpoint is not None and checkpoint in said)


def _litter(place: Path) -> list[str]:
    left = (p for p in place.rglob(".*") if p.name.endswith(".tmp") or p.name.startswith(".step_"))
    return sorted(str(path.relative_to(place)) for path in left)


def _any_file(place: Path, chance: Chance, name: str) -> Path:
    """Choose a file whose damage may matter: first the kind of file, then which one."""
    kept = [path for path in place.rglob("*") if path.is_file() and not path.name.startswith(".") and path.stat().st_size]
    inputs = ("config.json", "child.json", "latents.json")
    kept = [path for path in kept if path.relative_to(place).parts[0] not in ("images", "vae", *inputs)]
    if name == "latents":
        kept = [path for path in kept if path.relative_to(place).parts[0] == "latents"]
    kinds: dict[str, list[Path]] = {}
    for path in kept:
        kinds.setdefault(path.suffix if path.suffix in (".f16", ".err", ".out") else path.name, []).append(path)
    return chance.choice(sorted(kinds[chance.choice(sorted(kinds))]))


def _fellow(inside: Path, other: Path | None) -> Path | None:
    if other is None:
        return None
    direct = other / inside
    if direct.exists():
        return direct
    found = sorted(other.rglob(inside.name))
    return found[-1] if found else None


@contextmanager
def _small_disk(begin: Path, place: Path, chance: Chance) -> Iterator[tuple[Path, str]]:
    """Mount a disk that has room for what is there and a little more."""
    used = sum(-(-path.stat().st_size // 4096) * 4096 + 4096 for path in place.rglob("*"))
    room = 4096 * chance.randint(0, 60)
    disk = place.with_name("disk")
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={used + room + 65536}", "none", str(disk)], check=True)
    try:
        shutil.copytree(place, disk, symlinks=True, dirs_exist_ok=True)
        filler = disk / ".filler"
        free = shutil.disk_usage(disk).free
        filler.write_bytes(bytes(max(free - room - 8192, 0)))
        yield disk, f"{room} bytes of room"
        filler.unlink(missing_ok=True)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
