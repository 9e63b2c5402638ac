"""Runs: a config goes in, a run folder comes out. The only thing experiments call."""

import json
import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Never

import torch
import xarray as xr
from tqdm import tqdm

from dynamics.atomic import locked, replacing
from dynamics.config import RunConfig
from dynamics.data import load
from dynamics.evaluation.evaluate import EvaluationOptions, evaluate, reference_for
from dynamics.flow.path import Velocity
from dynamics.instruments import GapProbe, GapsOptions, observer
from dynamics.models import Model, build
from dynamics.options import invalid
from dynamics.store import RunLog, measurement_datasets, provenance, read_run, training_dataset, update_run, write_run
from dynamics.training import (
    GAP_BINS,
    UNITS,
    Checkpoints,
    NonFiniteLossError,
    StepRecord,
    TrainingOptions,
    bound,
    fit,
    peak_memory_mb,
    start,
)

GAP_COORDINATE = {"gap_count": ("gap_bin", [(i + 0.5) / GAP_BINS for i in range(GAP_BINS)])}


@dataclass(frozen=True)
class RunFolder:
    """Names inside a run folder."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def result(self) -> Path:
        return self.path / "run.nc"

    def checkpoints(self, keep: int = 2) -> Checkpoints:
        """Return the run's checkpoints."""
        return Checkpoints(self.path / "checkpoints", keep)

    def read_config(self) -> RunConfig:
        """Read config.json.

        Raises:
            ValueError: there is none, or it is not a valid config.
        """
        if not self.config.is_file():
            raise invalid("run folder", str(self.path), "a folder with a config.json", "train a run there first")
        return RunConfig.model_validate_json(self.config.read_text())


def run(config: RunConfig, out: Path, progress: bool = True) -> Path:
    """Train a run to its end; the same call again resumes it, and does nothing when it is finished.

    Args:
        config: What to run.
        out: The run folder; made if missing. If it holds a run, that must be of the same config.
        progress: Show a bar with ETA, speed, raw losses and peak memory.

    Returns:
        The run folder, with run.nc (groups training and one per observer), config.json, checkpoints/ and log.jsonl.

    Raises:
        ValueError: the folder holds a run of another config, or the config does not fit the data.
        Interrupted: stopped by a signal; call again to continue.
        NonFiniteLossError: see nonfinite.json in the folder.
    """
    folder = RunFolder(Path(out))
    folder.path.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder.log, wait=False):
            _claim(folder, config)
            if not folder.result.exists():
                _train(folder, config, progress)
    except BlockingIOError:
        allowed = "a run that no other process is training"
        raise invalid("out", str(folder.path), allowed, "wait for it, or choose another --out") from None
    return folder.path


def _train(folder: RunFolder, config: RunConfig, progress: bool) -> None:
    """Train from the newest checkpoint to the end and write run.nc."""
    options = config.training
    torch.set_num_threads(options.num_threads)
    data = load(config.data)
    model = build(config.model, data.shape, data.num_classes, config.seed).to(device_for(options))
    state = start(model, options, config.curricula)
    checkpoints = folder.checkpoints(options.keep_checkpoints)
    origin = provenance(config.to_json(), config.run_id, config.seed)
    with RunLog(folder.log) as log:
        log.rewind(state.step if checkpoints.restore(state) else -1)
        if state.step < options.num_steps:
            observers = [observer(o, data, config.objective, config.times.law, config.seed) for o in config.observers]
            try:
                with _bar(state.step, options.num_steps, folder.path.name, progress) as bar:
                    fit(
                        state,
                        data,
                        config.objective,
                        config.times,
                        config.curricula,
                        options,
                        config.seed,
                        checkpoints,
                        observers,
                        on_step=lambda record: _on_step(log, bar, record),
                        on_measurement=lambda *measurement: _on_measurement(log, bar, *measurement),
                        before_checkpoint=log.sync,
                    )
            except NonFiniteLossError as error:
                _explain(folder, error)
                raise
        records = log.read()
    groups = {"training": training_dataset(records, UNITS, GAP_COORDINATE), **measurement_datasets(records)}
    measured = {
        "seconds": float(groups["training"]["step_seconds"].sum()),
        "peak_memory_mb": peak_memory_mb(),
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "device": str(device_for(options)),
    }
    write_run(folder.result, groups, {**origin, **measured})


def evaluate_run(
    run_dir: Path,
    options: EvaluationOptions,
    exact_rows: int = 128,
    checkpoint: int | None = None,
    weights: str = "ema",
    progress: bool = True,
) -> xr.Dataset:
    """Evaluate a run's network and put the group `evaluation` into its run.nc.

    Settings that are there already and are not measured anew stay, if seeds, sample count and checkpoint agree.

    Args:
        run_dir: The run folder.
        options: What to sample and measure.
        exact_rows: Rows per bin for the exact velocity errors.
        checkpoint: Step of the checkpoint; None takes the newest.
        weights: "model", "ema" or a decay.
        progress: Show a bar.
    """
    folder = RunFolder(Path(run_dir))
    config = folder.read_config()
    if not folder.result.is_file():
        remedy = f"dynamics train {folder.config} --out {folder.path}"
        raise invalid("run", str(folder.path), "a folder with a finished run (run.nc)", remedy)
    torch.set_num_threads(config.training.num_threads)
    data = load(config.data)
    u, step = load_network(folder.path, weights, checkpoint)
    device = device_for(config.training)
    measured = evaluate(u, reference_for(data), options, device, progress)
    exact = GapProbe(data, config.objective, GapsOptions(rows_per_bin=exact_rows), options.seed).errors(u, device)
    content = measured.merge(exact, combine_attrs="override").assign_attrs(checkpoint=step, weights=weights)
    content.attrs["exact_rows_per_bin"] = exact_rows
    before = read_run(folder.result)
    if "evaluation" in before.children:
        content = _join(before["evaluation"].to_dataset(), content)
    update_run(folder.result, "evaluation", content)
    return content


def load_network(run_dir: Path, weights: str = "ema", checkpoint: int | None = None) -> tuple[Velocity, int]:
    """Return u(z, t, r, y) of a run and the step of its checkpoint."""
    folder = RunFolder(Path(run_dir))
    config = folder.read_config()
    data = load(config.data)
    model: Model = build(config.model, data.shape, data.num_classes, config.seed)
    step, tensors = folder.checkpoints().weights(checkpoint, weights)
    device = device_for(config.training)
    u = bound(model.to(device), {name: tensor.to(device) for name, tensor in tensors.items()})
    return u, step


def device_for(options: TrainingOptions) -> torch.device:
    """Return where a run computes.

    Raises:
        ValueError: cuda is asked for and there is none.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        raise invalid("training.device", "cuda", "cpu or auto on this machine", "torch sees no GPU here")
    if options.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(options.device)


def _claim(folder: RunFolder, config: RunConfig) -> None:
    """Write config.json, or check that the one there is the same."""
    if folder.config.exists():
        there = folder.read_config()
        if there != config:
            different = ", ".join(_differences(there.model_dump(mode="json"), config.model_dump(mode="json")))
            remedy = "choose another --out, or repeat the command that began this run"
            raise invalid("config", different, f"the config of the run in {folder.path}", remedy)
        return
    if folder.result.exists() or folder.log.exists():
        raise invalid("out", str(folder.path), "an empty folder or one with a config.json", "choose another --out")
    with replacing(folder.config) as temporary:
        temporary.write_text(json.dumps(config.model_dump(mode="json"), indent=1))


def _differences(a: object, b: object, name: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(set(a) | set(b))
        return [d for k in keys for d in _differences(a.get(k), b.get(k), f"{name}.{k}".lstrip("."))]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in _differences(x, y, f"{name}.{i}")]
    return [] if a == b else [f"{name}: {a!r} there, {b!r} asked for"]


def _join(before: xr.Dataset, now: xr.Dataset) -> xr.Dataset:
    """Keep earlier settings beside the new ones where both come from the same weights and sampling protocol."""
    keys = ("checkpoint", "weights", "num_samples", "label_mode", "method", "evaluation_seed", "extractor_sha256")
    if any(before.attrs.get(key) != now.attrs.get(key) for key in keys):
        warnings.warn("the earlier evaluation used another protocol and is replaced", stacklevel=3)
        return now
    joined = now.combine_first(before)
    joined["samples"] = joined["samples"].fillna(0).astype("uint8")
    for name in joined.variables:
        joined[name].attrs = now[name].attrs
    return joined.assign_attrs(now.attrs)


def _on_step(log: RunLog, bar: "tqdm[Never]", record: StepRecord) -> None:
    log.append({"group": "training", **record.flat()})
    losses = {"v": record.raw_v, "u": record.raw_u}
    shown = {f"raw {k}": f"{x:.3g}" for k, x in losses.items() if not math.isnan(x)}
    bar.set_postfix({**shown, "peak MB": f"{peak_memory_mb():.0f}"}, refresh=False)
    bar.update()


def _on_measurement(log: RunLog, bar: "tqdm[Never]", group: str, step: int, dataset: xr.Dataset) -> None:
    log.append({"group": group, "step": step, "dataset": dataset})
    bar.unpause()  # the time of measuring is no part of the speed of training


def _bar(done: int, total: int, name: str, progress: bool) -> "tqdm[Never]":
    # a log file or a pipe gets a line now and then, a terminal a moving bar
    interval = 0.1 if os.isatty(2) else 10.0
    return tqdm(
        total=total,
        initial=done,
        desc=name,
        unit="step",
        disable=not progress,
        mininterval=interval,
        dynamic_ncols=True,
    )


def _explain(folder: RunFolder, error: NonFiniteLossError) -> None:
    with replacing(folder.path / "nonfinite.json") as temporary:
        content = {"step": error.step, "what": error.what, "rows": error.rows}
        temporary.write_text(json.dumps(content, indent=1))


def evaluated(run_dir: Path) -> bool:
    """Whether a finished run has been evaluated."""
    return "evaluation" in read_run(RunFolder(Path(run_dir)).result).children
