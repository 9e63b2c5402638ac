"""Checkpoints of public repositories as runs, and runs as their checkpoints."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from dynamics.atomic import file_sha256, replacing, sync
from dynamics.config import RunConfig
from dynamics.data import DataOptions, Latents
from dynamics.data.latent_files import read_record
from dynamics.exchange.conventions import CONVENTIONS, Meaning, Source, Target
from dynamics.exchange.public_files import SAFE, read_tensors
from dynamics.exchange.translation import Imported, from_public, to_public
from dynamics.flow.condition import ClassLabels
from dynamics.models import DiT, DiTOptions, build
from dynamics.models.dit import SIZES
from dynamics.objectives import FlowMatching, MeanFlow
from dynamics.options import invalid
from dynamics.presets import PRESETS
from dynamics.runner.agreement import differences
from dynamics.runner.run_folder import RunFolder
from dynamics.store import provenance, read_run, write_run
from dynamics.training import StartOptions, TrainState, check_room, room_for, start
from dynamics.training.shards import write

DOWNSAMPLING = 8
"""Pixels per latent cell, along each side, of the autoencoder that all these repositories use."""


@dataclass(frozen=True)
class ImportedRun:
    """What `import_run` has made."""

    path: Path
    """The run folder."""
    run_id: str
    """What the folder must be called for others to start from it."""
    meaning: Meaning
    """What its network answers."""
    notes: tuple[str, ...]
    """What was not taken over as it is, in sentences."""


def import_run(
    checkpoint: Path,
    source: Source,
    out: Path,
    preset: RunConfig | None = None,
    data: Path | None = None,
    heads: int | None = None,
    weights: Literal["ema", "model"] | None = None,
    latent_scale: float | None = None,
    num_classes: int | None = None,
) -> ImportedRun:
    """Make a finished run of a public checkpoint, as if it had been trained here.

    The run is that of a preset by name only: what its config says about training says nothing about what happened
    elsewhere. Its seed comes from the file's hash, so that other weights of the same size are another run.

    Args:
        checkpoint: A .pt, .pth or .safetensors file; nothing in it is executed.
        source: Which repository's network it holds; files of SiT, DiT and REPA look alike.
        out: The run folder to make. It appears when it is complete.
        preset: Config to take the rest from; None takes the paper's of this size.
        data: Latents, for evaluation; networks load without.
        heads: Attention heads, if neither the preset nor the published sizes say it.
        weights: Which of a training checkpoint's; None takes the average where there is one.
        latent_scale: What its latents were multiplied by; None takes the preset's, or without one the repository's.
        num_classes: Number of classes, if the file may have no null class (see `exchange.translation.from_public`).

    Raises:
        ValueError: The file is missing, damaged, would execute code, was trained for no velocity or does not fit the
            source or the preset; the data are of other shape, classes or scale; `out` exists.
        DiskFullError: No room.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise invalid("out", str(out), "a folder that is empty or not there yet", "choose another --out")
    tensors, which = read_tensors(checkpoint, weights, CONVENTIONS[source].trained_with)
    if heads is None and preset is not None and isinstance(preset.model, DiTOptions):
        heads = preset.model.heads
    imported = from_public(tensors, source, heads, num_classes)
    sha256 = file_sha256(checkpoint)
    config = config_for(imported, source, preset, data, latent_scale, origin=f"{sha256} {source} {which}")
    about = {
        "imported_as": source,
        "imported_from": CONVENTIONS[source].repository,
        "imported_file": checkpoint.name,
        "imported_sha256": sha256,
        "imported_weights": which,
        "meaning": CONVENTIONS[source].meaning,
        "imported_notes": "; ".join(imported.notes),
    }
    temporary = out.with_name(f".{out.name}.{uuid4().hex}.tmp")
    try:
        _write(RunFolder(temporary), config, imported, about)
        temporary.replace(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync(out.parent)
    return ImportedRun(out, config.run_id, CONVENTIONS[source].meaning, imported.notes)


def export_run(run_dir: Path, out: Path, target: Target, weights: str = "ema", checkpoint: int | None = None) -> Path:
    """Write a run's weights for a public repository's code, as safetensors.

    Args:
        run_dir: The run folder.
        out: The file; the ending .safetensors is added if it is missing.
        target: Which repository, see `exchange.translation.to_public`.
        weights: "model", "ema" or a decay.
        checkpoint: Step of the checkpoint; None takes the newest.

    Returns:
        The file.

    Raises:
        ValueError: There is no such run or checkpoint, or the target's network cannot be this one; the file is there.
    """
    path = out if out.suffix == SAFE else out.with_name(out.name + SAFE)
    if path.exists():
        raise invalid("out", str(path), "a file that is not there yet", "choose another name, or remove that file")
    folder = RunFolder(Path(run_dir))
    config = folder.read_config()
    if not isinstance(config.model, DiTOptions):
        raise invalid("run", f"{run_dir} with a {config.model.kind}", "a run of a dit", "export another run")
    if folder.result.is_file() and read_run(folder.result).attrs.get("meaning") == "backbone":
        received = f"{run_dir}, an imported DiT that predicts no velocity"
        raise invalid("run", received, "a network that answers v or u", "start a run from it and export that one")
    _, tensors = folder.checkpoints(config).weights(folder.step_to_measure(config, checkpoint), weights)
    public = to_public(tensors, config.model, config.data.dimensions()[0], target)
    with room_for("the exported file", path.parent), replacing(path) as temporary:
        write(temporary, public)
    return path


def config_for(
    imported: Imported,
    source: Source,
    preset: RunConfig | None,
    data: Path | None,
    latent_scale: float | None,
    origin: str,
) -> RunConfig:
    """Return the config of an imported run.

    Args:
        imported: The network.
        source: Where it comes from. What answers v is a run of flow matching.
        preset: As for `import_run`; so are data and latent_scale.
        data: Latents.
        latent_scale: Of the latents.
        origin: What tells these weights from all others; the seed is taken from its hash.

    Raises:
        ValueError: The preset has another model, or the data another shape, other classes or another scale.
    """
    base = preset or _preset_of(imported.options)
    if base.model != imported.options:
        different = ", ".join(differences(base.model.model_dump(), imported.options.model_dump(), "model"))
        raise invalid("preset", different, "a config with the checkpoint's model", "choose another --preset")
    if latent_scale is None and preset is None and (latent_scale := CONVENTIONS[source].latent_scale) is None:
        allowed = f"a number: {CONVENTIONS[source].repository} normalises latents by statistics of each position"
        remedy = "pass --latent-scale of your latents to accept the difference (0.18215 makes their spread about 1)"
        raise invalid("latent_scale", "none", allowed, remedy)
    where = base.data if preset else base.data.model_copy(update={"image_size": DOWNSAMPLING * imported.shape[1]})
    changes: dict[str, Any] = {
        "data": _data(where, data, latent_scale),
        "start": StartOptions(),
        "seed": int(hashlib.sha256(origin.encode()).hexdigest()[:8], 16),
    }
    if CONVENTIONS[source].meaning == "v":
        if not isinstance(base.objective, MeanFlow | FlowMatching):
            remedy = "pass a preset of one of these"
            raise invalid("preset", base.objective.kind, "meanflow or flow_matching", remedy)
        label_drop_prob = base.objective.guidance.label_drop_prob
        objective = FlowMatching()
        guidance = objective.guidance.model_copy(update={"label_drop_prob": label_drop_prob})
        changes["objective"] = objective.model_copy(update={"guidance": guidance})
        changes["times"] = base.times.model_copy(update={"gap_share": 0.0})
    config = RunConfig.model_validate({**dict(base), **changes})
    (shape, condition), expected = config.data.dimensions(), (imported.shape, imported.num_classes)
    found = (shape, condition.num_classes)
    if found != expected:
        allowed = f"shape {expected[0]} and {expected[1]} classes, which the checkpoint is for"
        remedy = "pass --data with such latents, --preset with a config on such data, or --num-classes for a file "
        remedy += "without a null class"
        raise invalid("data", f"shape {found[0]} and {found[1]} classes", allowed, remedy)
    if data is not None:
        config.data.load()  # latents that are not there, or not whole, are better found now
    return config


def _preset_of(options: DiTOptions) -> RunConfig:
    for name, size in SIZES.items():
        if size == options:
            return PRESETS[f"{name.replace('/', '').lower()}-meanflow"]
    received = " ".join(f"{k}={v}" for k, v in options.model_dump().items() if k != "kind")
    remedy = "pass --preset with a config.json that has this model"
    raise invalid("model", received, f"for a preset, one of {', '.join(SIZES)}", remedy)


def _data(options: DataOptions, path: Path | None, latent_scale: float | None) -> DataOptions:
    """Return the data with the user's latents."""
    if path is None and latent_scale is None:
        return options
    if not isinstance(options, Latents):
        received = f"{path or latent_scale} with a preset on {options.name}"
        raise invalid("data", received, "latents for a preset on latents", "leave --data and --latent-scale out")
    changes: dict[str, Any] = {} if latent_scale is None else {"latent_scale": latent_scale}
    if path is not None:
        record, scale = read_record(path), changes.get("latent_scale", options.latent_scale)
        if record.scale != scale:
            remedy = f"encode with --scale {scale}, or accept the difference with --latent-scale {record.scale}"
            raise invalid("latent_scale", scale, f"{record.scale}, which is that of the latents in {path}", remedy)
        changes |= {"path": path, "vae": record.vae}
    return Latents.model_validate({**dict(options), **changes})


def _write(folder: RunFolder, config: RunConfig, imported: Imported, about: dict[str, str]) -> None:
    """Write a run folder, run.nc last."""
    model = build(config.model, imported.shape, ClassLabels(imported.num_classes), seed=0)
    assert isinstance(model, DiT)
    imported.fill(model)
    shared = {name: parameter.detach() for name, parameter in model.named_parameters()}
    blank = start(model, config.training.model_copy(update={"ema_decays": (), "ema_lengths": ()}), config.curricula)
    emas = dict.fromkeys(config.training.averages, shared)  # one copy in memory, however many on disk
    state = TrainState(model, blank.optimizer, emas, blank.curricula, step=config.training.num_steps)
    checkpoints = folder.checkpoints(config)
    folder.path.mkdir(parents=True)
    check_room(checkpoints.folder, 0, state)
    with room_for("the imported run", folder.path):
        folder.claim(config)
        checkpoints.save(state)
        origin = provenance(config.to_json(), config.run_id, config.seed)
        num_parameters = sum(p.numel() for p in model.parameters())
        write_run(folder.result, {}, {**origin, **about, "num_parameters": num_parameters, "seconds": 0.0})
