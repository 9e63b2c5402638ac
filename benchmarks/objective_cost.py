"""What does one training step of each objective cost, as a ratio to a flow-matching step, and how far is its floor?

    python benchmarks/objective_cost.py --out benchmarks/results/objective_cost.json

Loss and backward, no optimiser; unguided, each with the laws of times and the share of r < t rows of its preset. All
run interleaved in one process, in an order that a fixed seed shuffles anew in every round; times are CPU times of one
thread. The floor is counted in forward passes a row, three of them a flow-matching step: what the objective says of
itself, of which the tests prove that it is what is asked of the network. AlphaFlow and SoFlow are timed where alpha
moves, and AlphaFlow at its end.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch
from step_cost import MODELS, network_and_images, provenance, time_rounds

from dynamics.flow.progress import Progress
from dynamics.flow.rows import Rows, draw_rows
from dynamics.flow.times import TimesOptions
from dynamics.models import Network
from dynamics.objectives import (
    TEMF,
    TVM,
    AlphaFlow,
    Annealed,
    FlowMatching,
    IMeanFlow,
    MeanFlow,
    Objective,
    Shortcut,
    SoFlow,
    SplitMeanFlow,
)
from dynamics.presets import preset

MOVING = Annealed(path="constant", first=0.1)
OBJECTIVES: dict[str, tuple[str, Objective]] = {
    "flow_matching": ("flow-matching", FlowMatching()),
    "meanflow": ("meanflow", MeanFlow()),
    "alphaflow": ("alphaflow", AlphaFlow(alpha=MOVING)),
    "alphaflow, at its end": ("alphaflow", AlphaFlow(alpha=Annealed(path="constant", first=0.0))),
    "imf": ("imf", IMeanFlow()),
    "soflow": ("soflow", SoFlow(alpha=MOVING)),
    "shortcut": ("shortcut", Shortcut(teacher="model")),
    "split": ("split", SplitMeanFlow()),
    "tvm": ("tvm", TVM(teacher="model")),
    "temf": ("temf", TEMF()),
}
"""Preset whose times it takes, and the objective; DMF's step is MeanFlow's with half of the rows at r < t."""


class Steps:
    """One network, and for each objective a batch of its own rows."""

    def __init__(self, name: str, seed: int) -> None:
        self.model, labels, x, y = network_and_images(name, seed)
        self.rows, self.floors = dict[str, Rows](), dict[str, float]()
        for key, (source, objective) in OBJECTIVES.items():
            times: TimesOptions = preset(f"digits-{source}").times
            laws, num_gap = (times.equal_law or times.law, times.law), round(times.gap_share * len(x))
            rows = draw_rows(x, y, labels, equal_law=laws[0], gap_law=laws[1], num_gap=num_gap, seed=seed, tag="bench")
            self.rows[key] = objective.prepare(rows, seed, 0)
            self.floors[key] = objective.forwards_per_row(num_gap / len(x)) / 3

    def step(self, key: str) -> None:
        self.model.zero_grad(set_to_none=True)
        terms = OBJECTIVES[key][1].loss(Network(self.model), self.rows[key], Progress(1, 2))
        loss = (terms.adaptive * terms.raw).mean()
        loss.backward()
        assert bool(loss.isfinite()), f"{key}: loss is {float(loss)}"


def measure(name: str, rounds: int, seed: int) -> dict[str, object]:
    steps = Steps(name, seed)
    seconds = time_rounds(steps.step, list(OBJECTIVES), rounds, seed)
    found: dict[str, object] = {}
    for key, own in seconds.items():
        ratios = [a / b for a, b in zip(own, seconds["flow_matching"], strict=True)]
        ratio, floor = statistics.median(own) / statistics.median(seconds["flow_matching"]), steps.floors[key]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        found[key] = {
            **{"cpu_seconds": own, "ratio": ratio, "ratio_quartiles": [low, high]},
            **{"floor": floor, "above_floor": ratio / floor - 1},
        }
        print(f"{name:8}{key:24}{floor:7.2f}{ratio:7.2f}  [{low:.2f}, {high:.2f}]{ratio / floor - 1:+8.0%}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["small", "digits"])
    parser.add_argument("--rounds", type=int, default=11, help="measured rounds (one more warms up)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error("--rounds: at least 2, quartiles need them (7 or more for numbers worth quoting)")
    torch.set_num_threads(1)
    print(f"{'':32}{'floor':>7}{'ratio':>7}  quartiles     above floor")
    results = {name: measure(name, args.rounds, args.seed) for name in args.models}
    if args.out:
        about = {key: value for key, value in provenance(args).items() if key != "gap_share"}
        args.out.write_text(json.dumps({**about, "models": results}, indent=1) + "\n")
        print(f"\nwrote {args.out}")


if __name__ == "__main__":
    main()
