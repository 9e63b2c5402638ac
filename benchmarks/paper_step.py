"""What do one real training step of DiT-B/4 and of DiT-XL/2 take on this machine, beside what was estimated?

    python benchmarks/paper_step.py --out benchmarks/results/paper_step.json

Each network trains in a process of its own: two steps of the preset's objective (guidance and derivative included) on
rows without content, in float32. Time is that of the second step, memory the process' largest resident set.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from dynamics.atomic import replacing
from dynamics.config import RunConfig, with_values
from dynamics.flow.condition import ClassLabels
from dynamics.models import build
from dynamics.planning.cost import cost
from dynamics.planning.estimate import forwards_per_row, memory
from dynamics.presets import preset
from dynamics.store import provenance
from dynamics.training import TrainingNetwork, draw, start, train_step

SETTINGS = {"b4": ("b4-improved", 8, 0.25), "xl2": ("xl2-improved", 1, 1.0)}
"""Preset, rows, and share of r < t rows: one row alone has r < t, so that the derivative is there."""
SHAPE, LABELS = (4, 32, 32), ClassLabels(1000)


class Noise:
    """Latents without content: what a step takes does not depend on it."""

    shape, condition, drawn_by_rank = SHAPE, LABELS, False

    def batch(self, seed: int, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        stream = torch.Generator().manual_seed(step)
        x = torch.randn(batch_size, *SHAPE, generator=stream)
        return x, torch.randint(LABELS.num_classes, (batch_size,), generator=stream)


def config_of(setting: str, threads: int) -> RunConfig:
    name, rows, share = SETTINGS[setting]
    changes = {
        "training.batch_size": rows,
        "training.precision": "float32",
        "training.compile": False,
        "training.num_threads": threads,
        "training.device": "cpu",
        "times.gap_share": share,
    }
    return with_values(preset(name), changes)


def resident_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measure(setting: str, threads: int) -> dict[str, float]:
    """Train two steps and return what the second took, with the estimate of the same config."""
    config = config_of(setting, threads)
    torch.set_num_threads(threads)
    before = resident_gb()
    recipe, training = config.recipe(Noise()), config.training
    state = start(build(config.model, SHAPE, recipe.condition, config.seed), training, config.curricula)
    net, seconds, losses = TrainingNetwork(state, training), [], []
    for step in range(2):
        plan = recipe.plan(step, state.curricula)
        rows = draw(recipe, plan, step)
        began = time.perf_counter()
        record = train_step(state, net, recipe, plan, rows)
        seconds.append(time.perf_counter() - began)
        losses.append(record.loss)
    estimated = memory(config)
    flops = 2e9 * cost(config.model, SHAPE, LABELS).forward_gflops * forwards_per_row(config) * training.batch_size
    measured_gb = resident_gb()
    return {
        "rows": training.batch_size,
        "gap_share": config.times.gap_share,
        "step_seconds": seconds[1],
        "first_step_seconds": seconds[0],
        "losses": losses,
        "flops": flops,
        "gflops_per_second": flops / seconds[1] / 1e9,
        "before_gb": before,
        "measured_gb": measured_gb,
        "estimated_gb": before + estimated.peak,
        "estimated_over_measured": (before + estimated.peak) / measured_gb,
        "parts_gb": estimated.model_dump(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/paper_step.json"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=SETTINGS, help="measure this one here and print it")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.only, args.threads)))
        return
    found = {}
    for setting in SETTINGS:
        command = [sys.executable, __file__, "--only", setting, "--threads", str(args.threads)]
        found[setting] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(setting, {k: v for k, v in found[setting].items() if k != "parts_gb"}, flush=True)
    origin = provenance(json.dumps({"settings": SETTINGS, "threads": args.threads}), "paper_step", 0)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(args.out) as temporary:
        temporary.write_text(json.dumps({"settings": found, "provenance": origin}, indent=1) + "\n")


if __name__ == "__main__":
    main()
