"""Is a training step, a Gram, or what observers cost beside training dearer than at another revision?

    python benchmarks/against_revision.py 65a042e --out benchmarks/results/against_65a042e.json

Both versions do the same runs, whose configs are given as JSON, in processes of their own that take turns (old, new,
new, old, ...), on one thread. CPU time is compared: of a run without observers by the step; of a run with a Gram at
every step by the measurement, less its steps; of a run with its preset's observers by the step again, so that what
they cost is in it. The ratio is that of the medians over rounds, with the quartiles of the ratios of single rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from dynamics.config import RunConfig, with_values
from dynamics.instruments import GramOptions
from dynamics.presets import preset
from dynamics.store import provenance

ROOT = Path(__file__).parents[1]
CHILD = """
import json, sys, tempfile, time
import torch
torch.set_num_threads(1)
from dynamics.config import RunConfig
from dynamics.runner import run

def cpu(text):
    config = RunConfig.model_validate_json(text)
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        run(config, folder + "/run", progress=False)
        return time.process_time() - began

for text in json.load(sys.stdin):
    print(cpu(text), flush=True)
"""


def configs() -> dict[str, tuple[RunConfig, RunConfig]]:
    """Return, by what is measured, a short run and a longer one: their difference is free of what a start costs."""
    out = {}
    for name in ("digits-meanflow", "digits-improved", "mixture-meanflow"):
        config = with_values(preset(name), {"training.num_threads": 1, "training.checkpoint_every": 10**6})
        short, long = (with_values(config, {"training.num_steps": n, "observers": ()}) for n in (20, 140))
        out[f"step of {name}"] = (short, long)
        if name == "digits-meanflow":
            gram = (GramOptions(every=1),)
            few, many = (with_values(config, {"training.num_steps": n, "observers": gram}) for n in (2, 8))
            out["Gram and step"] = (few, many)
            few, many = (with_values(config, {"training.num_steps": n}) for n in (20, 270))
            out["step beside the preset's observers"] = (few, many)
    return out


def measured(code: Path, wanted: dict[str, tuple[RunConfig, RunConfig]]) -> dict[str, float]:
    """Return CPU seconds a step by what is measured, of the version whose code lies in a folder."""
    texts = [config.model_dump_json() for pair in wanted.values() for config in pair]
    environment = {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps([texts[0], *texts]), env=environment, cwd=code, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    seconds = [float(line) for line in done.stdout.split()[1:]]  # the very first run pays for what is loaded late
    pairs = zip(seconds[::2], seconds[1::2], wanted.items(), strict=True)
    return {
        what: (long - short) / (configs[1].training.num_steps - configs[0].training.num_steps)
        for short, long, (what, configs) in pairs
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="git revision to compare with")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    wanted, seconds = configs(), {"old": list[dict[str, float]](), "new": list[dict[str, float]]()}
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder) / "old"
        subprocess.run(["git", "worktree", "add", "--detach", str(old), args.revision], cwd=ROOT, check=True)
        try:
            for index in range(args.rounds):
                for which in ("old", "new") if index % 2 else ("new", "old"):
                    seconds[which].append(measured(old if which == "old" else ROOT, wanted))
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(old)], cwd=ROOT, check=True)
    result: dict[str, object] = {**provenance("", "", 0), "old_revision": args.revision, "rounds": args.rounds}
    print(f"{'CPU time of a step, new / old':40} ratio  (quartiles of rounds)    old ms    new ms")
    for what in wanted:
        a, b = ([one[what] for one in seconds[which]] for which in ("old", "new"))
        ratios = [y / x for x, y in zip(a, b, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        medians = statistics.median(a), statistics.median(b)
        result[what] = {"ratio": medians[1] / medians[0], "quartiles": [low, high], "old": a, "new": b}
        print(
            f"{what:40} {medians[1] / medians[0]:5.3f}  ({low:.3f} to {high:.3f})"
            f"          {medians[0] * 1e3:8.2f}  {medians[1] * 1e3:8.2f}"
        )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
