"""Kill, damage, deceive and starve every command for a given time, and count how each event ended.

    make soak MINUTES=30 SEED=0            writes benchmarks/results/soak.json
    PYTHONPATH=.:tests python -m soak --event 1234 --seed 0      one event again; it says how it ended

Every kind of harm begins at copies of a few small runs that are made once, and ends beside an undisturbed twin.
Commands run in forked children of a process that has everything imported. What is counted: see `harm`.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from dynamics.store import provenance
from soak.happenings import FATAL, Happenings
from soak.stages import Stages
from soak.warm import settle

WORKERS = 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--events", type=int, help="stop after so many")
    parser.add_argument("--event", type=int, help="only this one")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    settle()
    root = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        stages = Stages(root / "stages")
        if args.event is not None:
            with open(os.devnull, "w") as silence, redirect_stdout(silence), redirect_stderr(silence):
                found = Happenings(stages, root / "work", args.seed)(args.event)
            print(json.dumps(found.json(), indent=1))
            return int(found.verdict.verdict in FATAL)
        return _soak(args, stages, root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _soak(args: argparse.Namespace, stages: Stages, root: Path) -> int:
    began = time.monotonic()
    with (root / "said").open("w") as said, redirect_stdout(said), redirect_stderr(said):
        for name in (name for name in vars(Stages) if not name.startswith("_")):
            getattr(stages, name)
    print(f"stages made in {time.monotonic() - began:.0f} s", flush=True)
    # two processes, each with its own share of the numbers and its own file
    files = [root / f"events_{i}.jsonl" for i in range(WORKERS)]
    pids = [_worker(i, files[i], args, stages, root, began) for i in range(WORKERS)]
    try:
        for pid in pids:
            os.waitpid(pid, 0)
    except KeyboardInterrupt:
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
    events = [json.loads(line) for file in files if file.exists() for line in file.read_text().splitlines()]
    return _tell(args, sorted(events, key=lambda event: event["event"]), time.monotonic() - began)


def _worker(index: int, file: Path, args: argparse.Namespace, stages: Stages, root: Path, began: float) -> int:
    """Fork a process that lets every second event happen until the time is up; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        happen, number = Happenings(stages, root / f"work_{index}", args.seed), index
        with file.open("w", buffering=1) as out:
            while time.monotonic() - began < 60 * args.minutes and (args.events is None or number < args.events):
                at = time.monotonic()
                content = happen(number).json() | {"seconds": round(time.monotonic() - at, 2)}
                out.write(json.dumps(content) + "\n")
                if content["verdict"] in (*FATAL, "harness"):
                    print(f"{number:5} {content['verdict']:9} {content['kind']}: {content['what']}", flush=True)
                number += WORKERS
    finally:
        sys.stdout.flush()
        os._exit(0)


def _tell(args: argparse.Namespace, events: list[dict[str, object]], seconds: float) -> int:
    counts: dict[str, Counter[str]] = {}
    for event in events:
        counts.setdefault(str(event["kind"]), Counter())[str(event["verdict"])] += 1
    totals = sum(counts.values(), Counter[str]())
    harms = [event for event in events if str(event["kind"]).split()[0] in ("kill", "damage", "together")]
    about = provenance("", "", args.seed)
    content = {
        **{name: about[name] for name in ("git_sha", "dirty", "host", "versions", "started", "seed")},
        "minutes": round(seconds / 60, 2),
        "num_events": len(events),
        "kills_and_damages": sum(event["verdict"] != "missed" for event in harms),
        "bad_inputs": sum(event["kind"] == "bad input" for event in events),
        "totals": dict(totals.most_common()),
        "counts": {kind: dict(found.most_common()) for kind, found in sorted(counts.items())},
        "repeat": f"PYTHONPATH=.:tests python -m soak --seed {args.seed} --event NUMBER",
        "not_handled": [event for event in events if event["verdict"] not in ("handled", "missed")],
    }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(content, indent=1) + "\n")
    for kind, found in sorted(counts.items()):
        seconds_each = sum(float(str(e["seconds"])) for e in events if e["kind"] == kind) / found.total()
        print(f"{kind:20} {seconds_each:6.2f} s  " + ", ".join(f"{n} {verdict}" for verdict, n in found.most_common()))
    print(f"{content['kills_and_damages']} kills and damages, {content['bad_inputs']} bad inputs: {content['totals']}")
    return int(any(totals[verdict] for verdict in FATAL))


if __name__ == "__main__":
    sys.exit(main())
