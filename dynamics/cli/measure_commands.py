"""Commands that measure and show finished runs."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class EvaluateArgs:
    """Measure a finished run: Frechet and kernel distance, class accuracy, exact velocity errors, sample grids.

    Adds the group `evaluation` to DIR/run.nc. What was measured before stays: other settings are added to the group,
    and what is measured in another way (samples, seed, labels, method, weights, guidance, checkpoint) is a group beside
    it.
    """

    dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """The run folder."""
    nfe: tuple[int, ...] = (1, 2, 32)
    """Numbers of network evaluations per sample."""
    num_samples: int = 2000
    """Samples per setting."""
    field: Literal["u", "v"] = "u"
    """Sample by the average velocity u, or integrate the instantaneous velocity v."""
    method: Literal["euler", "heun"] = "euler"
    """Integrator of v."""
    label_mode: Literal["uniform", "balanced"] = "uniform"
    """Labels uniformly at random, or equally many of each class."""
    seed: int = 0
    """Seed of labels and noise."""
    weights: str = "ema"
    """ema (the first average), model, or a recorded decay such as 0.999."""
    checkpoint: int | None = None
    """Step of the checkpoint; the newest if left out."""
    ema_length: tuple[float, ...] = ()
    """Instead of --weights: lengths of averages, as shares of training such as 0.05, one evaluation each. They are
    rebuilt from the snapshots that a run with --training.ema-lengths keeps."""
    guidance_scale: tuple[float, ...] = ()
    """Guidance scales, one evaluation each, of a network that is conditioned on them, such as that of digits-imf."""
    guidance_interval: tuple[float, float] | None = None
    """First and last time at which such a network is asked for guidance."""
    exact_rows: int = 128
    """Rows per bin for the exact velocity errors."""
    replace: bool = False
    """Measure anew what was measured before in the same way; otherwise nothing measured is ever replaced."""
    fid: bool = False
    """Instead of all that: FID, Inception score and, where the reference has features, kernel distance, precision and
    recall, into the group `fid`. Published values are of 50000 samples. Interrupted, the same command continues."""
    inception: Path | None = None
    """For --fid: weights of Inception, pt_inception-2015-12-05-6726825d.pth."""
    reference: Path | None = None
    """For --fid: statistics, ADM's npz or from `dynamics statistics`."""
    vae: str | None = None
    """For --fid of a run on latents: folder or hub name of the autoencoder that decodes them."""


def evaluate(args: EvaluateArgs) -> None:
    """Measure a finished run and show the result."""
    if args.fid:
        return _evaluate_fid(args)
    from dynamics.options import invalid

    if args.exact_rows < 2:
        raise invalid("--exact-rows", args.exact_rows, "2 or more", "see dynamics evaluate --help")
    named = [name for name in ("inception", "reference", "vae") if getattr(args, name) is not None]
    if named:
        raise invalid(f"--{named[0]}", str(getattr(args, named[0])), "only with --fid", "add --fid, or leave it out")
    from dynamics.evaluation import EvaluationOptions
    from dynamics.runner import evaluate_run
    from dynamics.runner.measure.finished_run import check_ema_lengths

    wanted = [EvaluationOptions(**sampling) for sampling in _samplings(args)]
    check_ema_lengths(args.dir, args.ema_length, args.checkpoint)
    for options in wanted:
        measured = evaluate_run(args.dir, options, args.exact_rows, args.checkpoint, args.weights, replace=args.replace)
        _show(measured, args.dir)


def _show(measured: "xr.Dataset", folder: Path) -> None:
    """Print what was measured by one protocol, and where it is."""
    columns = [name for name in measured.data_vars if measured[name].dims == ("field", "nfe")]
    if columns:
        print(measured[columns].to_dataframe().dropna(how="all").to_string(float_format=lambda x: f"{x:.4g}"))
    else:
        print("no labels, or latents: no classifier to measure distances with; for latents there is --fid")
    if "one_step_error" in measured:
        one_step = float(measured.one_step_error / measured.one_step_scale)
        print(f"exact error of the one-step velocity, relative: {one_step:.4g}")
    protocol = measured.attrs["protocol"]
    print(f"in {folder / 'run.nc'}, group evaluation, {protocol}; next: dynamics report {folder} --out FOLDER")


def _samplings(args: EvaluateArgs) -> list[dict[str, Any]]:
    """Return the arguments that say what to sample, by name: once for each length of an average and guidance scale."""
    names = ("nfe", "num_samples", "field", "method", "label_mode", "seed", "guidance_interval")
    both = product(args.ema_length or (None,), args.guidance_scale or (None,))
    same = {n: getattr(args, n) for n in names}
    return [{**same, "ema_length": length, "guidance_scale": scale} for length, scale in both]


def _evaluate_fid(args: EvaluateArgs) -> None:
    from dynamics.evaluation.fid import FidOptions
    from dynamics.options import invalid
    from dynamics.runner.measure.fid_of_run import evaluate_fid_run
    from dynamics.runner.measure.finished_run import check_ema_lengths

    if args.inception is None or args.reference is None:
        raise invalid("fid", "no --inception or no --reference", "both files", "see dynamics evaluate --help")
    files = args.inception, args.reference, args.vae
    wanted = [FidOptions(**sampling) for sampling in _samplings(args)]
    check_ema_lengths(args.dir, args.ema_length, args.checkpoint)
    for options in wanted:
        measured = evaluate_fid_run(args.dir, options, *files, args.checkpoint, args.weights, replace=args.replace)
        numbers = measured.drop_vars("samples").to_dataframe()
        print(numbers.dropna(how="all").to_string(float_format=lambda x: f"{x:.4g}"))
        protocol = measured.attrs["protocol"]
        print(f"in {args.dir / 'run.nc'}, group fid, {protocol}; next: dynamics report {args.dir} --out FOLDER")


@dataclass(frozen=True)
class StatisticsArgs:
    """Compute the statistics of a folder of images that FID compares with."""

    images: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IMAGES")]
    """Folder of images, subfolders included."""
    inception: Path
    """Weights of Inception, pt_inception-2015-12-05-6726825d.pth."""
    out: Path
    """The npz file to write."""
    image_size: int | None = None
    """Crop and resize images to this side first."""
    features: bool = False
    """Also keep every image's features, for kernel distance, precision and recall."""


def statistics(args: StatisticsArgs) -> None:
    """Compute the statistics and name the file."""
    import torch

    from dynamics.evaluation.inception import load_inception
    from dynamics.evaluation.moments import compute_statistics

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = load_inception(args.inception, device)
    compute_statistics(args.images, network, args.out, args.features, args.image_size)
    print(f"{args.out}; next: dynamics evaluate DIR --fid --inception {args.inception} --reference {args.out}")


@dataclass(frozen=True)
class ProbeArgs:
    """Measure gradients, affinities and decompositions of a finished run's checkpoint, into groups of DIR/run.nc.

    A checkpoint becomes one step of each group's series. Values left out are those of the run's own observers.
    """

    dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """The run folder."""
    checkpoint: int | None = None
    """Step of the checkpoint; the newest if left out."""
    instruments: tuple[str, ...] = ()
    """What to measure; if left out, what the run's objective has of gaps, gram, decomposition and lookahead: losses and
    exact errors by time and gap; inner products of task gradients; parts of losses, errors and gradients; how much a
    step on one task lowers the loss of another."""
    per_row: bool = False
    """Also inner products between single rows (group gram_rows), to choose tasks afterwards."""
    gap_edges: tuple[float, ...] | None = None
    """Edges of the bins of the gap t - r, such as 0.1 0.3 0.5 0.7 0.9; each bin is a task, v another."""
    num_splits: int | None = None
    """Independent splits K of rows, the source of error bars."""
    rows_per_split: int | None = None
    """Rows of each task in each split."""
    rows_per_bin: int | None = None
    """Rows in each bin for losses and exact errors."""
    num_rows: int | None = None
    """Rows of --per-row."""
    groups: Literal["model", "block", "tensor"] | None = None
    """Inner products of the whole model; also of each block and kind of layer; also of each tensor."""
    loss: Literal["adaptive", "raw"] | None = None
    """The loss with the adaptive weight of training, or the raw squared error."""
    precondition: Literal["none", "adam"] | None = None
    """Plain inner products, or with the preconditioner of the run's Adam."""
    rows: Literal["shared", "independent"] | None = None
    """Whether all tasks of a split see the same images and noise."""
    t_law: Literal["training", "uniform", "matched"] | None = None
    """Law of t given the gap bin: as in training, uniform, or the same for all tasks."""
    guidance: Literal["run", "off"] | None = None
    """Whether targets are guided as in training or not at all."""
    weights: Literal["model", "ema"] | None = None
    """Raw weights or their first average; if left out, gaps measure the average and the others the raw weights."""
    update: Literal["adam", "plain"] | None = None
    """The step of lookahead: the run's optimiser's, or plain gradient descent."""
    backend: Literal["exact", "sketch"] | None = None
    """Whole gradients, or a seeded sketch of each where they do not fit into memory."""
    sketch_size: int | None = None
    """Numbers that the sketch keeps of each tensor."""
    rows_per_pass: int | None = None
    """Rows that go through the network at once."""
    replace: bool = False
    """Drop earlier measurements of other settings, which are refused otherwise."""


def probe(args: ProbeArgs) -> None:
    """Measure, and show the affinities."""
    from dynamics.analysis import affinity_table
    from dynamics.runner.measure.probe import chosen, usual
    from dynamics.runner.measure.probe import probe as measure

    kinds = [*(args.instruments or usual(args.dir)), *(["gram_rows"] if args.per_row else [])]
    own = {"dir", "checkpoint", "instruments", "per_row", "replace"}
    changes = {name: value for name, value in vars(args).items() if name not in own and value is not None}
    if "gaps" in kinds:
        changes["by_time"] = True
    measured = measure(args.dir, chosen(args.dir, kinds, changes), args.checkpoint, args.replace)
    if "gram" in measured:
        print(affinity_table(measured["gram"]))
    print(f"in {args.dir / 'run.nc'}, groups {', '.join(measured)}; figures: dynamics report {args.dir} --out FOLDER")


@dataclass(frozen=True)
class ReportArgs:
    """Draw figures and write report.md for one run, or compare several."""

    dirs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DIR [DIR ...]")]
    """Folders of finished runs; the first is the baseline unless --baseline names another."""
    out: Path
    """Folder that takes merged.nc, figures/ and report.md."""
    title: str | None = None
    """Title of the report."""
    baseline: str | None = None
    """Name of the run that the others are compared with."""


def report(args: ReportArgs) -> None:
    """Write the report and name it."""
    from dynamics.analysis import write_report

    print(write_report(args.dirs, args.out, title=args.title, baseline=args.baseline))
