"""How much does what a run is worth hang on the length of its average?

    python benchmarks/ema_length_curves.py --out benchmarks/results/ema_length_curves.json

Trains MeanFlow and MinSNR + beta on the mixture with a few seeds, rebuilds averages of several lengths from each run's
snapshots, and keeps the rows of `dynamics.analysis.by_ema_length`, which the gallery draws. The same command again
resumes.
"""

import argparse
import json
from pathlib import Path

from dynamics.analysis import by_ema_length
from dynamics.config import RunConfig, with_values
from dynamics.curricula import Beta, MinSNR
from dynamics.evaluation import EvaluationOptions
from dynamics.presets import baseline
from dynamics.runner import evaluate_run, run
from dynamics.store import collect, provenance

ARMS = {"vanilla": {}, "minsnr + beta": {"curricula": (MinSNR(), Beta())}}
LENGTHS = (0.03, 0.05, 0.08, 0.12, 0.16, 0.2)
METRICS = ["one_step_error", "fd_u_nfe1"]


def config(arm: str, seed: int) -> RunConfig:
    changes = {"training.ema_lengths": (0.05, 0.1), "observers": (), "seed": seed}
    return with_values(baseline("digits"), {**ARMS[arm], **changes})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("results/ema_length_curves"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ema_length_curves.json"))
    args = parser.parse_args()
    cells = [(arm, seed) for arm in ARMS for seed in range(args.seeds)]
    for arm, seed in cells:
        folder = run(config(arm, seed), args.runs / f"{arm} {seed}", progress=False)
        for length in LENGTHS:
            evaluate_run(folder, EvaluationOptions(nfe=(1,), ema_length=length), progress=False)
    knobs = {"arm": [arm for arm, _ in cells], "seed": [seed for _, seed in cells]}
    tree = collect([args.runs / f"{arm} {seed}" / "run.nc" for arm, seed in cells], knobs)
    rows = by_ema_length(tree, ["arm", "seed"], METRICS)
    first = config(*cells[0])
    about = provenance(first.to_json(), first.run_id, first.seed)
    args.out.write_text(json.dumps({"rows": rows.to_dict("records"), **about}, indent=1))


if __name__ == "__main__":
    main()
