"""Training a run from its config to run.nc, on one process or several."""

import math
from collections import Counter
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from signal import Signals
from typing import NamedTuple

import torch
from psutil import virtual_memory

from dynamics.atomic import remove_leftovers, replacing
from dynamics.config import RunConfig
from dynamics.models import build
from dynamics.options import invalid
from dynamics.record import GAP_BINS, peak_memory_mb
from dynamics.runner import tensorboard as board
from dynamics.runner.agreement import agree, differences
from dynamics.runner.recorder import recording
from dynamics.runner.run_folder import RunFolder
from dynamics.store import RunLog, measurement_datasets, provenance, training_dataset, write_run
from dynamics.strict_json import dumps
from dynamics.training import (
    Checkpoints,
    NonFiniteLossError,
    Observer,
    Origin,
    Recipe,
    TimeLimit,
    TrainState,
    World,
    check_averages,
    check_room,
    device_for,
    fit,
    inherit,
    joined,
    on_all,
    on_first,
    room_for,
    series_of,
    snapshot_bytes,
    split,
    start,
    threads_for,
    time_limit,
    world,
)

COPIES = 4
"""Of a batch in memory, at least: images, noise, points and velocities."""
GAP_COORDINATE = {"gap_count": ("gap_bin", [(i + 0.5) / GAP_BINS for i in range(GAP_BINS)])}


def run(
    config: RunConfig,
    out: Path,
    progress: bool = True,
    going_on: Collection[Signals] = (),
    wall_minutes: float | None = None,
    tensorboard: bool = False,
) -> Path:
    """Train a run to its end; the same call again resumes it, and does nothing when it is finished.

    Args:
        config: What to run. The run that it starts from, if any, lies beside `out`, in a folder named by its run_id.
        out: The run folder; made if missing. If it holds a run, that must be of the same config.
        progress: Show a bar with ETA, speed, raw losses and peak memory.
        going_on: Signals at which to write a checkpoint and train on, instead of stopping.
        wall_minutes: Stop in time, with a checkpoint, before this many minutes from now have passed. The end of a Slurm
            job, where Slurm tells it, is respected without asking.
        tensorboard: Also write curves for TensorBoard, into `out`/tensorboard.

    Returns:
        The run folder, with run.nc (groups training and one per observer), config.json, checkpoints/ and log.jsonl; and
        heartbeat.json, see `heartbeat.Heartbeat`.

    Raises:
        ValueError: the folder holds a run of another config, the config does not fit the data, or the run to start from
            is not there, not finished or of another model; tensorboard is asked for and not installed.
        RunInUseError: another process trains this run.
        Interrupted: stopped by a signal, or before the time is up; call again to continue.
        DiskFullError: no room for a checkpoint or a record; call again to continue, when there is.
        NonFiniteLossError: see nonfinite.json in the folder.
    """
    folder, limit = RunFolder(Path(out)), time_limit(wall_minutes)
    if tensorboard:
        board.check_installed()
    with joined(device_for(config.training)) as here, ExitStack() as until_the_end:
        agree("config", config.model_dump(mode="json"))
        on_all(lambda: _check_batch(config, here))
        begun = on_first(lambda: folder.check(config))
        if begun:  # before anything is built: the graphics card may be full of the process that trains this run
            if on_first(lambda: _take(folder, config, until_the_end)):
                return folder.path
            config = on_first(folder.read_config)  # a run goes on as it began: its threads, too
        prepared = on_all(lambda: _prepare(folder, config))
        # nothing is written before all that may be refused has been built
        if begun or not on_first(lambda: _take(folder, config, until_the_end)):
            _train(folder, config, prepared, progress, going_on, limit, tensorboard)
    return folder.path


def _check_batch(config: RunConfig, here: World) -> None:
    """Refuse a batch that so many ranks cannot share, before anything is computed."""
    options = config.training
    if options.batch_size % (here.size * options.accumulation):
        allowed = f"a multiple of {here.size} ranks x accumulation={options.accumulation}"
        raise invalid("training.batch_size", options.batch_size, allowed, "change it, or the number of ranks")
    rows = options.batch_size // (here.size * options.accumulation)
    needed, there = COPIES * 4 * rows * math.prod(config.data.dimensions()[0]), virtual_memory().total
    if needed > there:
        received = f"{options.batch_size}, whose images alone take {needed / 1e9:.4g} GB"
        raise invalid("training.batch_size", received, f"what fits into {there / 1e9:.4g} GB", "ask for fewer rows")


def _take(folder: RunFolder, config: RunConfig, until: ExitStack) -> bool:
    """Take the run's folder and hold it; return whether the run is finished."""
    folder.path.mkdir(parents=True, exist_ok=True)
    until.enter_context(folder.held(folder.log.name, "training"))
    folder.claim(config)
    if finished := folder.result.exists():
        folder.check_result(config)
        remove_leftovers(folder.path / "heartbeat.json")  # of a process killed at its last beat: none comes after it
    return finished


class _Prepared(NamedTuple):
    """What a run trains with, before its first step."""

    recipe: Recipe
    state: TrainState
    observers: list[Observer]


def _prepare(folder: RunFolder, config: RunConfig) -> _Prepared:
    torch.set_num_threads(threads_for(config.training))
    recipe = config.recipe()
    model = build(config.model, recipe.data.shape, recipe.condition, config.seed).to(device_for(config.training))
    state = start(model, config.training, config.curricula)
    if config.start.run is not None and not folder.checkpoints().steps():
        parent = _parent(folder, config).checkpoints()
        content = parent.content(parent.last() if config.start.step is None else config.start.step)
        check_averages(config.start, config.training.averages, content["emas"])
    return _Prepared(recipe, state, [options.observer(recipe) for options in config.observers])


def _train(
    folder: RunFolder,
    config: RunConfig,
    prepared: _Prepared,
    progress: bool,
    going_on: Collection[Signals],
    limit: TimeLimit,
    tensorboard: bool,
) -> None:
    """Train from the newest checkpoint to the end and write run.nc."""
    options, (recipe, state, observers) = config.training, prepared
    num_parameters = sum(p.numel() for p in state.model.parameters())
    if world().size > 1 and options.parallel == "fsdp":
        split(state)  # before a checkpoint is read: so each rank reads its own part
    checkpoints = folder.checkpoints(config)
    origin = on_first(lambda: provenance(config.to_json(), config.run_id, config.seed))
    with RunLog(folder.log) as log:
        origin |= _resume(folder, config, state, checkpoints, log)
        if state.step < options.num_steps:
            left = sum(step > state.step for step in options.snapshot_steps) * snapshot_bytes(state, options)
            on_first(lambda: check_room(checkpoints.folder, options.keep_checkpoints, state, left))
            try:
                with recording(folder, config, log, state.step, progress, tensorboard) as recorder:
                    fit(state, recipe, checkpoints, observers, recorder, going_on, limit, folder.snapshots(config))
            except NonFiniteLossError as error:
                if world().first:
                    _explain(folder, error)
                raise
        on_first(lambda: _finish(folder, config, log, {**origin, "num_parameters": num_parameters}))


def _resume(
    folder: RunFolder, config: RunConfig, state: TrainState, checkpoints: Checkpoints, log: RunLog
) -> dict[str, str | int | float]:
    """Bring state and log to where an earlier attempt left off; return what run.nc says about the start of the run."""
    here = world()
    on_first(checkpoints.tidy)
    on_first(folder.snapshots().tidy)
    # the first rank says which checkpoint is intact, and the others take the same one
    step = on_first(lambda: state.step if checkpoints.restore(state) else None)
    if step is not None:
        on_all(lambda: None if here.first else checkpoints.load(state, step))
    started_from = _start_from(folder, config, state, resumed=step is not None)
    on_first(lambda: folder.check_log(step or 0))
    on_first(lambda: log.rewind(-1 if step is None else step))
    return started_from


def _finish(folder: RunFolder, config: RunConfig, log: RunLog, about: dict[str, str | int | float]) -> None:
    """Write run.nc from the log."""
    records, series = log.read(), series_of(config.objective, config.curricula)
    groups = {"training": training_dataset(records, series, GAP_COORDINATE), **measurement_datasets(records)}
    groups_of_lines = Counter(record["group"] for record in records)
    measured = {
        "num_alarms": groups_of_lines["alarms"],
        "num_nonfinite": groups_of_lines["nonfinite"],
        "seconds": float(groups["training"]["step_seconds"].sum()),
        "peak_memory_mb": peak_memory_mb(),
        "num_threads": threads_for(config.training),
        "device": str(device_for(config.training)),
        "world_size": world().size,
        "parallel": config.training.parallel if world().size > 1 else "none",
    }
    with room_for("run.nc", folder.path):
        write_run(folder.result, groups, {**about, **measured})


def _start_from(folder: RunFolder, config: RunConfig, state: TrainState, resumed: bool) -> dict[str, str | int | float]:
    """Start from another run's checkpoint if the config asks for it; return which one it was, as attributes."""
    if config.start.run is None:
        return {}
    here = world()

    def begin() -> Origin:
        # nothing of an earlier attempt is left: what it started from does not matter either
        origin = inherit(state, _parent(folder, config).checkpoints(), config.start)
        folder.note(origin)
        return origin

    def follow(origin: Origin) -> None:
        same = config.start.model_copy(update={"step": origin.step})
        if inherit(state, _parent(folder, config).checkpoints(), same) != origin:
            raise invalid("start.run", config.start.run, "a run that nobody changes meanwhile", "start again")

    if not resumed:
        origin = on_first(begin)
        on_all(lambda: None if here.first else follow(origin))
    origin = on_first(folder.origin)
    return {"started_from_step": origin.step, "started_from_sha256": origin.sha256}


def _parent(folder: RunFolder, config: RunConfig) -> RunFolder:
    """Return the folder of the run to start from, finished and of the same model."""
    asked = str(config.start.run)
    parent = RunFolder(folder.path.absolute().parent / asked)
    if not parent.result.is_file():
        remedy = f"train the run of that id to its end in {parent.path}"
        raise invalid("start.run", asked, f"the run_id of a finished run beside {folder.path}", remedy)
    there = parent.read_config()
    if there.run_id != asked:
        received = f"{asked}, whose folder holds run {there.run_id}"
        raise invalid("start.run", received, "the run_id of the run in that folder", "name folders by their run_id")
    if there.model != config.model:
        different = ", ".join(differences(there.model_dump()["model"], config.model_dump()["model"], "model"))
        raise invalid("start.run", different, "a run of the same model", "start from another run, or change the model")
    return parent


def _explain(folder: RunFolder, error: NonFiniteLossError) -> None:
    with replacing(folder.nonfinite) as temporary:
        content = {"step": error.step, "what": error.what, "rows": error.rows}
        temporary.write_text(dumps(content, indent=1))
