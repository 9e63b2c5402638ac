"""Bad commands and hostile files: refused in words, before anything is written, run or read."""

from pathlib import Path

from soak import bad_inputs, bad_words, hostile, results
from soak.bench import SHOWN, Bench, Verdict, names, ugly
from soak.warm import Work, command, ended


def bad_command(bench: Bench, words: bad_words.Words) -> Verdict:
    """Give a command what it must refuse, in one line and before it writes anything."""
    with bench.place("finished") as place:
        bad_words.prepare(place)
        before, there = results.files(place), set(place.rglob("*"))
        what = " ".join(word if word else "''" for word in words)
        end = ended(command(*words), place)
        if bad := ugly(end, what):
            return bad
        if end.code == 0:
            return Verdict("silent", f"{what}: accepted", end.said[-500:])
        left = {path for path in set(place.rglob("*")) - there if path.suffix != ".lock"}
        if left or results.files(place) != before:
            return Verdict("untidy", f"{what}: refused after writing", str(sorted(map(str, left))[:5]))
        complaint = bad_inputs.complaint(end.code, end.said)
        return Verdict("unnamed", what, complaint[-SHOWN:]) if complaint else Verdict("handled", what)


def hostile_file(bench: Bench, trap: hostile.Trap, work: Work, what: str) -> Verdict:
    """Give a command a hostile file: it is refused by name, and nothing in it runs or is read beyond it."""
    with bench.place(trap.stage) as place:
        hostile.set_up(trap, place)
        end = ended(hostile.watched(work, place), place, seconds=hostile.SECONDS)
        files = (path for path in place.rglob("*") if path.is_file() and path.name not in hostile.BAIT)
        if (place / hostile.MARK).exists():
            return Verdict("leaked", f"{what}: executed", end.said[-SHOWN:])
        if any(hostile.SECRET.encode() in path.read_bytes() for path in files):
            return Verdict("leaked", f"{what}: read a foreign file", end.said[-SHOWN:])
        if bad := ugly(end, what):
            return bad
        if end.code == 0 and not trap.harmless:
            return Verdict("silent", f"{what}: accepted", end.said[-500:])
        if end.code and not names(end.said, Path(trap.file)):
            return Verdict("unnamed", what, end.said[-SHOWN:])
        return Verdict("handled", what)
