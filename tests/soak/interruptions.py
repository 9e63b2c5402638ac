"""Kills, full disks and several commands at once: the same command continues, and ends as if nothing had happened."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from soak import results
from soak.bench import SHOWN, Bench, Chance, Verdict, equal, litter, ugly
from soak.stages import CHILD, COLLECT, ENCODE, EVALUATE, MERGED, ON_LATENTS, PROBE, REPORT, TRAIN, Stages
from soak.warm import Blow, Ended, Work, command, ended, together

NEVER = 10**9
CONTINUED = ("train", "start", "latents", "encode", "job")
"""Tasks that write what they make bit by bit; the others add to a file that is whole at every moment."""
NO_ROOM = ("No space left", "File too large", "no room")


@dataclass(frozen=True)
class Task:
    """A command that finishes something."""

    name: str
    work: Work
    begins: dict[str, str]
    """Stages where it can begin, and how an undisturbed one ends from there."""
    made: tuple[str, ...]
    """What it makes or adds to; see `results.of`."""


def task_of(name: str, s: Stages) -> Task:
    """Return a task."""
    run = ("run/run.nc", "run/checkpoints")
    if name == "train":
        return Task(name, TRAIN, {"fresh": "finished", "halfway": "finished"}, run)
    if name == "start":
        return Task(name, CHILD, {"child_halfway": "child_finished"}, ("child/run.nc", "child/checkpoints"))
    if name == "evaluate":
        return Task(name, EVALUATE, {"finished": "evaluated", "probed": "measured"}, run)
    if name == "probe":
        return Task(name, PROBE, {"finished": "probed", "evaluated": "measured"}, run)
    if name == "report":
        return Task(name, REPORT, {"measured": "reported"}, (*run, "report/report.md", "report/merged.nc"))
    if name == "encode":
        return Task(name, ENCODE, {"images": "encoded", "half_encoded": "encoded"}, ("latents",))
    if name == "latents":
        return Task(name, ON_LATENTS, {"encoded": "latents_finished", "latents_halfway": "latents_finished"}, run)
    if name == "collect":
        return Task(name, COLLECT, {"swept": "collected", "collected": "collected"}, (MERGED,))
    assert name == "job"
    made = tuple(f"results/tiny/digits/{s.sweep_ids[-1]}/{part}" for part in ("run.nc", "checkpoints"))
    return Task(name, s.submit, {"unswept": "swept"}, made)


@dataclass
class Interruptions:
    """Harm to commands that are at work."""

    bench: Bench
    _lengths: dict[tuple[str, str], tuple[float, int]] = field(default_factory=dict)

    def kill(self, chance: Chance, name: str) -> Verdict:
        """Kill a task at a random moment or between two changes of the disk, perhaps again, then let it end."""
        task = task_of(name, self.bench.stages)
        begin = chance.choice(list(task.begins))
        seconds, changes = self._length(task, begin)
        killed = f"{name} of {begin} killed"
        with self.bench.place(begin) as place:
            for _ in range(chance.choice((1, 1, 1, 2, 3))):
                if chance.random() < 0.5:
                    blow, when = Blow(after=(at := chance.uniform(0, seconds))), f"after {at:.3f} s"
                else:
                    blow, when = Blow(before_write=(n := chance.randint(1, changes))), f"before change {n} of the disk"
                end = ended(task.work, place, blow)
                if not end.killed:  # it was done already
                    return self._continued(f"{killed} too late", end, place, task, begin, counts="," in killed)
                killed = f"{killed} {when},"
                if lost := self._lost(task, begin, place):
                    return Verdict("lost", killed, str(lost[:5]))
            return self._continued(killed, ended(task.work, place), place, task, begin)

    def full(self, chance: Chance, name: str) -> Verdict:
        """Let a task run out of room, then give it room and let it end."""
        task = task_of(name, self.bench.stages)
        begin = chance.choice(list(task.begins))
        with self.bench.place(begin) as place:
            if may_mount() and chance.random() < 0.7:
                room = 4096 * chance.randint(0, 60)
                with _small_disk(place, room) as disk:
                    end = ended(task.work, disk)
                    shutil.rmtree(place)
                    shutil.copytree(disk, place, symlinks=True)
                what = f"{name} of {begin} with {room} bytes of room"
            else:
                limit = int(10 ** chance.uniform(2, 5))
                end = ended(task.work, place, Blow(file_bytes=limit))
                what = f"{name} of {begin} with files of at most {limit} bytes"
            if end.code == 0:
                return self._continued(what, end, place, task, begin, counts=False)
            if bad := ugly(end, what):
                return bad
            if lost := self._lost(task, begin, place):
                return Verdict("lost", what, str(lost[:5]))
            if not any(words in end.said for words in NO_ROOM):
                return Verdict("unnamed", what, end.said[-SHOWN:])
            return self._continued(f"{what}, then with room", ended(task.work, place), place, task, begin)

    def together(self, chance: Chance) -> Verdict:
        """Let several processes measure one run at once: what each says that it has done is there."""
        few = ("--num-samples", "20", "--exact-rows", "4")
        one, two = (command("evaluate", "run", "--nfe", nfe, *few) for nfe in ("1", "2"))
        works, twin = chance.choice(
            [([one, two], "evaluated"), ([EVALUATE, PROBE], "measured"), ([two, PROBE, one], "measured")]
        )
        what = f"{len(works)} commands at once, to end as {twin}"
        with self.bench.place("finished") as place:
            found = together(works, place)
            for end in found:
                if bad := ugly(end, what):
                    return bad
                if end.code and "no other process" not in end.said:
                    return Verdict("unnamed", what, end.said[-SHOWN:])
            for work, end in zip(works, found, strict=True):
                if end.code and (again := ended(work, place)).code:
                    return Verdict("stuck", what, again.said[-SHOWN:])
            made = ("run/run.nc",)
            return equal(self.bench.digests(twin, made), results.of(place, *made), what, otherwise="lost")

    def _lost(self, task: Task, begin: str, place: Path) -> list[str]:
        """Return what was whole before a task was interrupted, and is not any more."""
        if task.name in CONTINUED or not (self.bench.stage(begin) / task.made[0]).exists():
            return []
        before = self.bench.digests(begin, task.made)
        return results.differences(before, results.of(place, *task.made), all_of_both=False)

    def _continued(self, what: str, end: Ended, place: Path, task: Task, begin: str, counts: bool = True) -> Verdict:
        """Judge an end that must be that of the twin."""
        if bad := ugly(end, what):
            return bad
        if end.code:
            return Verdict("lost", f"{what}: the same command does not continue", end.said[-SHOWN:])
        found = equal(self.bench.digests(task.begins[begin], task.made), results.of(place, *task.made), what)
        if found.verdict == "handled" and not counts:
            return Verdict("missed", what)
        left = litter(place)
        return Verdict("untidy", what, str(left[:5])) if left and found.verdict == "handled" else found

    def _length(self, task: Task, begin: str) -> tuple[float, int]:
        """Return the seconds that a task takes, and how often it changes the disk."""
        key = task.name, begin
        if key not in self._lengths:
            with self.bench.place(begin) as place:
                end = ended(task.work, place, Blow(before_write=NEVER))
                assert end.code == 0, end.said
                self._lengths[key] = end.seconds, int((place / ".calls").read_text())
        return self._lengths[key]


@lru_cache
def may_mount() -> bool:
    """Whether this user may mount a small disk in memory; elsewhere a limit on the size of files stands for it."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    trial = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


@contextmanager
def _small_disk(place: Path, room: int) -> Iterator[Path]:
    """Mount a disk that has room for what is in a place and so many bytes more."""
    size = sum(path.lstat().st_size + 8192 for path in place.rglob("*")) + room + 65536
    disk = place.with_name("disk")
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)], check=True)
    try:
        shutil.copytree(place, disk, symlinks=True, dirs_exist_ok=True)
        filler = disk / ".filler"
        filler.write_bytes(bytes(max(shutil.disk_usage(disk).free - room - 8192, 0)))
        yield disk
        filler.unlink()
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
