"""What does a gradient Gram cost, as a ratio to ordinary forward and backward passes over the same rows?

    python benchmarks/gram_cost.py --out benchmarks/results/gram_cost.json
    python benchmarks/gram_cost.py --memory --out benchmarks/results/gram_memory.json

Six tasks (v and five gap bins) on eight splits. "Ordinary" is the objective's loss and backward pass of the same rows
in batches of 128, du/dt included, the gradient thrown away. All schemes of a network run interleaved in one process,
times are CPU times; peak memory is measured in a fresh process per scheme, above that of a process that only holds the
network. On DiT-B/4, where 48 exact gradients would need 25 GB, the sketch is compared with exact gradients of two
splits.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dynamics.flow.condition import ClassLabels
from dynamics.flow.progress import Progress
from dynamics.flow.rows import Rows, chained
from dynamics.flow.times import LogitNormalPair, TimesOptions
from dynamics.instruments.gram import GramOptions, GramProbe, Group, collect, products
from dynamics.instruments.row_gram import RowGramOptions
from dynamics.instruments.tasks import task_rows
from dynamics.models import DiTOptions, Network, build
from dynamics.models.dit import SIZES
from dynamics.objectives import MeanFlow
from dynamics.record import peak_memory_mb
from dynamics.rng import generator
from dynamics.store import provenance
from dynamics.training import Recipe, TrainingOptions, TrainState

GAP_EDGES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
TIMES, OBJECTIVE = TimesOptions(law=LogitNormalPair()), MeanFlow()
BATCH = 128


@dataclass(frozen=True)
class Noise:
    """Images without content: the cost does not depend on it."""

    shape: tuple[int, int, int]
    condition: ClassLabels

    def batch(self, seed: int, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        stream = generator(seed, "noise", step)
        x = torch.randn(batch_size, *self.shape, generator=stream)
        return x, torch.randint(self.condition.num_classes, (batch_size,), generator=stream)


@dataclass(frozen=True)
class Setting:
    network: DiTOptions
    data: Noise
    rows_per_split: int
    rows_per_pass: int
    threads: int
    schemes: tuple[str, ...]


SETTINGS = {
    "digits": Setting(
        DiTOptions(patch_size=2, dim=64, depth=4, heads=4),
        Noise((1, 8, 8), ClassLabels(10)),
        rows_per_split=32,
        rows_per_pass=128,
        threads=1,
        schemes=("ordinary", "exact", "sketch", "loop"),
    ),
    "b4": Setting(
        SIZES["B/4"],
        Noise((4, 32, 32), ClassLabels(1000)),
        rows_per_split=4,
        rows_per_pass=8,
        threads=2,
        schemes=("ordinary", "sketch"),
    ),
}


class Bench:
    """One network and the rows of all tasks and splits."""

    def __init__(self, name: str, seed: int) -> None:
        s = self.setting = SETTINGS[name]
        torch.set_num_threads(s.threads)
        self.recipe = Recipe(s.data, OBJECTIVE, TIMES, (), TrainingOptions(), seed)
        model = build(s.network, s.data.shape, s.data.condition, seed)
        stream = generator(seed, "perturbation")
        with torch.no_grad():  # zero-initialised layers would make most gradients zero
            for p in model.parameters():
                p.add_(0.02 * torch.randn(p.shape, generator=stream))
        # without averages of the weights, which are no part of what is measured
        self.state = TrainState(model, torch.optim.AdamW(model.parameters()), {})
        probe = self.probe(s.rows_per_split)
        self.cells = [
            task_rows(task, split, probe.options, self.recipe)
            for task in probe.tasks
            for split in range(probe.options.num_splits)
        ]
        self.rows = chained(self.cells)

    def probe(self, rows_per_split: int, **changes: object) -> GramProbe:
        options = {"gap_edges": GAP_EDGES, "rows_per_split": rows_per_split, **changes}
        return GramOptions.model_validate(options).observer(self.recipe)

    def backward(self, rows: Rows) -> None:
        model = self.state.model
        model.zero_grad(set_to_none=True)
        terms = OBJECTIVE.loss(Network(model), rows, Progress(0, 1))
        (terms.adaptive * terms.raw).mean().backward()

    def ordinary(self) -> None:
        for first in range(0, len(self.rows), BATCH):
            self.backward(self.rows.part(first, min(first + BATCH, len(self.rows))))

    def loop(self) -> None:
        """One pass per task and split, gradients kept."""
        kept = []
        for rows in self.cells:
            self.backward(rows)
            kept.append(torch.cat([p.grad.flatten() for p in self.state.model.parameters()]))
        table = torch.stack(kept)
        table @ table.T
        self.state.model.zero_grad(set_to_none=True)

    def gram(self, backend: str) -> None:
        s = self.setting
        self.state.model.zero_grad(set_to_none=True)
        self.probe(s.rows_per_split, backend=backend, rows_per_pass=s.rows_per_pass).measure(self.state)

    def scheme(self, name: str) -> Callable[[], None]:
        named = {"ordinary": self.ordinary, "loop": self.loop, "nothing": lambda: None}
        return named.get(name) or partial(self.gram, name)


def interleaved(schemes: dict[str, Callable[[], None]], rounds: int, seed: int) -> dict[str, list[float]]:
    """Return CPU seconds of each scheme; a first round warms up."""
    order, seconds = random.Random(seed), {name: [] for name in schemes}
    for index in range(rounds + 1):
        for name in order.sample(list(schemes), len(schemes)):
            began = time.process_time()
            schemes[name]()
            if index:
                seconds[name].append(time.process_time() - began)
    return seconds


def report(seconds: dict[str, list[float]], base: str) -> dict[str, dict[str, float | list[float]]]:
    out = {}
    for name, values in seconds.items():
        ratios = sorted(a / b for a, b in zip(values, seconds[base], strict=True))
        out[name] = {
            "cpu_seconds_median": statistics.median(values),
            "ratio": statistics.median(ratios),
            "ratio_range": [ratios[0], ratios[-1]],
        }
        print(f"  {name:10} {out[name]['cpu_seconds_median']:8.2f} s   ratio {out[name]['ratio']:.2f}", flush=True)
    return out


def peak_mb(setting: str, scheme: str, seed: int) -> float:
    command = [sys.executable, __file__, "--peak-of", scheme, "--settings", setting, "--seed", str(seed)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def per_row(bench: Bench, rounds: int, num_rows: int = 192) -> dict[str, object]:
    """The Gram of single rows against one ordinary pass over them."""
    probe = RowGramOptions(num_rows=num_rows, groups="model").observer(bench.recipe)
    rows = probe.rows()
    schemes = {"ordinary": lambda: bench.backward(rows), "per_row": lambda: probe.measure(bench.state)}
    print(f"  single rows, {num_rows}:")
    return {"num_rows": num_rows, **report(interleaved(schemes, rounds, 0), "ordinary")}


def agreement(bench: Bench, num_splits: int) -> dict[str, object]:
    """Deviation of the sketch from exact gradients of the same rows, in units of its stated standard error."""
    s = bench.setting
    exact, sketch = (
        bench.probe(s.rows_per_split, num_splits=num_splits, backend=backend, rows_per_pass=s.rows_per_pass)
        for backend in ("exact", "sketch")
    )
    groups = [Group(task_rows(task, k, exact.options, bench.recipe)) for task in exact.tasks for k in range(num_splits)]

    def product(probe: GramProbe) -> tuple[np.ndarray, np.ndarray]:
        collected, _ = collect(bench.state, groups, bench.recipe, probe.options)
        labels, gram, error = products(collected, "block", len(probe.tasks))
        table = gram.reshape(len(labels), len(probe.tasks), num_splits, len(probe.tasks), num_splits)
        total = table.sum((2, 4)) - np.einsum("giaja->gij", table)
        return total / (num_splits * (num_splits - 1)), error

    (true, _), (estimate, error) = product(exact), product(sketch)
    known = error > 0
    score = ((estimate - true)[known] / error[known]).ravel()
    whole = np.sqrt(np.einsum("ii->i", true[0]))
    cosine_error = float((np.abs(estimate - true)[0] / np.outer(whole, whole)).max())
    out = {
        "num_splits": num_splits,
        "products": int(score.size),
        "root_mean_square_score": float(np.sqrt(np.mean(score**2))),
        "largest_score": float(np.abs(score).max()),
        "largest_deviation_of_a_cosine": cosine_error,
        "sketch_size": sketch.options.sketch_size,
    }
    print(f"  sketch against exact: {out}", flush=True)
    return out


def measure(name: str, rounds: int, seed: int) -> dict[str, object]:
    bench, s = Bench(name, seed), SETTINGS[name]
    parameters = sum(p.numel() for p in bench.state.model.parameters())
    print(f"{name}: {parameters:,} parameters, {len(bench.rows)} rows", flush=True)
    schemes = report(interleaved({n: bench.scheme(n) for n in s.schemes}, rounds, seed), "ordinary")
    out: dict[str, object] = {
        "parameters": parameters,
        "tasks": len(GAP_EDGES),
        "splits": GramOptions().num_splits,
        "rows_per_split": s.rows_per_split,
        "rows_per_pass": s.rows_per_pass,
        "threads": s.threads,
        "schemes": schemes,
        "agreement": agreement(bench, 8 if name == "digits" else 2),
    }
    if name == "digits":
        out["single_rows"] = per_row(bench, rounds)
    return out


def memory(name: str, seed: int) -> dict[str, object]:
    """Peak resident memory of each scheme, above that of a process which holds the network and nothing else."""
    s, base = SETTINGS[name], peak_mb(name, "nothing", seed)
    above = {scheme: peak_mb(name, scheme, seed) - base for scheme in s.schemes}
    print(f"{name}: network alone {base:.0f} MB; above it {above}", flush=True)
    parameters = sum(p.numel() for p in Bench(name, seed).state.model.parameters())
    return {
        "peak_mb_of_network_alone": base,
        "peak_mb_above": above,
        "gradient_mb": parameters * 4 / 1e6,
        "rows_per_pass": s.rows_per_pass,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds of digits (b4: 1); one more warms up")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead of time")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak_of:
        bench = Bench(args.settings[0], args.seed)
        bench.scheme(args.peak_of)()
        print(peak_memory_mb())
        return
    if args.memory:
        results = {name: memory(name, args.seed) for name in args.settings}
    else:
        results = {name: measure(name, args.rounds if name == "digits" else 1, args.seed) for name in args.settings}
    if args.out:
        origin = provenance(json.dumps({"rounds": args.rounds, "gap_edges": GAP_EDGES}), "gram_cost", args.seed)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({**origin, "settings": results}, indent=1) + "\n")
        print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
