"""FID of a finished run, into the run's own file; on one process or several, and resumable."""

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
import xarray as xr

from dynamics.data import DataSource, LatentSet
from dynamics.data.vae import load_vae
from dynamics.evaluation.fid import FidOptions, ImageSource, Parts, evaluate_fid, pixels_to_images, protocol
from dynamics.evaluation.inception import load_inception
from dynamics.evaluation.moments import load_statistics
from dynamics.options import invalid
from dynamics.runner.agreement import agree
from dynamics.runner.measure.finished_run import beside, earlier, load_network, still_missing
from dynamics.runner.run_folder import RunFolder
from dynamics.store import protocol_name, update_run
from dynamics.training import device_for, joined, length_in, on_all, on_first, threads_for, weights_name

GROUP = "fid"


def evaluate_fid_run(
    run_dir: Path,
    options: FidOptions,
    inception: Path,
    reference: Path,
    vae: Path | str | None = None,
    checkpoint: int | None = None,
    weights: str = "ema",
    progress: bool = True,
    replace: bool = False,
) -> xr.Dataset:
    """Measure FID and its companions of a run's network and put the group `fid` into its run.nc.

    What is there already stays, and is not measured again; what is measured otherwise (see `evaluate_run`), or against
    another reference, is a group beside it. After an interruption the same call goes on, on any number of ranks.

    Args:
        run_dir: The run folder.
        options: What to sample and measure.
        inception: Inception's weights, see `load_inception`.
        reference: The reference's statistics, see `load_statistics`.
        vae: Decoder of a run on latents.
        checkpoint: Step of the checkpoint; None takes the newest.
        weights: "model", "ema" or a decay; left out where the options name the length of an average.
        progress: Show a bar.
        replace: Measure anew what was measured before by this protocol.

    Returns:
        The group, the same on every rank.

    Raises:
        ValueError: The run is not finished or another process evaluates it, a file is not what it should be, latents
            without a decoder or one for pixels, or ranks that were asked for different things.
    """
    folder, weights = RunFolder(Path(run_dir)), weights_name(weights, options.ema_length)
    options = options.model_copy(update={"ema_length": length_in(weights)})
    config = folder.finished_config()
    torch.set_num_threads(threads_for(config.training))
    device = device_for(config.training)
    with joined(device), ExitStack() as until_the_end:
        on_first(lambda: until_the_end.enter_context(folder.held(GROUP, "evaluating")))
        network = on_all(lambda: load_inception(inception, device))
        statistics = on_all(lambda: load_statistics(reference, network))
        source, about = on_all(lambda: _source(folder, config.data.load(), vae, checkpoint, weights, options, device))
        about |= protocol(options, network, statistics)
        agree("evaluation", {**about, **options.model_dump(mode="json")})
        last = config.training.num_steps
        group, content = on_first(lambda: earlier(folder, GROUP, about, last, replace))
        missing = on_first(lambda: still_missing(content, options.field, options.nfe, replace, progress))
        parts = Parts(folder.path / "evaluation" / f"fid-{_digest(about, options)}")
        if content is None or missing:
            now = options.model_copy(update={"nfe": missing})
            measured = evaluate_fid(source, now, network, statistics, parts, progress)
            content = beside(content, measured).assign_attrs(about, protocol=protocol_name(about, last))
            on_first(lambda: update_run(folder.result, group, content))
        on_first(parts.drop)
    return content


def _source(
    folder: RunFolder,
    data: DataSource,
    vae: Path | str | None,
    checkpoint: int | None,
    weights: str,
    options: FidOptions,
    device: torch.device,
) -> tuple[ImageSource, dict[str, str | int | float]]:
    """Return what makes the images, and what to say about it."""
    decode, decoder = _decoder(data, vae, device)
    u, step = load_network(folder.path, weights, checkpoint, options.guidance_scale, options.guidance_interval)
    about: dict[str, str | int | float] = {
        "checkpoint": step,
        "weights": weights,
        "decoder": decoder,
        "data": data.name,
        "data_sha256": data.sha256,
    }
    return ImageSource(u, data.shape, data.condition, device, decode), about


def _decoder(
    data: DataSource, vae: Path | str | None, device: torch.device
) -> tuple[Callable[[torch.Tensor], torch.Tensor], str]:
    """Return what makes images of samples, and what to call it: for latents the autoencoder that made them."""
    if isinstance(data, LatentSet) != (vae is not None):
        received = f"{vae and str(vae)} for samples of shape {data.shape}"
        raise invalid("vae", received, "a decoder for latents, none for pixels", "pass --vae or leave it out")
    if vae is None or not isinstance(data, LatentSet):
        return pixels_to_images, "none"
    found = load_vae(vae, device)
    if found.sha256 != data.record.vae_sha256:
        allowed = f"{data.record.vae} ({data.record.vae_sha256[:12]}...), which made the latents"
        raise invalid("vae", f"{vae} ({found.sha256[:12]}...)", allowed, "pass that autoencoder")
    return partial(found.decode, scale=data.record.scale), f"{data.record.vae} {found.sha256}"


def _digest(about: dict[str, str | int | float], options: FidOptions) -> str:
    """Return what names the folder of the kept features: they serve any numbers of evaluations of one field."""
    content = {**about, "field": options.field, "batch_size": options.batch_size}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
