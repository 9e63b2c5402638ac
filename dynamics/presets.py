"""Named configs: those of the laptop, of the studies and of the papers."""

from dataclasses import dataclass
from pathlib import Path

from dynamics.config import RunConfig
from dynamics.curricula import BETA, MIN_SNR, Curriculum, GapLaw, denoising_difficulty
from dynamics.data import (
    IMAGENET_IMAGES,
    Checkerboard,
    DigitsMixture,
    EightGaussians,
    Latents,
    Mnist5k,
    MnistMixture,
    Spiral,
    TwoMoons,
)
from dynamics.flow.times import LogitNormalPair, TimesOptions
from dynamics.instruments import CellsOptions, GapsOptions
from dynamics.models import DiTOptions, MLPOptions
from dynamics.models.dit import SIZES
from dynamics.objectives import Adaptive, FlowMatching, Guidance, MeanFlow
from dynamics.options import invalid
from dynamics.training import TrainingOptions

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
