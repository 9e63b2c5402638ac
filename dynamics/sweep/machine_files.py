"""Files that runs need and that differ from machine to machine: latents, the decoder, and what FID is measured with."""

from collections.abc import Callable
from pathlib import Path
from typing import Self

from pydantic import TypeAdapter

from dynamics.evaluation import EvaluationOptions
from dynamics.evaluation.fid import FidOptions
from dynamics.options import Options, invalid
from dynamics.sweep.sweep_folder import SweepFolder, recall, remember


class Files(Options):
    """Where the files lie. They are remembered beside the runs: name them once."""

    latents: Path | None = None
    """Latents to train on, as `dynamics encode` makes them; for scales that train on latents."""
    vae: str | None = None
    """Folder or hub name of the autoencoder that made them: it decodes samples for FID."""
    inception: Path | None = None
    """Weights of Inception for FID, pt_inception-2015-12-05-6726825d.pth."""
    reference: Path | None = None
    """Statistics that FID compares with: ADM's npz, or from `dynamics statistics`."""

    def over(self, others: Self) -> Self:
        """Return these where they are named, and the others elsewhere."""
        return others.model_copy(update=self.model_dump(exclude_none=True))

    def absolute(self) -> Self:
        """Return the same files under names that hold in every folder."""
        here = {
            name: str(Path(value).expanduser().absolute())
            for name, value in self.model_dump(exclude_none=True).items()
            if name != "vae" or Path(value).expanduser().exists()  # else it is a name on the hub
        }
        return type(self).model_validate({**dict(self), **here})


Prepare = Callable[[str, Path], Files]
"""Makes files that a scale needs and nobody has, in a folder; it is asked each time, and leaves alone what is there."""


class FidRequest(Options):
    """An evaluation by FID, with the files it takes; a job does it on all its ranks."""

    fid: FidOptions
    inception: Path
    reference: Path
    vae: str | None


Evaluation = EvaluationOptions | FidRequest
EVALUATIONS: TypeAdapter[tuple[Evaluation, ...]] = TypeAdapter(tuple[Evaluation, ...])
"""Evaluations as JSON, as a job carries them and a diary remembers them."""


def requested(options: EvaluationOptions, files: Files, on_latents: bool) -> Evaluation:
    """Return what a job is asked for; FID without its files stays as it is, and `check_files` refuses it.

    Latents have no classifier: of runs on latents FID takes the place of other distances, with as many samples as
    published values have.
    """
    if on_latents and not isinstance(options, FidOptions):
        options = FidOptions.model_validate(options.model_dump(exclude={"num_samples", "batch_size"}))
    if not isinstance(options, FidOptions) or files.inception is None or files.reference is None:
        return options
    return FidRequest(fid=options, inception=files.inception, reference=files.reference, vae=files.vae)


def remembered(sweep: SweepFolder) -> Files:
    """Return the files that were named for a sweep before.

    Raises:
        ValueError: The file that remembers them is damaged.
    """
    return recall(_path(sweep), Files, "remove the file, and name its files again") or Files()


def settled(sweep: SweepFolder, named: Files, prepare: Prepare | None) -> Files:
    """Return a sweep's files and remember them: those named now, or before, or else what the experiment makes itself.

    Args:
        sweep: The sweep.
        named: On the command line.
        prepare: The experiment's own, if it has one.
    """
    if prepare is None and named == Files():
        return remembered(sweep)
    with sweep.submitting():
        before = remembered(sweep)
        made = prepare(sweep.scale, sweep.path / "files") if prepare else Files()
        files = named.absolute().over(before).over(made.absolute())
        if files != before:
            remember(_path(sweep), files)
    return files


def check_files(evaluation: Evaluation, on_latents: bool) -> None:
    """Refuse FID without the files it takes.

    Raises:
        ValueError: One is not named, or not there.
    """
    if isinstance(evaluation, FidOptions):
        received = "not both named"
        raise invalid("inception, reference", received, "two files, for FID", "--inception FILE --reference FILE")
    if not isinstance(evaluation, FidRequest):
        return
    for name, path in (("inception", evaluation.inception), ("reference", evaluation.reference)):
        if not path.is_file():
            raise invalid(name, str(path), "an existing file, for FID", f"--{name} FILE")
    if on_latents and evaluation.vae is None:
        raise invalid("vae", None, "the autoencoder that made the latents, for FID", "--vae FOLDER, or its hub name")


def _path(sweep: SweepFolder) -> Path:
    return sweep.path / "files.json"
