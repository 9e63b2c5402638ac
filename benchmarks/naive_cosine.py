"""How far does the naive cosine of task gradients mislead, and is the unbiased one free of the batch size?

    python benchmarks/naive_cosine.py --out results/naive_cosine

Trains `digits-meanflow` (again the same command resumes, a finished run is reused) and measures its last checkpoint:
* one Gram of 64 splits of 16 rows, with rows shared between tasks and with independent ones, from which the naive and
  the unbiased cosine follow for batches of 16 to 1024 rows (run.nc, figures);
* as a check that does not reuse rows, a fresh Gram of 8 splits for each of several batch sizes (summary.json): the
  naive cosines differ between them, the unbiased ones agree within their standard errors (chi-square).
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from scipy import stats

from dynamics.analysis import affinity, cosine_by_batch, noise_scale, plots
from dynamics.instruments import GramOptions
from dynamics.presets import preset
from dynamics.runner import RunFolder, run
from dynamics.runner.measure.finished_run import restored
from dynamics.store import provenance, write_run
from dynamics.training import threads_for

PAIR = ("v", "u 0.1-0.3")
SIZES = (16, 64, 256)


def gram(folder: RunFolder, seed: int, **changes: object) -> xr.Dataset:
    config = folder.read_config()
    options = GramOptions.model_validate({"groups": "model", **changes})
    recipe = replace(config.recipe(), seed=seed)
    return options.observer(recipe, progress=True).measure(restored(config, folder))


def fresh(folder: RunFolder) -> dict[str, object]:
    """Measure each batch size on rows of its own and compare what the estimators say."""
    rows = []
    for i, n in enumerate(SIZES):
        found = affinity(gram(folder, seed=100 + i, num_splits=8, rows_per_split=n)).sel(group="model")
        for j, task in enumerate(found.task.values):
            for task2 in found.task.values[:j]:
                pair = found.sel(task=task, task2=task2)
                values = {k: float(pair[k]) for k in ("cosine", "cosine_sem", "naive_cosine", "naive_independent")}
                rows.append({"task": str(task), "task2": str(task2), "batch_size": n, **values})
    out = {}
    for task, task2 in dict.fromkeys((row["task"], row["task2"]) for row in rows):
        mine = [row for row in rows if (row["task"], row["task2"]) == (task, task2)]
        cosine, sem = (np.array([row[k] for row in mine]) for k in ("cosine", "cosine_sem"))
        mean = np.average(cosine, weights=sem**-2)
        chi_square = float((((cosine - mean) / sem) ** 2).sum())
        out[f"{task2} and {task}"] = {
            "batch_size": list(SIZES),
            **{k: [row[k] for row in mine] for k in ("cosine", "cosine_sem", "naive_cosine", "naive_independent")},
            "pooled_cosine": float(mean),
            "p_value_of_equal_cosines": float(stats.chi2.sf(chi_square, len(SIZES) - 1)),
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/naive_cosine"))
    parser.add_argument("--run", type=Path, help="folder of the trained run; made if missing (default: OUT/train)")
    args = parser.parse_args()
    config = preset("digits-meanflow")
    folder = RunFolder(args.run or args.out / "train")
    if not folder.result.exists():
        run(config, folder.path)
    config = folder.read_config()
    torch.set_num_threads(threads_for(config.training))
    groups = {
        "gram": gram(folder, 0, num_splits=64, rows_per_split=16),
        "gram_independent": gram(folder, 0, num_splits=64, rows_per_split=16, rows="independent"),
    }
    origin = provenance(config.to_json(), config.run_id, config.seed)
    # one step, the trained network's: the same shape as a run's own series
    step = {"step": [config.training.num_steps]}
    groups = {name: ds.expand_dims(step) for name, ds in groups.items()}
    for ds in groups.values():
        ds.step.attrs = {"units": "step", "long_name": "optimizer step"}
    write_run(args.out / "run.nc", groups, origin)
    aff = affinity(groups["gram"])
    plots.save(plots.affinity_heatmap(aff), args.out / "affinity")
    plots.save(plots.noise_scale_by_gap(noise_scale(groups["gram"])), args.out / "noise_scale")
    for name, rows in (("gram", "shared"), ("gram_independent", "independent")):
        curve = cosine_by_batch(groups[name], *PAIR)
        plots.save(plots.cosine_by_batch_size(curve), args.out / f"cosine_by_batch_{rows}")
    summary = {**origin, "fresh": fresh(folder), "noise_scale": _noise(groups["gram"])}
    (args.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary["fresh"], indent=1))


def _noise(ds: xr.Dataset) -> dict[str, float]:
    found = noise_scale(ds).isel(step=-1).sel(group="model")
    return {str(task): float(found.noise_scale.sel(task=task)) for task in found.task.values}


if __name__ == "__main__":
    main()
