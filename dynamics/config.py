"""The whole configuration of a run, and the presets."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import ValidationError, model_validator

from dynamics.curricula import BETA, MIN_SNR, Curriculum, GapLaw, Progress, denoising_difficulty, plan_for
from dynamics.data import (
    IMAGENET_IMAGES,
    Checkerboard,
    DataOptions,
    DataSource,
    Digits,
    DigitsMixture,
    EightGaussians,
    Latents,
    Mnist5k,
    MnistMixture,
    Spiral,
    TwoMoons,
)
from dynamics.flow.times import LogitNormalPair, TimesOptions
from dynamics.instruments import CellsOptions, GapsOptions, InstrumentOptions
from dynamics.models import DiTOptions, MLPOptions, ModelOptions
from dynamics.models.dit import SIZES
from dynamics.objectives import Adaptive, FlowMatching, Guidance, GuidanceLaw, IMeanFlow, MeanFlow, Objective
from dynamics.options import Family, Options, explained_problem, invalid, later
from dynamics.training import Recipe, StartOptions, TrainingOptions, series_of

Changes = Mapping[str, Any]
"""Values by dotted name, such as {"training.learning_rate": 1e-3, "objective": FlowMatching()}."""


class RunConfig(Options):
    """Everything that decides the outcome of a run."""

    seed: int = 0
    """Seed of initialisation, data order, times, noise and label drop."""
    streams: int = later(0, ge=0)
    """Which of the seed's streams the rows of training come from: data order, times, noise and label drop.

    Another one than that of the run that it starts from, or each step draws what that run's same step drew.
    """
    data: DataOptions = Digits()
    model: ModelOptions = DiTOptions()
    objective: Objective = MeanFlow()
    times: TimesOptions = TimesOptions()
    curricula: tuple[Curriculum, ...] = ()
    training: TrainingOptions = TrainingOptions()
    start: StartOptions = StartOptions()
    observers: tuple[InstrumentOptions, ...] = (GapsOptions(), CellsOptions())

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        # parts that cannot work together fail here and not in the middle of a run
        num_steps, states = self.training.num_steps, [c.initial_state() for c in self.curricula]
        for step in (0, num_steps - 1):
            plan = plan_for(self.times, self.curricula, Progress(step, num_steps), states)
            if plan.gap_share and not self.objective.TAKES_GAPS:
                allowed = f"0 at every step with the {self.objective.kind} objective"
                raise invalid("times.gap_share", plan.gap_share, allowed, "set it to 0, and leave gap_share_to out")
            plan.u_weight(torch.ones(1), torch.zeros(1))
        kinds = [o.kind for o in self.observers]
        if len(set(kinds)) < len(kinds):  # two would record into one group
            raise invalid("observers", kinds, "each kind once", "leave one of the two out")
        chain = [c.kind for c in self.curricula]
        if len(set(chain)) < len(chain):  # the second would silently undo or double the first
            raise invalid("curricula", chain, "each kind once", "leave one of the two out")
        for curriculum in self.curricula:
            if missing := sorted(curriculum.READS - set(kinds)):
                allowed = f"{', '.join(missing)} among them, which the curriculum {curriculum.kind} reads"
                raise invalid("observers", kinds, allowed, "add it, or leave the curriculum out")
        series_of(self.objective, self.curricula)
        return self

    def recipe(self, data: DataSource | None = None) -> Recipe:
        """Return what is trained and how; `data` are the config's, if they are loaded already."""
        data = data or self.data.load()
        return Recipe(data, self.objective, self.times, self.curricula, self.training, self.seed, self.streams)

    def to_json(self) -> str:
        """Return the config as canonical JSON, without what joined the options later and is at its default."""
        return _canonical(self.model_dump(mode="json"))

    @property
    def run_id(self) -> str:
        """Hash of the JSON, 12 hexadecimal digits: equal configs have equal ids.

        Example:
            >>> RunConfig().run_id == RunConfig().run_id, RunConfig().run_id == RunConfig(seed=1).run_id
            (True, False)
        """
        content = self.model_dump(mode="json")
        if content["training"]["num_threads"] is None:
            content["training"]["num_threads"] = 2  # the default of the first runs, whose ids hold
        return hashlib.sha256(_canonical(content).encode()).hexdigest()[:12]


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def with_values(config: RunConfig, changes: Changes, where: str = "changes") -> RunConfig:
    """Return the config with other values, validated as a whole.

    Args:
        config: The config.
        changes: Values by dotted name.
        where: Where the changes come from, for the error's text.

    Raises:
        ValueError: Naming the value that does not exist or does not fit.

    Example:
        >>> with_values(RunConfig(), {"seed": 3, "training.num_steps": 10}).training.num_steps
        10
        >>> with_values(RunConfig(), {"data.name": "digits-mixture"}).data
        DigitsMixture(name='digits-mixture', path=None, image_size=None)
        >>> with_values(RunConfig(), {"model.kind": "mlp", "model.dim": 32}).model
        MLPOptions(kind='mlp', dim=32, depth=3, mlp_ratio=2.0)
    """
    try:
        return RunConfig.model_validate(_changed(config, changes))
    except ValueError as error:
        said = explained_problem(error, f"change {where}") if isinstance(error, ValidationError) else error
        raise ValueError(f"{where}: {said}") from error


def _changed(value: Any, changes: Changes) -> Any:
    """Replace values inside options; the rest is handed on as it is, so that it need not be validated again."""
    here = dict(value) if isinstance(value, Options) else {}
    for name in dict.fromkeys(key.split(".")[0] for key in changes):
        if name in changes:
            here[name] = changes[name]
        inner = {key.split(".", 1)[1]: new for key, new in changes.items() if key.startswith(f"{name}.")}
        if inner:
            part = here.get(name)
            if not isinstance(part, Options):
                raise invalid(name, part, "options with values inside", f"there is no {name}.{next(iter(inner))}")
            member = _member(part, inner)
            # another member begins at its own defaults, as on the command line
            here[name] = member.model_validate(_changed(part if type(part) is member else None, inner))
    return here


def _member(part: Options, inner: Changes) -> type[Options]:
    """Return what the changed part is: of a family, the member that the changes name."""
    if not isinstance(part, Family) or inner.get(part.TAG, getattr(part, part.TAG)) == getattr(part, part.TAG):
        return type(part)
    return part.sibling(inner[part.TAG])


_DIGITS = TrainingOptions(num_steps=2000, batch_size=64, learning_rate=2e-3, ema_decays=(0.995,))
_DIT = DiTOptions(patch_size=2, dim=64, depth=4, heads=4)
_BASELINE = RunConfig(
    model=_DIT,
    objective=MeanFlow(guidance=Guidance(w=1.0, k=0.25)),  # effective guidance scale w / (1 - k) = 1.33
    training=_DIGITS,
)

# the papers' own regime: p = 1, far from convergence, u learns from the network's own v, yet the truth is that of the
# data (w' = 1)
_TESTBED = RunConfig(
    data=MnistMixture(),
    model=DiTOptions(patch_size=4, dim=64, depth=4, heads=4),
    objective=MeanFlow(adaptive=Adaptive(p=1.0, c=0.01), guidance=Guidance(w=0.25, k=0.75)),
    training=TrainingOptions(
        num_steps=1000, batch_size=128, learning_rate=2e-3, ema_decays=(0.99,), num_threads=1, checkpoint_every=500
    ),
)


@dataclass(frozen=True)
class _Paper:
    """A row of Mean Flows (2505.13447), table 4: network, guidance inside the target, epochs."""

    size: str
    w: float
    k: float
    t_start: float
    t_end: float
    epochs: int = 240


_PAPER = {
    "b4": _Paper("B/4", 1.0, 0.5, 0.0, 1.0),
    "b2": _Paper("B/2", 1.0, 0.5, 0.0, 1.0),
    "m2": _Paper("M/2", 1.0, 0.5, 0.0, 1.0),
    "l2": _Paper("L/2", 0.2, 0.92, 0.0, 0.8),
    "xl2": _Paper("XL/2", 0.2, 0.92, 0.0, 0.75),
    "xl2plus": _Paper("XL/2", 0.2, 0.92, 0.3, 0.8, epochs=1000),
}
_SCHEDULES = ("meanflow", "improved-minsnr", "improved-dtd")
IMPROVED = {
    # 2511.19065: MinSNR is best at B/4, DTD at L/2 and XL/2; B/2, M/2 and XL/2+ are inferred from their neighbours
    **{f"{scale}-improved": f"{scale}-improved-minsnr" for scale in ("b4", "b2")},
    **{f"{scale}-improved": f"{scale}-improved-dtd" for scale in ("m2", "l2", "xl2", "xl2plus")},
}
"""Which of its two schedules the paper is taken to mean by the improved one, by scale."""


def _at_paper_scale(row: _Paper, schedule: str) -> RunConfig:
    """Return a config of ImageNet 256 x 256 in latents; hyper-parameters of Mean Flows, table 4 and section 5."""
    training = TrainingOptions(
        num_steps=round(row.epochs * IMAGENET_IMAGES / 256),
        batch_size=256,
        learning_rate=1e-4,
        betas=(0.9, 0.95),
        weight_decay=0.0,
        ema_decays=(0.9999,),
        precision="bfloat16",  # ours: of the gradient passes only; the papers do not say
        compile=True,
        num_threads=4,
        checkpoint_every=5000,
    )
    return RunConfig(
        data=Latents(image_size=256),
        model=SIZES[row.size],
        objective=MeanFlow(
            adaptive=Adaptive(p=1.0, c=0.01),
            guidance=Guidance(w=row.w, k=row.k, t_start=row.t_start, t_end=row.t_end, label_drop_prob=0.1),
        ),
        times=TimesOptions(law=LogitNormalPair(mean=-0.4, std=1.0), gap_share=0.25),
        curricula=_curricula(schedule, training.num_steps),
        training=training,
        observers=(GapsOptions(every=10_000), CellsOptions()),
    )


def _imf(scale: str, interval: tuple[float, float]) -> RunConfig:
    """Return a config as the official code of Improved Mean Flows (2512.02012) has it for B/2, on the plain DiT."""
    epoch = IMAGENET_IMAGES / 1024
    training = {"batch_size": 1024, "num_steps": round(640 * epoch), "warmup_steps": round(10 * epoch)}
    return with_values(
        _at_paper_scale(_PAPER[scale], "meanflow"),
        {"times.gap_share": 0.5, **{f"training.{name}": value for name, value in training.items()}}
        | {"objective": IMeanFlow(sampled=GuidanceLaw(asked_scale=8.0, asked_interval=interval))},
    )


def _curricula(schedule: str, num_steps: int) -> tuple[Curriculum, ...]:
    match schedule:
        case "improved-minsnr":
            return MIN_SNR, BETA
        case "improved-dtd":
            return denoising_difficulty(num_steps), BETA
    return ()


PRESETS: dict[str, RunConfig] = {
    "digits-meanflow": _BASELINE,
    "digits-improved": _BASELINE.model_copy(update={"curricula": (MIN_SNR, BETA)}),
    "digits-gap-law": _BASELINE.model_copy(
        update={"times": TimesOptions(gap_share=0.5), "curricula": (GapLaw(share_to=0.5, start=0.5, end=1.0),)}
    ),
    "digits-flow-matching": _BASELINE.model_copy(
        update={"objective": FlowMatching(), "times": TimesOptions(gap_share=0.0)}
    ),
    "digits-imf": with_values(_BASELINE, {"objective": IMeanFlow(sampled=GuidanceLaw()), "times.gap_share": 0.5}),
    "mnist-meanflow": _BASELINE.model_copy(
        update={"data": Mnist5k(), "model": _DIT.model_copy(update={"patch_size": 7})}
    ),
    # as tuned in experiments/baseline_tuning.py
    "mixture-meanflow": RunConfig(
        data=DigitsMixture(),
        model=MLPOptions(),
        objective=MeanFlow(adaptive=Adaptive(p=0.0), guidance=Guidance(w=1.0, k=0.25)),
        training=TrainingOptions(
            num_steps=800, batch_size=256, learning_rate=3e-3, ema_decays=(0.98,), num_threads=1, checkpoint_every=400
        ),
    ),
    "testbed-meanflow": _TESTBED,
    "testbed-mlp-meanflow": _TESTBED.model_copy(update={"model": MLPOptions(dim=384, depth=2, mlp_ratio=1.0)}),
    **{
        f"{data.name}-meanflow": RunConfig(
            data=data,
            model=MLPOptions(dim=128, depth=4),
            objective=MeanFlow(adaptive=Adaptive(p=0.5)),
            training=TrainingOptions(
                num_steps=3000, batch_size=512, learning_rate=2e-3, ema_decays=(0.99,), num_threads=1
            ),
        )
        for data in (Checkerboard(), Spiral(), EightGaussians(), TwoMoons())
    },
    "b2-imf": _imf("b2", (0.4, 0.65)),
    "xl2-imf": _imf("xl2", (0.42, 0.62)),
    **{f"{name}-{schedule}": _at_paper_scale(row, schedule) for name, row in _PAPER.items() for schedule in _SCHEDULES},
}
"""One row per preset; every value not named here is the default of its room."""


def preset(name: str) -> RunConfig:
    """Return a preset by name; `<scale>-improved` is the schedule that the paper found best there, see `IMPROVED`.

    Raises:
        ValueError: unknown name.
    """
    name = IMPROVED.get(name, name)
    if name not in PRESETS:
        raise invalid(
            "preset", name, ", ".join((*PRESETS, *IMPROVED)), "choose one of these, or pass the path of a config.json"
        )
    return PRESETS[name]


def named_config(name: str) -> RunConfig:
    """Return a preset, or the config of a JSON file.

    Raises:
        ValueError: There is no preset and no file of that name, or the file holds something else.
    """
    path = Path(name)
    return RunConfig.read(path, "mend the file, or pass a preset") if path.is_file() else preset(name)


_STUDIES = {
    "digits": PRESETS["mixture-meanflow"],
    "digits-dit": PRESETS["digits-meanflow"],
    "mnist5k": PRESETS["mnist-meanflow"],
}
_GUIDED = (*_PAPER, "testbed", "testbed-mlp")
_SHORT = {"num_steps": 600, "ema_decays": (0.98,), "num_threads": 1}


def baseline(scale: str) -> RunConfig:
    """Return the config that the studies of a scale start from.

    Where exact velocities are known they are the data's: it is unguided, but for the testbed, whose guidance leaves the
    truth where it is. At paper scale it is guided as published.

    Args:
        scale: digits (a small MLP on the mixture: the broad studies), digits-dit and mnist5k (a small DiT, for 600
            steps), testbed and testbed-mlp (under-trained, as the papers' networks are), or any other for which there
            is a preset `<scale>-meanflow`.

    Raises:
        ValueError: There is no preset for that scale.
    """
    config = _STUDIES.get(scale) or preset(f"{scale}-meanflow")
    if scale in _GUIDED:
        return config
    training = config.training.model_copy(update=_SHORT) if scale in ("digits-dit", "mnist5k") else config.training
    return config.model_copy(update={"objective": config.objective.measured("off"), "training": training})
