"""How exactly are averages of other lengths rebuilt from snapshots?

    python benchmarks/average_lengths_error.py --out benchmarks/results/average_lengths_error.json

Trains a small network on digits with snapshots of two averages along power functions, adds the weights of every step up
to the true averages of other lengths in double precision, and reports the norm of the difference over that of the true
average; None where the snapshots do not carry a length.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

from dynamics.config import RunConfig
from dynamics.models import MLPOptions, build
from dynamics.store import provenance
from dynamics.training import Checkpoints, Snapshots, TrainingOptions, TrainState, fit, loop, start
from dynamics.training.power_averages import gamma_of

LENGTHS = (0.03, 0.04, 0.05, 0.06, 0.07, 0.085, 0.1, 0.12, 0.15, 0.2)


def course(state: TrainState) -> torch.Tensor:
    return torch.cat([p.detach().double().flatten() for p in state.model.parameters()])


def errors(config: RunConfig) -> dict[str, float | None]:
    """Train, and return the relative error of each length."""
    options = config.training
    recipe = config.recipe()
    model = build(config.model, recipe.data.shape, recipe.condition, config.seed)
    state, total = start(model, options, ()), options.num_steps
    true = {length: torch.zeros(sum(p.numel() for p in model.parameters())).double() for length in LENGTHS}
    one_step = loop.train_step

    def adding(state: TrainState, *rest: object) -> object:
        record = one_step(state, *rest)  # type: ignore[arg-type]
        weights = course(state)
        for length, average in true.items():
            power = gamma_of(length) + 1
            average += ((state.step / total) ** power - ((state.step - 1) / total) ** power) * weights
        return record

    out: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        snapshots = Snapshots(Path(folder) / "snapshots")
        loop.train_step = adding  # type: ignore[assignment]
        fit(state, recipe, Checkpoints(Path(folder) / "checkpoints"), snapshots=snapshots)
        loop.train_step = one_step
        for length, average in true.items():
            try:
                found = snapshots.rebuilt_weights(length)[1]
            except ValueError:
                out[str(length)] = None
                continue
            flat = torch.cat([found[name].double().flatten() for name, _ in model.named_parameters()])
            out[str(length)] = float((flat - average).norm() / average.norm())
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/average_lengths_error.json"))
    args = parser.parse_args()
    content: dict[str, object] = {}
    for count, precision in ((8, "float32"), (16, "float32"), (32, "float32"), (16, "float16")):
        about = {"num_steps": args.steps, "checkpoint_every": args.steps, "batch_size": 32, "num_threads": 1}
        about |= {
            "ema_lengths": (0.05, 0.1),
            "snapshot_every": -(-args.steps // count),
            "snapshot_precision": precision,
        }
        training = TrainingOptions.model_validate(about)
        config = RunConfig(model=MLPOptions(dim=32, depth=2), training=training, observers=())
        found = content[f"{count} snapshots, {precision}"] = errors(config)
        print(count, precision, {k: v and float(f"{v:.1e}") for k, v in found.items()}, flush=True)
    args.out.write_text(json.dumps({**content, **provenance(config.to_json(), config.run_id, config.seed)}, indent=1))


if __name__ == "__main__":
    main()
