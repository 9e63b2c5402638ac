"""What share of the CPU time of training do observers take, at their default intervals?

    python benchmarks/observation_cost.py --out benchmarks/results/observation_cost.json

Trains `digits-meanflow` on one thread. Each round times some training steps and then one measurement of each observer,
so that all see the same conditions; shares are medians over rounds of (measurement / its interval) / step. The sums
over training rows (cells) are part of every step and are timed by themselves.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from dynamics.instruments import (
    CellsOptions,
    DecompositionOptions,
    GapsOptions,
    GramOptions,
    LookaheadOptions,
    RowGramOptions,
)
from dynamics.models import build
from dynamics.presets import preset
from dynamics.record import RowTable, add, no_rows
from dynamics.store import provenance
from dynamics.training import TrainingNetwork, draw, start, train_step

KINDS = (CellsOptions, GapsOptions, GramOptions, LookaheadOptions, RowGramOptions, DecompositionOptions)


def cells_seconds(num_rows: int, repeats: int = 300) -> float:
    """CPU time of adding one step's rows to the cells."""
    stream = torch.Generator().manual_seed(0)
    t, gap, *columns = torch.rand(7, num_rows, generator=stream, dtype=torch.float64)
    table, sums = RowTable(torch.arange(num_rows) < num_rows // 2, t, gap * t, *columns), no_rows()
    began = time.process_time()
    for _ in range(repeats):
        add(sums, table)
    return (time.process_time() - began) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=60, help="training steps of a round")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = preset("digits-meanflow")
    recipe, options = config.recipe(), config.training
    model = build(config.model, recipe.data.shape, recipe.condition, config.seed)
    state = start(model, options, config.curricula)
    net = TrainingNetwork(state, options)
    observers = {o().kind: o().observer(recipe) for o in KINDS}
    steps: list[float] = []
    seconds: dict[str, list[float]] = {kind: [] for kind in observers}
    first = {}
    for index in range(args.rounds + 1):
        began = time.process_time()
        for _ in range(args.steps):
            plan = recipe.plan(state.step, state.curricula)
            train_step(state, net, recipe, plan, draw(recipe, plan, state.step))
        per_step = (time.process_time() - began) / args.steps
        for kind, one in observers.items():
            began = time.process_time()
            one.measure(state)
            taken = time.process_time() - began
            if index == 0:
                first[kind] = taken
            else:
                seconds[kind].append(taken)
        if index:
            steps.append(per_step)
    every = {o().kind: o().every for o in KINDS}
    shares = {
        kind: statistics.median(s / every[kind] / step for s, step in zip(values, steps, strict=True))
        for kind, values in seconds.items()
    }
    of_cells = cells_seconds(options.batch_size)
    shares["sums of cells"] = of_cells / statistics.median(steps)
    combined = {
        "losses of every step and a Gram every 500": shares["sums of cells"] + shares["cells"] + shares["gram"],
        "default observers of a preset": shares["sums of cells"] + shares["cells"] + shares["gaps"],
    }
    for name, share in {**shares, **combined}.items():
        print(f"{name:45} {share:7.2%}")
    result = {
        **provenance(config.to_json(), config.run_id, config.seed),
        "threads": 1,
        "step_seconds": statistics.median(steps),
        "measurement_seconds": {kind: statistics.median(values) for kind, values in seconds.items()},
        "first_measurement_seconds": first,
        "every": every,
        "share_of_training": shares,
        "combined_share": combined,
    }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
