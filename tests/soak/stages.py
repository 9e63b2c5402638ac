"""What harm is done to: small runs at several stages, a sweep, latents. Each is made once and copied for each event.

Commands work in the copy's folder and all their paths are relative, so that nothing of a result depends on where it is.
"""

import io
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image
from sweeps._sweep import small

from dynamics.config import RunConfig, with_values
from dynamics.curricula import DTD, Beta, GapLaw, MinSNR
from dynamics.data import DataOptions
from dynamics.flow.times import TimesOptions
from dynamics.instruments import CellsOptions, GapsOptions
from dynamics.models import MLPOptions
from dynamics.objectives import Guidance, MeanFlow
from dynamics.store import RunLog
from dynamics.training import TrainingOptions
from soak.warm import Work, command

SIDE = 16
"""Side in pixels of the images that become latents."""
TRAIN = command("train", "config.json", "--out", "run")
CHILD = command("train", "child.json", "--out", "child")
EVALUATE = command("evaluate", "run", "--nfe", "1", "2", "--num-samples", "20", "--exact-rows", "4")
PROBE = command(
    *("probe", "run", "--instruments", "gram", "lookahead", "--gap-edges", "0.2", "0.5"),
    *("--num-splits", "2", "--rows-per-split", "4"),
)
EVALUATE_MORE = command("evaluate", "run", "--nfe", "4", "--num-samples", "20", "--exact-rows", "4")
PROBE_MORE = command(
    *("probe", "run", "--instruments", "decomposition", "--gap-edges", "0.2", "0.5"),
    *("--num-splits", "2", "--rows-per-split", "4"),
)
REPORT = command("report", "run", "--out", "report")
ENCODE_WORDS = ("encode", "images", "--out", "latents", "--vae", "vae", "--image-size", str(SIDE), "--batch-size", "2")
ENCODE = command(*ENCODE_WORDS)
ON_LATENTS = command("train", "latents.json", "--out", "run")
SWEEP = ("sweeps", "tiny")
MERGED = "results/tiny/digits.nc"
COLLECT = command(*SWEEP, "collect")


def config(seed: int = 0) -> RunConfig:
    """Return a run of a fraction of a second that uses every part with state."""
    return RunConfig(
        model=MLPOptions(dim=16, depth=1),
        objective=MeanFlow(guidance=Guidance(k=0.5)),
        times=TimesOptions(gap_share=0.5),
        curricula=(DTD(num_clusters=3, patience=2), MinSNR(normalise=True), Beta(), GapLaw(start=0.2)),
        training=TrainingOptions(
            num_steps=16, batch_size=8, ema_decays=(0.9, 0.99), checkpoint_every=5, num_threads=1, warmup_steps=3
        ),
        observers=(GapsOptions(every=7, rows_per_bin=4), CellsOptions(every=7)),
        seed=seed,
    )


class _Halfway(BaseException):
    """The end of a run that is left unfinished."""


@contextmanager
def _stopping_after(records: int) -> Iterator[None]:
    """Let a training end, as a kill would, right after so many records of its log."""
    append, numbers = RunLog.append, count(1)

    def counted(self: RunLog, record: object) -> None:
        append(self, record)  # type: ignore[arg-type]
        if next(numbers) == records:
            raise _Halfway

    RunLog.append = counted  # type: ignore[method-assign,assignment]
    try:
        yield
    except _Halfway:
        return
    finally:
        RunLog.append = append  # type: ignore[method-assign]


@dataclass(frozen=True)
class Stages:
    """The stages, made below a folder when they are first asked for."""

    root: Path

    def _made(self, name: str, *steps: Work, base: Path | None = None) -> Path:
        folder = self.root / name
        if not folder.exists():
            making = self.root / f"{name}.making"
            shutil.rmtree(making, ignore_errors=True)
            shutil.copytree(base, making) if base else making.mkdir(parents=True)
            with chdir(making):
                for step in steps:
                    step()
            making.rename(folder)
        return folder

    @cached_property
    def fresh(self) -> Path:
        """A config, and nothing done."""

        def write() -> None:
            Path("config.json").write_text(config().model_dump_json(indent=1))

        return self._made("fresh", write)

    @cached_property
    def halfway(self) -> Path:
        """A run killed after step 12; its checkpoints are of steps 5 and 10."""
        return self._made("halfway", _half(TRAIN, 17), base=self.fresh)

    @cached_property
    def finished(self) -> Path:
        """The same run, continued to its end."""
        return self._made("finished", TRAIN, base=self.halfway)

    @cached_property
    def measured(self) -> Path:
        """The finished run, evaluated and probed."""
        return self._made("measured", PROBE, base=self.evaluated)

    @cached_property
    def evaluated(self) -> Path:
        """The finished run, evaluated."""
        return self._made("evaluated", EVALUATE, base=self.finished)

    @cached_property
    def probed(self) -> Path:
        """The finished run, probed."""
        return self._made("probed", PROBE, base=self.finished)

    @cached_property
    def evaluated_more(self) -> Path:
        """The measured run, evaluated once more."""
        return self._made("evaluated_more", EVALUATE_MORE, base=self.measured)

    @cached_property
    def probed_more(self) -> Path:
        """The measured run, probed once more."""
        return self._made("probed_more", PROBE_MORE, base=self.measured)

    @cached_property
    def another(self) -> Path:
        """A run of another seed, measured: `swap` takes its files."""

        def write() -> None:
            Path("config.json").write_text(config(1).model_dump_json(indent=1))

        return self._made("another", write, TRAIN, EVALUATE, PROBE)

    @cached_property
    def reported(self) -> Path:
        """The measured run with its report."""
        return self._made("reported", REPORT, base=self.measured)

    @cached_property
    def child_halfway(self) -> Path:
        """A run that starts from another one, killed in between: folders named by their run_id, and `child`."""
        parent = config()

        def write() -> None:
            shutil.move("run", parent.run_id)
            child = with_values(config(2), {"start.run": parent.run_id})
            Path("child.json").write_text(child.model_dump_json(indent=1))

        return self._made("child_halfway", write, _half(CHILD, 17), base=self.finished)

    @cached_property
    def child_finished(self) -> Path:
        """That run, continued to its end."""
        return self._made("child_finished", CHILD, base=self.child_halfway)

    @cached_property
    def images(self) -> Path:
        """Pictures in three tar files, and a tiny autoencoder."""

        def write() -> None:
            from experiments._rehearsal import autoencoder

            random = np.random.default_rng(0)
            Path("images").mkdir()
            for i in range(3):
                with tarfile.open(f"images/{i}.tar", "w") as tar:
                    for j in range(2 + i):
                        content = io.BytesIO()
                        pixels = random.integers(0, 256, (20, 20, 3), dtype=np.uint8)
                        Image.fromarray(pixels).save(content, "png")
                        member = tarfile.TarInfo(f"{'ab'[j % 2]}/{i}{j}.png")
                        member.size = content.tell()
                        tar.addfile(member, io.BytesIO(content.getvalue()))
            autoencoder(Path("vae"), levels=3)

        return self._made("images", write)

    @cached_property
    def encoded(self) -> Path:
        """Latents of the pictures, and the config of a run on them."""

        def write() -> None:
            data = DataOptions.member("latents")(path=Path("latents"), vae="vae", image_size=SIDE)
            on_latents = config().model_copy(update={"data": data, "observers": (CellsOptions(every=7),)})
            Path("latents.json").write_text(on_latents.model_dump_json(indent=1))

        return self._made("encoded", ENCODE, write, base=self.images)

    @cached_property
    def half_encoded(self) -> Path:
        """The same, as one of two processes leaves them that share the work."""
        half = command(*ENCODE_WORDS, "--shard", "0/2")
        return self._made("half_encoded", half, base=self.images)

    @cached_property
    def latents_halfway(self) -> Path:
        """A run on latents, killed in between."""
        return self._made("latents_halfway", _half(ON_LATENTS, 14), base=self.encoded)

    @cached_property
    def latents_finished(self) -> Path:
        """That run, continued to its end."""
        return self._made("latents_finished", ON_LATENTS, base=self.latents_halfway)

    @cached_property
    def sweep_ids(self) -> tuple[str, ...]:
        """The runs that are done of the sweep: one that starts from another, that one, and one that does not."""
        runs = small("tiny", self.root).runs
        child = next(run for run in runs if run.first is not None)
        assert child.first is not None
        alone = next(run for run in runs if run.first is None and run.run_id != child.first.run_id)
        return child.first.run_id, child.run_id, alone.run_id

    @cached_property
    def swept(self) -> Path:
        """Three runs of a sweep, done."""
        return self._made("swept", self.submit)

    @cached_property
    def unswept(self) -> Path:
        """The same without one of them."""
        return self._made("unswept", lambda: shutil.rmtree(f"results/tiny/digits/{self.sweep_ids[2]}"), base=self.swept)

    @cached_property
    def collected(self) -> Path:
        """Three runs of a sweep, done and collected."""
        return self._made("collected", COLLECT, base=self.swept)

    @property
    def submit(self) -> Work:
        """Do the three runs."""
        return command(*SWEEP, "submit", "--cluster", "debug", "--only", *self.sweep_ids[1:])


def _half(work: Work, records: int) -> Work:
    def begin() -> None:
        with _stopping_after(records):
            work()

    return begin
