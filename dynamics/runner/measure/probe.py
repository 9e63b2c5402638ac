"""Measure a finished run's checkpoint with any instrument, into the run's own file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from dynamics.instruments import InstrumentOptions, said
from dynamics.options import check_edges, invalid
from dynamics.runner.measure.finished_run import restored
from dynamics.runner.run_folder import RunFolder
from dynamics.store import add_step, encode_attr, read_run
from dynamics.training import threads_for


def probe(
    run_dir: Path,
    instruments: Sequence[InstrumentOptions],
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
            that the run's law of times never draws, a group measured with other settings, or another process measures.
    """
    folder = RunFolder(Path(run_dir))
    config = folder.finished_config()
    kinds = [options.kind for options in instruments]
    if not kinds or len(set(kinds)) < len(kinds) or any(options.WHILE_TRAINING for options in instruments):
        later = [kind for kind, options in InstrumentOptions.members().items() if not options.WHILE_TRAINING]
        remedy = "sums over training rows (cells) exist only while training"
        raise invalid("instruments", kinds, f"any of {', '.join(later)}, each once", remedy)
    torch.set_num_threads(threads_for(config.training))
    recipe = config.recipe()
    observers = {o.kind: o.observer(recipe, progress) for o in instruments}
    measured: dict[str, xr.Dataset] = {}
    with folder.held("probe", "measuring"):
        there = {name: child.attrs for name, child in read_run(folder.result).children.items()}
        other = {o.kind: text for o in instruments if (text := _differences(there.get(o.kind, {}), o))}
        if other and not replace:
            remedy = "measure as before, or --replace, which drops those (log.jsonl keeps a training series)"
            raise invalid("settings", other, f"those of the earlier measurements in {folder.result}", remedy)
        state = restored(config, folder, checkpoint)
        for group, instrument in observers.items():
            measured[group] = instrument.measure(state)
            add_step(folder.result, group, measured[group], state.step, replace_group=group in other)
    return measured


def usual(run_dir: Path) -> list[str]:
    """Return the kinds of instruments that are measured if none is named: those that the run's objective has.

    A decomposition needs a loss with parts, a lookahead one that regresses u(z_t, t, r) in one pass.
    """
    objective = RunFolder(Path(run_dir)).read_config().objective
    fit = {"gaps": True, "gram": True, "decomposition": bool(objective.PARTS), "lookahead": objective.ONE_PASS}
    return [kind for kind, fits in fit.items() if fits]


def chosen(run_dir: Path, kinds: Sequence[str], changes: Mapping[str, Any]) -> list[InstrumentOptions]:
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
    members = {kind: InstrumentOptions.member(kind, "instruments") for kind in kinds}
    unused = [name for name in changes if not any(name in member.model_fields for member in members.values())]
    if unused:
        raise invalid("options", unused, f"options of {', '.join(kinds)}", "leave them out, or add their instrument")
    out = []
    for kind in kinds:
        own = next((o for o in config.observers if o.kind == kind), None) or members[kind].model_validate({})
        values = {name: value for name, value in changes.items() if name in members[kind].model_fields}
        if kind == "gaps" and "gap_edges" in values:
            edges = values["gap_edges"]
            if len(edges) != 1 or not 0 <= edges[0] <= 1:
                check_edges("gap_edges", edges)  # as typed
            values["gap_edges"] = tuple(sorted({0.0, *values["gap_edges"], 1.0}))
        out.append(type(own).model_validate({**dict(own), **values}))
    return out


def _differences(there: Mapping[Any, Any], options: InstrumentOptions) -> str:
    """Name the settings in which a stored group differs from what is asked for."""
    asked = {name: encode_attr(name, value) for name, value in said(options).items()}
    before = {name: np.asarray(there[name]).tolist() for name in asked if name in there}
    return ", ".join(f"{name} was {old}, now {asked[name]}" for name, old in before.items() if old != asked[name])
