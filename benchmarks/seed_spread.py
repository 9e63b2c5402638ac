"""How much do the demo's numbers vary over seeds alone?

    python benchmarks/seed_spread.py --out benchmarks/results/seed_spread.json

Trains one preset with several seeds (everything differs: initialisation, data order, times, noise), evaluates each run
with the same evaluation seed, and reports every metric's values and its spread (largest - smallest) / mean. The same
command again resumes. `dynamics.analysis.metric` takes its yardstick from here.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from dynamics.analysis import metric, metric_columns, summary
from dynamics.evaluation import EvaluationOptions
from dynamics.presets import preset
from dynamics.runner import evaluate_run, evaluated, run
from dynamics.store import collect, provenance


def train(name: str, seed: int, folder: Path) -> Path:
    config = preset(name)
    training = config.training.model_copy(update={"num_threads": 1})
    out = run(config.model_copy(update={"seed": seed, "training": training}), folder / f"{name}-{seed}", progress=False)
    if not evaluated(out):
        evaluate_run(out, EvaluationOptions(), progress=False)
    return out / "run.nc"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="digits-meanflow")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--runs", type=Path, default=Path("results/seed_spread"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/seed_spread.json"))
    args = parser.parse_args()
    count = len(args.seeds)
    with ProcessPoolExecutor(args.processes) as pool:
        files = list(pool.map(train, [args.preset] * count, args.seeds, [args.runs] * count))
    table = summary(collect(files))
    metrics = {}
    for name in metric_columns(table):
        if not metric(name).by_protocol:
            continue
        values = [float(v) for v in table[name]]
        metrics[name] = {"values": values, "spread": (max(values) - min(values)) / (sum(values) / count)}
        print(f"{name:24} spread {metrics[name]['spread']:6.1%}  " + " ".join(f"{v:.4g}" for v in values))
    config = preset(args.preset)
    origin = provenance(config.to_json(), config.run_id, args.seeds[0])
    content = {"preset": args.preset, "seeds": args.seeds, "metrics": metrics, **origin}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(content, indent=1))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
