"""Damaged files: a command that needs one refuses it by name, any other does its work, and what is intact stays."""

import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from soak import results
from soak.bench import SHOWN, Bench, Chance, Verdict, equal, names, seen, ugly
from soak.damage import damaged
from soak.stages import CHILD, ENCODE, EVALUATE_MORE, MERGED, ON_LATENTS, PROBE_MORE, REPORT, SWEEP, TRAIN, Stages
from soak.warm import Ended, Work, command, ended

INPUTS = ("images", "vae", "config.json", "child.json", "latents.json")
"""What the commands are given, beside what they have made."""
RESULT, RUN = ("run/run.nc",), ("run/run.nc", "run/checkpoints")


@dataclass(frozen=True)
class Reader:
    """Who reads what may be damaged."""

    work: Work
    delivers: tuple[str, ...]
    """What it makes; see `results.of`. Empty: what it prints."""
    twin: str
    """The stage of what it has made, undisturbed."""


STAGES = {"unfinished": "halfway", "child": "child_halfway", "finished": "measured", "latents": "latents_halfway"}
"""Stages whose files are damaged, by what is said of them."""
READERS: dict[str, dict[str, Reader]] = {
    "unfinished": {"train": Reader(TRAIN, RUN, "finished")},
    "child": {"train": Reader(CHILD, ("child/run.nc", "child/checkpoints"), "child_finished")},
    "latents": {
        "train": Reader(ON_LATENTS, RUN, "latents_finished"),
        "encode": Reader(ENCODE, ("latents",), "encoded"),
    },
    "finished": {
        "open": Reader(results.user_sees("run"), (), "measured"),
        "evaluate": Reader(EVALUATE_MORE, RESULT, "evaluated_more"),
        "probe": Reader(PROBE_MORE, RESULT, "probed_more"),
        "train": Reader(TRAIN, RESULT, "measured"),
        "report": Reader(REPORT, ("report/report.md", "report/merged.nc"), "reported"),
    },
}
"""Who reads the files of a stage."""


def damage_run(
    bench: Bench, chance: Chance, name: str, reader: str | None = None, file: str | None = None, way: str | None = None
) -> Verdict:
    """Damage a file, work with it, then put it back and work on: all that was intact is still there.

    Args:
        bench: Where.
        chance: What decides everything that is not given.
        name: Which stage, of STAGES.
        reader: Who reads, of READERS.
        file: Which file, the end of its path.
        way: How it is damaged, see `damage.WAYS`.
    """
    begin, readers = STAGES[name], READERS[name]
    often = [*[one for one in readers if one != "report"] * 4, *readers]  # it takes longest
    by = reader or chance.choice(often)
    who = readers[by]
    with bench.place(begin) as place:
        path = _any_file(place, chance, "latents" if name == "latents" else "", file)
        inside = path.relative_to(place)
        other = partial(_of_another, bench.stages, inside) if name in ("unfinished", "finished") else None
        what = f"{by} of {begin}, {inside} damaged: {damaged(path, other, chance, way)}"
        if who.work is TRAIN and name == "finished" and not path.exists() and inside.name == "run.nc":
            who = replace(who, twin="finished")  # what was measured is gone with the file, what was trained is not
        before = results.files(place)
        end = ended(who.work, place)
        if bad := ugly(end, what):
            return bad
        if end.code == 0:
            return equal(_expected(bench, who), _found(who, end, place), what)
        if not names(end.said, inside):
            return Verdict("unnamed", what, end.said[-SHOWN:])
        after = results.files(place)
        intact = [one for one in before if one != str(inside) and not one.endswith("log.jsonl")]
        if gone := [one for one in intact if after.get(one) != before[one]]:
            return Verdict("lost", what, f"{gone[:5]} {end.said[-300:]}")
        if not who.delivers or chance.random() < 0.5:
            return Verdict("handled", what)
        shutil.copyfile(bench.stage(begin) / inside, path)
        again = ended(who.work, place)
        if again.code:
            return Verdict("lost", f"{what}; then put back", again.said[-SHOWN:])
        return equal(_expected(bench, who), _found(who, again, place), f"{what}; then put back", "lost")


def damage_sweep(
    bench: Bench, chance: Chance, file: str | None = None, way: str | None = None, retry: bool | None = None
) -> Verdict:
    """Damage a file of a sweep: collect goes on with the rest and names it, and retry does it again."""
    s = bench.stages
    with bench.place("collected") as place:
        path = _any_file(place, chance, "", file)
        inside = path.relative_to(place)
        of_a_run = len(inside.parts) > 4 and inside.parts[3] in s.sweep_ids
        fellow = next((one for one in s.sweep_ids if one != inside.parts[3]), "") if of_a_run else ""
        other = (lambda: place.joinpath(*inside.parts[:3], fellow, *inside.parts[4:])) if of_a_run else None
        what = f"sweep, {inside} damaged: {damaged(path, other, chance, way)}"
        expected = bench.digests("collected", (MERGED,))
        verb = chance.choice((*("status", "collect", "logs", "list") * 4, "report"))
        for words in ([verb], ["collect"]):
            of_whom = [s.sweep_ids[2]] if words == ["logs"] else []
            end = ended(command(*(("sweeps", "list") if words == ["list"] else (*SWEEP, *words)), *of_whom), place)
            if bad := ugly(end, f"{words[0]} of {what}"):
                return bad
            if end.code and not names(end.said, inside):
                return Verdict("unnamed", f"{words[0]} of {what}", end.said[-SHOWN:])
        missing = [one for one in s.sweep_ids if f"missing {one}" in end.said]
        if end.code == 0:
            kept = set(s.sweep_ids) - set(missing)
            there = {k: v for k, v in expected.items() if not missing or any(f"[{one}]" in k for one in kept)}
            if wrong := results.differences(there, results.of(place, MERGED), all_of_both=False):
                return Verdict("silent", f"collect of {what}", str(wrong[:5]))
        if not (chance.random() < 0.4 if retry is None else retry):
            return Verdict("handled", what)
        for verb in ("retry", "submit"):
            again = ended(command(*SWEEP, verb, "--cluster", "debug", "--only", *s.sweep_ids[1:]), place)
            if bad := ugly(again, f"{verb} of {what}"):
                return bad
            if again.code:
                return Verdict("stuck", f"{verb} of {what}", again.said[-SHOWN:])
        final = ended(command(*SWEEP, "collect", "--replace"), place)
        if bad := ugly(final, f"collect after retry of {what}"):
            return bad
        if any(f"missing {one}" in final.said for one in s.sweep_ids) or final.code:
            return Verdict("stuck", what, final.said[-SHOWN:])
        return equal(expected, results.of(place, MERGED), f"retry of {what}")


def _expected(bench: Bench, who: Reader) -> results.Digests:
    return bench.digests(who.twin, who.delivers) if who.delivers else bench.seen(who.twin)


def _found(who: Reader, end: Ended, place: Path) -> results.Digests:
    return results.of(place, *who.delivers) if who.delivers else seen(end)


def _any_file(place: Path, chance: Chance, folder: str, end: str | None) -> Path:
    """Choose a file whose damage may matter: first the kind of file, then which one."""
    kept = [path for path in place.joinpath(folder).rglob("*") if path.is_file() and not path.name.startswith(".")]
    kept = sorted(p for p in kept if p.relative_to(place).parts[0] not in INPUTS and p.stat().st_size)
    if end is not None:
        return [path for path in kept if str(path).endswith(end)][-1]
    kinds: dict[str, list[Path]] = {}
    for path in kept:
        kinds.setdefault(path.suffix if path.suffix in (".f16", ".err", ".out") else path.name, []).append(path)
    return chance.choice(kinds[chance.choice(sorted(kinds))])


def _of_another(s: Stages, inside: Path) -> Path:
    """Return the same file of a run of another seed; of a checkpoint that it does not have, of its newest one."""
    direct = s.another / inside
    found = sorted(s.another.rglob(inside.name))
    return direct if direct.exists() or not found else found[-1]
