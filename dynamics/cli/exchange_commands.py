"""Commands that bring public weights in and take weights out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class ImportArgs:
    """Make a finished run of public weights: SiT, REPA (answer v), MeanFlow, AlphaFlow (u) or DiT (a backbone only).

    Nothing in the file is executed. The network can be loaded without data; to evaluate it, pass --data.
    """

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """A .pt, .pth or .safetensors file."""
    source: Annotated[Literal["sit", "repa", "dit", "meanflow-pytorch", "alphaflow"], tyro.conf.arg(name="from")]
    """Whose network it holds: willisma/SiT, sihyun-yu/REPA, facebookresearch/DiT (their files look alike),
    zhuyu-cs/MeanFlow or snap-research/alphaflow (TEMF's too)."""
    out: Path
    """The run folder to make; for runs to start from it, it must be named by its run_id, which is printed."""
    preset: str | None = None
    """Name of a preset, or path of a config.json, with the file's model; the paper's of this size if left out."""
    data: Path | None = None
    """Folder of latents, from `dynamics encode`."""
    heads: int | None = None
    """Attention heads, where the size is not a published one; the preset's if there is one."""
    weights: Literal["ema", "model"] | None = None
    """Which weights of a training checkpoint; if left out, the average where there is one."""
    latent_scale: float | None = None
    """What the latents that it was trained on were multiplied by; if left out, what the repository's code says:
    0.18215, or 0.18125 for meanflow-pytorch; for alphaflow, which normalises otherwise, it must be given."""
    num_classes: int | None = None
    """Number of classes, for a file that has no null class because no labels were dropped while it was trained."""


def import_(args: ImportArgs) -> None:
    """Import, and say what the network is good for."""
    from dynamics.exchange.import_export import import_run
    from dynamics.presets import named_config

    preset = None if args.preset is None else named_config(args.preset)
    made = import_run(
        args.checkpoint,
        args.source,
        args.out,
        preset,
        args.data,
        args.heads,
        args.weights,
        args.latent_scale,
        args.num_classes,
    )
    print(f"{made.path / 'run.nc'}: run {made.run_id}")
    for note in made.notes:
        print(note)
    if made.meaning == "backbone":
        print("NOT A VELOCITY: DiT predicts the noise of a discrete schedule. Samples and evaluations of this run mean")
        print("nothing; it is a backbone for other runs to start from.")
    if made.meaning == "v":
        print("It answers v(z, t, y) at every r: sample it in many steps. Runs that start from it can learn the gap.")
    if made.path.absolute().name != made.run_id:
        print(
            f"For runs to start from it, name its folder {made.run_id}: mv {made.path} {made.path.parent / made.run_id}"
        )
    print(f"next: dynamics train PRESET --start.run {made.run_id} --out {made.path.parent / 'DIR'}")


@dataclass(frozen=True)
class ExportArgs:
    """Write a run's weights for the code of MeanFlow or AlphaFlow, or if they ignore the gap of SiT or REPA."""

    dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """The run folder."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """The file; .safetensors is added if it is missing."""
    target: Annotated[Literal["sit", "repa", "meanflow-pytorch", "alphaflow"], tyro.conf.arg(name="to")]
    """Whose code will read it: willisma/SiT, sihyun-yu/REPA, zhuyu-cs/MeanFlow or snap-research/alphaflow."""
    weights: str = "ema"
    """ema (the first average), model, or a recorded decay such as 0.999."""
    checkpoint: int | None = None
    """Step of the checkpoint; the newest if left out."""


def export(args: ExportArgs) -> None:
    """Export, and say how the file is read."""
    from dynamics.exchange.import_export import export_run

    path = export_run(args.dir, args.out, args.target, args.weights, args.checkpoint)
    print(f"{path}; in Python: model.load_state_dict(safetensors.torch.load_file({str(path)!r}))")
    if args.target in _BUILT_WITH:
        print(_BUILT_WITH[args.target])


_BUILT_WITH = {
    "sit": "It has no learned sigma: build the model with learn_sigma=False.",
    "repa": "It has no projectors: build the model with z_dims=[] and qk_norm=False.",
    "alphaflow": "The model is the backbone, net.model, with a null class: build it with label_dropout above 0.",
}
