"""Named configs: those of the laptop, of the studies and of the papers."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamics.config import RunConfig, with_values
from dynamics.curricula import (
    BETA,
    MIN_SNR,
    Curriculum,
    GapLaw,
    LearnedVariance,
    TemporalEquilibrium,
    denoising_difficulty,
)
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
from dynamics.flow.published_laws import GapThenEnd, LogitNormalTime, SeparateDraws, TwoLogitNormals
from dynamics.flow.times import LogitNormalPair, TimesOptions, UniformPair
from dynamics.instruments import CellsOptions, GapsOptions
from dynamics.models import DiTOptions, MLPOptions
from dynamics.models.dit import SIZES
from dynamics.objectives import (
    TEMF,
    TVM,
    Adaptive,
    AlphaFlow,
    Annealed,
    FlowMatching,
    Guidance,
    GuidanceLaw,
    IMeanFlow,
    MeanFlow,
    Shortcut,
    SoFlow,
    SplitMeanFlow,
)
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


# laws of times of the other objectives; r = t rows take one draw of t. AlphaFlow's code leaves them out: MeanFlow's
_ALPHAFLOW_TIMES = TimesOptions(equal_law=LogitNormalTime(), gap_share=0.5)
_TEMF_TIMES = TimesOptions(equal_law=LogitNormalTime(), gap_share=0.1)
_SOFLOW_TIMES = TimesOptions(law=SeparateDraws(), equal_law=LogitNormalTime(mean=-0.2), gap_share=0.25)
_TVM_TIMES = TimesOptions(law=GapThenEnd(), equal_law=LogitNormalTime(), gap_share=0.5)
_DMF_TIMES = TimesOptions(
    law=TwoLogitNormals(later_mean=0.4, earlier_mean=-1.2), equal_law=LogitNormalTime(mean=0.0), gap_share=0.5
)


def _family_on_digits() -> dict[str, RunConfig]:
    """Return the other objectives on digits, at the effective guidance of the baseline, 4/3; laws of times, weights and
    teachers are those of the papers' codes."""
    shortcut = Shortcut(guidance_scale=4 / 3)
    values: dict[str, dict[str, Any]] = {
        "alphaflow": {
            "objective": AlphaFlow(guidance=Guidance(k=0.25, label_drop="guided")),
            "times": _ALPHAFLOW_TIMES,
        },
        "soflow": {
            "objective": SoFlow(guidance=Guidance(w=1 / 3, k=0.75, t_end=0.8, fade=0.025)),
            "times": _SOFLOW_TIMES,
        },
        # the paper's share of r < t rows (section 3.2); its code's default is 1/8
        "shortcut": {"objective": shortcut, "times": shortcut.times(0.25)},
        "split": {
            "objective": SplitMeanFlow(guidance=Guidance(k=0.25)),
            "times": TimesOptions(law=UniformPair(), gap_share=0.5),
        },
        "tvm": {
            "objective": TVM(guidance=Guidance(w=4 / 3), teacher="0.99"),
            "times": _TVM_TIMES,
            "training.ema_decays": (0.995, 0.99),
        },
        # 2510.24474: the loss of MeanFlow with a learned weight; ours: trained from scratch, all blocks know t and r, a
        # row is of one kind where each image is of both, and no gradient is clipped
        "dmf": {
            "objective": MeanFlow(adaptive=Adaptive(p=0.0), guidance=Guidance(k=0.25)),
            "times": _DMF_TIMES,
            "curricula": (LearnedVariance(form="log", initial=math.log(64), eps=0.01, learning_rate=2e-3),),
        },
        "temf": {
            "objective": TEMF(guidance=Guidance(w=0.4, k=0.7, label_drop="guided")),
            "times": _TEMF_TIMES,
            "curricula": (TemporalEquilibrium(),),
        },
        "imf": {"objective": IMeanFlow(sampled=GuidanceLaw()), "times.gap_share": 0.5},
    }
    return {f"digits-{name}": with_values(_BASELINE, changes) for name, changes in values.items()}


def _family_at_paper_scale() -> dict[str, RunConfig]:
    """Return the other objectives as their official codes have them; latents and precision are as for MeanFlow."""
    b4, b2, xl2 = (_at_paper_scale(_PAPER[name], "meanflow") for name in ("b4", "b2", "xl2"))
    # snap-research/alphaflow, experiments-alphaflow.yaml: alpha moves from step 600,000 to 1,000,000
    guidance = Guidance(w=0.2, k=0.92, t_end=0.75, label_drop="guided")
    alphaflow = AlphaFlow(guidance=guidance, alpha=Annealed(start=1 / 2, end=5 / 6), target_clamp=4.0)
    of_alphaflow = {"objective": alphaflow, "times": _ALPHAFLOW_TIMES, "training.num_steps": 1_200_000}
    # not in its code: XL/2+ goes on from XL/2 (start.run), with alpha = 0, for 60 epochs of larger batches
    longer = {"training.num_steps": round(60 * IMAGENET_IMAGES / 1024), "training.batch_size": 1024}
    at_the_end = {"objective.alpha": Annealed(path="constant", first=0.0)}
    # yuanpengtu/TEMF, experiments-temf.yaml: an effective guidance of 1
    of_temf = {"objective": TEMF(), "times": _TEMF_TIMES, "training.num_steps": 1_200_000}
    of_temf |= {"curricula": (TemporalEquilibrium(),)}
    # zlab-princeton/SoFlow, imagenet.yaml: cfg_scale 3, mix_ratio 1/4, so w = 3/4 and k = 3/4
    soflow = SoFlow(guidance=Guidance(w=0.75, k=0.75, t_end=0.8, fade=0.025))
    of_soflow = {"objective": soflow, "times": _SOFLOW_TIMES, "training.num_steps": 400_000}
    # kvfrans/shortcut-models, README and train.py
    shortcut = Shortcut(guidance_scale=1.5)
    of_shortcut = {"objective": shortcut, "times": shortcut.times(1 / 8), "training.num_steps": 810_000} | {
        f"training.{name}": value
        for name, value in {"betas": (0.9, 0.999), "weight_decay": 0.1, "ema_decays": (0.999,)}.items()
    }
    return {
        "xl2-alphaflow": with_values(xl2, of_alphaflow),
        "xl2plus-alphaflow": with_values(xl2, of_alphaflow | longer | at_the_end),
        "b2-temf": with_values(b2, of_temf),
        "xl2-temf": with_values(xl2, of_temf),
        "b4-soflow": with_values(b4, of_soflow | {"training.betas": (0.9, 0.99)}),
        "b2-shortcut": with_values(b2, of_shortcut),
        "xl2-shortcut": with_values(xl2, of_shortcut),
        "b2-imf": with_values(b2, _of_imf((0.4, 0.65))),
        "xl2-imf": with_values(xl2, _of_imf((0.42, 0.62))),
    }


def _of_imf(interval: tuple[float, float]) -> dict[str, Any]:
    """Return what the official code of Improved Mean Flows (2512.02012) has for B/2, on the plain DiT."""
    epoch = IMAGENET_IMAGES / 1024
    training = {"batch_size": 1024, "num_steps": round(640 * epoch), "warmup_steps": round(10 * epoch)}
    objective = IMeanFlow(sampled=GuidanceLaw(asked_scale=8.0, asked_interval=interval))
    of_training = {f"training.{name}": value for name, value in training.items()}
    return {"objective": objective, "times.gap_share": 0.5} | of_training


PRESETS: dict[str, RunConfig] = {
    "digits-meanflow": _BASELINE,
    "digits-improved": _BASELINE.model_copy(update={"curricula": (MIN_SNR, BETA)}),
    "digits-gap-law": _BASELINE.model_copy(
        update={"times": TimesOptions(gap_share=0.5), "curricula": (GapLaw(share_to=0.5, start=0.5, end=1.0),)}
    ),
    "digits-flow-matching": _BASELINE.model_copy(
        update={"objective": FlowMatching(), "times": TimesOptions(gap_share=0.0)}
    ),
    **_family_on_digits(),
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
    **_family_at_paper_scale(),
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
