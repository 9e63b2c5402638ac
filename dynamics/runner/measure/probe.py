"""Measure a finished run's checkpoint with any instrument, into the run's own file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from dynamics.config import RunConfig
from dynamics.data import load
from dynamics.instruments import AnyOptions, observer, settings
from dynamics.instruments.parse import KINDS
from dynamics.models import build
from dynamics.options import invalid
from dynamics.runner.run_folder import RunFolder
from dynamics.store import add_step, read_run
from dynamics.training import TrainState, device_for, start


def probe(
    run_dir: Path,
    instruments: Sequence[AnyOptions],
    checkpoint: int | None = None,
    replace: bool = False,
    progress: bool = True,
) -> dict[str, xr.Dataset]:
    """Measure one checkpoint of a run; each measurement joins its group's series in run.nc, as that step.

    Args:
        run_dir: Folder of a finished run.
        instruments: Options of each instrument, at most one of a kind.
        checkpoint: Step of the checkpoint; None takes the newest.
        replace: Drop the earlier steps of a group that were measured with other settings.
        progress: Show bars.

    Returns:
        The new measurements by group.

    Raises:
        ValueError: Before anything is computed: no finished run, no such checkpoint or one of another model, gap bins
            that the run's law of times never draws, or a group measured with other settings.
    """
    folder = RunFolder(Path(run_dir))
    config = folder.finished_config()
    kinds = [options.kind for options in instruments]
    if not kinds or len(set(kinds)) < len(kinds) or "cells" in kinds:
        allowed = "any of gaps, gram, gram_rows, lookahead, decomposition, each once"
        raise invalid("instruments", kinds, allowed, "sums over training rows (cells) exist only while training")
    data, law = load(config.data), config.times.law
    torch.set_num_threads(config.training.num_threads)
    observers = {o.kind: observer(o, data, config.objective, law, config.seed, progress) for o in instruments}
    there = {name: child.attrs for name, child in read_run(folder.result).children.items()}
    other = {o.kind: text for o in instruments if (text := _differences(there.get(o.kind, {}), o))}
    if other and not replace:
        remedy = "measure as before, or --replace, which drops those (log.jsonl keeps a training series)"
        raise invalid("settings", other, f"those of the earlier measurements in {folder.result}", remedy)
    state = restored(config, folder, checkpoint)
    measured: dict[str, xr.Dataset] = {}
    for group, instrument in observers.items():
        measured[group] = instrument.measure(state)
        add_step(folder.result, group, measured[group], state.step, replace_group=group in other)
    return measured


def chosen(run_dir: Path, kinds: Sequence[str], changes: Mapping[str, Any]) -> list[AnyOptions]:
    """Return a run's own options of each kind of instrument (or the general ones), with changes where they apply.

    Args:
        run_dir: The run folder.
        kinds: Kinds of instruments.
        changes: Values by option name, for every kind that has the option. The bins of `gaps` reach from 0 to 1: its
            gap_edges are extended by what is missing.

    Raises:
        ValueError: An unknown kind, an option that none of the kinds has, or a value it does not take.
    """
    config = RunFolder(Path(run_dir)).read_config()
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise invalid("instruments", unknown, ", ".join(KINDS), "choose among these")
    unused = [name for name in changes if not any(name in KINDS[kind].model_fields for kind in kinds)]
    if unused:
        raise invalid("options", unused, f"options of {', '.join(kinds)}", "leave them out, or add their instrument")
    out = []
    for kind in kinds:
        own: AnyOptions = next((o for o in config.observers if o.kind == kind), None) or KINDS[kind]()
        values = {name: value for name, value in changes.items() if name in KINDS[kind].model_fields}
        if kind == "gaps" and "gap_edges" in values:
            values["gap_edges"] = tuple(sorted({0.0, *values["gap_edges"], 1.0}))
        out.append(type(own).model_validate({**dict(own), **values}))
    return out


def restored(config: RunConfig, folder: RunFolder, checkpoint: int | None = None) -> TrainState:
    """Return the training state of a run's checkpoint.

    Raises:
        ValueError: There is no such checkpoint, or it belongs to another model.
    """
    data = load(config.data)
    model = build(config.model, data.shape, data.num_classes, config.seed).to(device_for(config.training))
    state = start(model, config.training, config.curricula)
    if not folder.checkpoints().restore(state, checkpoint):
        raise invalid("run", str(folder.path), "a run with an intact checkpoint", "train it first")
    return state


def _differences(there: Mapping[Any, Any], options: AnyOptions) -> str:
    """Name the settings in which a stored group differs from what is asked for."""
    asked = settings(options)
    before = {name: np.asarray(there[name]).tolist() for name in asked if name in there}
    return ", ".join(f"{name} was {old}, now {asked[name]}" for name, old in before.items() if old != asked[name])
