"""Merge the finished runs of a sweep into one file, and say what is missing and why."""

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from dynamics.analysis import CLAIMS
from dynamics.atomic import locked
from dynamics.config import RunConfig
from dynamics.evaluation import EvaluationOptions
from dynamics.evaluation.sample_quality import sampled_as
from dynamics.options import invalid
from dynamics.progress_bar import counted
from dynamics.runner import RunFolder
from dynamics.store import merge, protocol_name, read_groups, read_run, slim, write_tree
from dynamics.sweep.events import FILE, read_diary, record
from dynamics.sweep.grid import Experiment, Planned
from dynamics.sweep.seeds_begun import SeedsBegun, seeds_begun
from dynamics.sweep.status import stale, statuses
from dynamics.sweep.sweep_folder import SweepFolder
from dynamics.training import DamagedCheckpointError

Groups = dict[str, xr.Dataset]


@dataclass(frozen=True)
class Collected:
    """What `collect_sweep` found."""

    path: Path | None
    """The merged file; None if no run is finished."""
    num_runs: int
    missing: dict[str, str]
    """Why a run is not in the file, by run_id."""
    stale: list[str]
    """Runs on the disk that the experiment does not ask for any more; they are in no file."""
    revisions: dict[str, int]
    """How many runs come from each git revision ("+" where the tree was dirty)."""


def collect_sweep(
    sweep: SweepFolder,
    experiment: Experiment,
    runs: Sequence[Planned],
    out: Path | None = None,
    replace: bool = False,
    small: bool = False,
    progress: bool = True,
) -> Collected:
    """Merge every finished run of a plan, each checked against its checksums and its config.

    A damaged file is named, noted in the run's diary for `retry`, and left out.

    Args:
        sweep: Where the runs are.
        experiment: Whose plan it is.
        runs: The plan.
        out: The merged file; None takes RESULTS/experiment/scale.nc.
        replace: Overwrite a merged file that holds planned runs which are not on this disk.
        small: Write what fits into a repository, see `store.slim`.
        progress: Show a bar.

    Raises:
        ValueError: The merged file there would lose runs, or the looks that its claims are judged by.
    """
    target = out or sweep.merged
    target.parent.mkdir(parents=True, exist_ok=True)
    found = statuses(sweep, runs)
    missing = {s.run.run_id: " ".join(filter(None, (s.state, s.detail))) for s in found if s.state != "done"}
    contents: list[tuple[Path, Groups]] = []
    members: list[Planned] = []
    finished = [status.run for status in found if status.state == "done"]
    for run in counted(finished, "reading", "run", progress):
        try:
            contents.append(checked_content(sweep.run(run.run_id), run))
            members.append(run)
        except ValueError as error:
            missing[run.run_id] = f"damaged {error}"
    left = stale(sweep, runs)
    if not members:
        return Collected(None, 0, missing, left, {})
    revisions, begun = _revisions([groups["/"].attrs for _, groups in contents]), seeds_begun(sweep)
    with locked(target):
        if not replace:
            looks = list(begun.looks) if begun else []
            _check_loss(target, {run.run_id for run in runs}, {run.run_id for run in members}, missing, looks)
        tree = merged_runs(contents, members, experiment, sweep.scale, begun)
        tree.attrs |= {"num_planned": len(runs), "missing": json.dumps(missing)}
        write_tree(target, slim(tree) if small else tree)
    return Collected(target, len(members), missing, left, revisions)


def checked_content(folder: RunFolder, run: Planned) -> tuple[Path, Groups]:
    """Return the path and the groups of a run's result; what is damaged is noted in its diary.

    Raises:
        ValueError: Its config or its result is damaged.
    """
    path = folder.config
    try:
        _check_config(folder, run)
        path = folder.result
        return path, _checked(path, run)
    except ValueError as error:
        record(folder.path, "damaged", file=str(path), error=str(error))
        raise


def merged_runs(
    contents: Sequence[tuple[Path, Groups]],
    members: Sequence[Planned],
    experiment: Experiment,
    scale: str,
    begun: SeedsBegun | None = None,
) -> xr.DataTree:
    """Merge runs of a plan that have been read, with their labels, what the experiment claims, and the looks at it."""
    axes = list(members[0].knobs)
    # a run that comes first for several cells has no label on some axes
    knobs = {axis: [None if run.knobs[axis] == "" else run.knobs[axis] for run in members] for axis in axes}
    tree = merge(contents, {**knobs, "role": [run.role for run in members]}, _wanted(members))
    tree.attrs |= {"experiment": experiment.name, "question": experiment.question, "scale": scale, "axes": axes}
    tree.attrs["claims"] = CLAIMS.dump_json(experiment.claims).decode()
    if begun is not None:
        tree.attrs |= {"looks": json.dumps(begun.looks), "looks_made": begun.made}
    return tree


def set_aside(sweep: SweepFolder, run: Planned) -> list[str]:
    """Move a run's damaged files out of the way, so that it can be done again; return what was moved.

    A damaged result is written anew from the log and the last checkpoint, config.json from the plan where nobody can
    read it or the result shows whose it is. A damaged log, or no intact checkpoint, means that the run begins again.
    """
    folder = sweep.run(run.run_id)
    moved: list[str] = []
    before = [int(path.name.removeprefix("set_aside_")) for path in folder.path.glob("set_aside_[0-9]*")]
    aside = folder.path / f"set_aside_{max(before, default=-1) + 1}"

    def move(path: Path) -> None:
        if path.exists():
            aside.mkdir(exist_ok=True)
            shutil.move(path, aside / path.name)
            moved.append(path.name)

    with locked(folder.log, wait=False):
        diary, damage = read_diary(folder.path)
        if damage:
            move(folder.path / FILE)
        if diary and diary[-1]["kind"] == "damaged" and Path(str(diary[-1].get("file"))).name != folder.config.name:
            move(folder.result)
        if folder.config.exists() and _mendable(folder, run):
            move(folder.config)
            folder.write_config(run.config)
        if not _resumable(sweep, run):
            for path in (
                folder.log,
                folder.path / "checkpoints",
                folder.path / "snapshots",
                folder.result,
                folder.config,
                folder.path / "start.json",
            ):
                move(path)
    return moved


def _resumable(sweep: SweepFolder, run: Planned) -> bool:
    """Whether what is there of a run can be continued."""
    folder = sweep.run(run.run_id)
    checkpoints = folder.checkpoints(run.config)
    try:
        if folder.config.exists():
            _check_config(folder, run)
        if checkpoints.steps() and run.first is not None:
            folder.origin()
        folder.check_log(0)
        for step in reversed(checkpoints.steps()):
            with contextlib.suppress(DamagedCheckpointError):
                checkpoints.verify(step)
                folder.check_log(step)
                return True
    except (ValueError, TypeError):
        return False
    return not checkpoints.steps()


def _mendable(folder: RunFolder, run: Planned) -> bool:
    """Whether config.json is not the run's and may be written anew: nobody can read it, or the result is the run's."""
    try:
        if folder.read_config().run_id == run.run_id:
            return False
    except ValueError:
        return True
    try:
        _checked(folder.result, run, beside=False)
    except (ValueError, FileNotFoundError):
        return False
    return True


def _check_config(folder: RunFolder, run: Planned) -> None:
    try:
        there = folder.read_config().run_id
    except ValueError:
        there = "damaged text"
    if there != run.run_id:
        raise invalid(str(folder.config), there, f"the config of run {run.run_id}", "retry sets the file aside")


def _checked(path: Path, run: Planned, beside: bool = True) -> Groups:
    groups = read_groups(path, beside)
    there = groups["/"].attrs.get("config_json")
    if there is None or RunConfig.model_validate_json(there).run_id != run.run_id:
        raise invalid(f"config_json of {path}", there, f"the config of run {run.run_id}", "retry sets the file aside")
    return groups


def _check_loss(
    target: Path, planned: set[str], members: set[str], missing: Mapping[str, str], looks: Sequence[int]
) -> None:
    if not target.exists():
        return
    try:
        there = read_run(target)
    except ValueError as error:
        raise invalid(
            "out", str(error), "a merged file that can be read, or none", "--out FILE, or --replace"
        ) from error
    ids = {str(run_id) for child in there.children.values() for run_id in child.to_dataset()["run"].values}
    lost = sorted(ids & planned - members)
    if lost:
        first = f"{lost[0]}, of which events.jsonl and files say: {missing[lost[0]]}"
        received = f"{len(lost)} finished runs that are not on this disk, such as {first}"
        raise invalid(str(target), received, "a merged file that loses nothing", "--out FILE, or --replace")
    before = json.loads(there.attrs.get("looks", "[]"))
    if before and before != looks:  # judged without them, the same runs would say more than they may
        received = f"a file of looks after {before} seeds, where seeds.json says {looks or 'nothing of any'}"
        remedy = f"submit --until-decided --max-seeds {before[-1]} finds them again; or --out FILE, or --replace"
        raise invalid(str(target), received, "a merged file that keeps its looks", remedy)


def _wanted(members: Sequence[Planned]) -> list[str]:
    """Return the protocols that the experiment asks for; only FID's names depend on files."""
    asked = (options for run in members for options in run.evaluations if type(options) is EvaluationOptions)
    return list(dict.fromkeys(protocol_name(sampled_as(options)) for options in asked))


def _revisions(attrs: Sequence[Mapping[object, object]]) -> dict[str, int]:
    names = [str(a.get("git_sha", "unknown"))[:10] + ("+" if a.get("dirty") else "") for a in attrs]
    return {name: names.count(name) for name in dict.fromkeys(names)}
