"""The presets at paper scale, held to what was published: every number with its source."""

import pytest

from dynamics.config import RunConfig
from dynamics.curricula import DTD, Beta, MinSNR, TemporalEquilibrium
from dynamics.flow.condition import ClassLabels
from dynamics.flow.published_laws import LogitNormalTime, SeparateDraws
from dynamics.flow.times import DyadicSteps, LogitNormalPair
from dynamics.objectives import TEMF, Adaptive, AlphaFlow, Annealed, Guidance, MeanFlow, Shortcut, SoFlow
from dynamics.planning.cost import cost
from dynamics.presets import PRESETS, baseline, preset

# Mean Flows (2505.13447), table 4: parameters, depth, width, heads, patch, GFLOPs, w, kappa, interval of t, epochs.
# XL/2+ is its section 5 (1000 epochs). The number of parameters is that of the official code, to the last unit.
TABLE = {
    "b4": (131_165_248, 12, 768, 12, 4, 5.6, 1.0, 0.5, (0.0, 1.0), 240),
    "b2": (131_091_472, 12, 768, 12, 2, 23.1, 1.0, 0.5, (0.0, 1.0), 240),
    "m2": (308_019_216, 16, 1024, 16, 2, 54.0, 1.0, 0.5, (0.0, 1.0), 240),
    "l2": (459_137_040, 24, 1024, 16, 2, 80.9, 0.2, 0.92, (0.0, 0.8), 240),
    "xl2": (676_440_592, 28, 1152, 16, 2, 119.0, 0.2, 0.92, (0.0, 0.75), 240),
    "xl2plus": (676_440_592, 28, 1152, 16, 2, 119.0, 0.2, 0.92, (0.3, 0.8), 1000),
}
# effective guidance w / (1 - kappa), table 4
SCALES = {"b4": 2.0, "b2": 2.0, "m2": 2.0, "l2": 2.5, "xl2": 2.5, "xl2plus": 2.5}
SCHEDULES = ("meanflow", "improved-minsnr", "improved-dtd")
ALL = pytest.mark.parametrize("config", [PRESETS[f"{n}-{s}"] for n in TABLE for s in SCHEDULES])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", TABLE)
def test_network_guidance_and_length(name: str, schedule: str) -> None:
    parameters, depth, dim, heads, patch, gflops, w, k, interval, epochs = TABLE[name]
    config = PRESETS[f"{name}-{schedule}"]
    model, objective = config.model, config.objective
    assert isinstance(objective, MeanFlow)
    found = cost(model, *config.data.dimensions())
    assert (model.depth, model.dim, model.heads, model.patch_size) == (depth, dim, heads, patch)
    assert found.num_parameters == parameters
    assert found.forward_gflops == pytest.approx(gflops, rel=0.03)
    guidance = objective.guidance
    assert (guidance.w, guidance.k, (guidance.t_start, guidance.t_end)) == (w, k, interval)
    assert guidance.w / (1 - guidance.k) == pytest.approx(SCALES[name])
    assert config.training.num_steps == pytest.approx(epochs * 1_281_167 / 256, abs=1)


@ALL
def test_what_all_have_in_common(config: RunConfig) -> None:
    training, objective = config.training, config.objective
    assert isinstance(objective, MeanFlow)
    # Mean Flows, section 5 and appendix A; official code for p, c and the label drop
    assert (training.learning_rate, training.betas, training.weight_decay) == (1e-4, (0.9, 0.95), 0.0)
    assert (training.warmup_steps, training.clip_norm) == (0, None)
    assert (training.batch_size, training.ema_decays) == (256, (0.9999,))
    assert (objective.adaptive.p, objective.adaptive.c, objective.guidance.label_drop_prob) == (1.0, 0.01, 0.1)
    assert (config.times.law, config.times.gap_share) == (LogitNormalPair(mean=-0.4, std=1.0), 0.25)
    # latents of sd-vae-ft-mse at 256 x 256, scaled as in DiT (2212.09748)
    assert config.data.dimensions() == ((4, 32, 32), ClassLabels(1000))


def test_the_improved_schedules() -> None:
    """2511.19065, section 4: MinSNR, gamma 5 (2303.09556); DTD, 20 clusters and 200 steps (2403.10348); beta, k = 1."""
    for name in TABLE:
        assert PRESETS[f"{name}-meanflow"].curricula == ()
        assert PRESETS[f"{name}-improved-minsnr"].curricula == (MinSNR(form="v", gamma=5.0), Beta(k=1.0))
        dtd, beta = PRESETS[f"{name}-improved-dtd"].curricula
        assert beta == Beta(k=1.0)
        assert isinstance(dtd, DTD)
        assert (dtd.num_clusters, dtd.pacing, dtd.patience, dtd.order) == (20, "adaptive", 200, "noisy_first")
        # best there: MinSNR at B/4, DTD at L/2 and XL/2; the others are inferred
        best = "minsnr" if name in ("b4", "b2") else "dtd"
        assert preset(f"{name}-improved") == PRESETS[f"{name}-improved-{best}"]


def test_presets_name_every_reading() -> None:
    """What the paper leaves open does not hang on the default of a class."""
    for name, config in PRESETS.items():
        for curriculum in config.curricula:
            if isinstance(curriculum, MinSNR | DTD | Beta):
                said = curriculum.model_fields_set | {"kind"}
                assert said >= set(type(curriculum).model_fields), (name, curriculum.kind)


@pytest.mark.parametrize("scale", TABLE)
def test_studies_at_paper_scale_are_guided_as_published(scale: str) -> None:
    config = baseline(scale)
    assert config == PRESETS[f"{scale}-meanflow"]
    assert isinstance(config.objective, MeanFlow)
    assert config.objective.guidance.k == TABLE[scale][7]
    for small in ("digits", "digits-dit", "mnist5k"):
        assert not baseline(small).objective.guidance.active  # type: ignore[attr-defined]


@pytest.mark.parametrize("scale", ["b2", "xl2"])
def test_shortcut_models(scale: str) -> None:
    """2410.12557; official code, README (network, guidance, steps, batch) and train.py (the rest)."""
    config, training = PRESETS[f"{scale}-shortcut"], PRESETS[f"{scale}-shortcut"].training
    assert config.model == PRESETS[f"{scale}-meanflow"].model
    assert config.objective == Shortcut(guidance_scale=1.5, teacher="ema", clip=4.0, label_drop_prob=0.1)
    assert (training.num_steps, training.batch_size, training.learning_rate) == (810_000, 256, 1e-4)
    assert (training.betas, training.weight_decay, training.ema_decays) == ((0.9, 0.999), 0.1, (0.999,))
    assert (config.times.gap_share, config.times.law) == (1 / 8, DyadicSteps(longest=0, shortest=6))
    assert config.times.equal_law == DyadicSteps(longest=7, shortest=7)
    assert PRESETS["digits-shortcut"].times.law == config.times.law


def test_alphaflow() -> None:
    """2510.20771; official code, experiments-alphaflow.yaml, alphaflow-sigmoid-latentspace-XL-2-cfg-training."""
    config, training = PRESETS["xl2-alphaflow"], PRESETS["xl2-alphaflow"].training
    guidance = Guidance(w=0.2, k=0.92, t_start=0.0, t_end=0.75, label_drop_prob=0.1, label_drop="guided")
    alpha = Annealed(path="sigmoid", first=1.0, last=0.0, start=0.5, end=5 / 6, steepness=25.0, clamp=0.005)
    assert config.objective == AlphaFlow(guidance=guidance, alpha=alpha, target_clamp=4.0)
    assert (config.times.gap_share, training.num_steps, training.batch_size) == (0.5, 1_200_000, 256)
    assert (training.learning_rate, training.betas, training.weight_decay) == (1e-4, (0.9, 0.95), 0.0)
    assert [alpha.at(step / 1_200_000) for step in (600_000, 800_000, 1_000_000)] == [1.0, pytest.approx(0.5), 0.0]
    assert PRESETS["xl2plus-alphaflow"].objective.alpha.at(0.0) == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("scale", ["b2", "xl2"])
def test_temf(scale: str) -> None:
    """Official code (yuanpengtu/TEMF), experiments-temf.yaml and temf.yaml: guidance_scale 1, mix .3 to .1."""
    config, training = PRESETS[f"{scale}-temf"], PRESETS[f"{scale}-temf"].training
    assert config.model == PRESETS[f"{scale}-meanflow"].model
    guidance = Guidance(w=0.3, k=0.7, t_start=0.0, t_end=1.0, label_drop_prob=0.1, label_drop="guided")
    assert config.objective == TEMF(adaptive=Adaptive(p=0.0, reduction="mean"), guidance=guidance, mix_to=0.1)
    weights = TemporalEquilibrium(slope=1.0, share_from=0.1, share_to=0.9, steepness=8.0, centre=0.6)
    assert config.curricula == (weights,)
    assert config.times.law == LogitNormalPair(mean=-0.4, std=1.0)
    assert config.times.equal_law == LogitNormalTime(mean=-0.4, std=1.0)
    assert (training.num_steps, training.batch_size, training.betas) == (1_200_000, 256, (0.9, 0.95))


def test_soflow() -> None:
    """2512.15657; official code, imagenet.yaml: cfg_scale 3, mix_ratio 0.25, cfg_decay_time 0.8."""
    config, training = PRESETS["b4-soflow"], PRESETS["b4-soflow"].training
    guidance = Guidance(w=0.25 * 3.0, k=1 - 0.25, t_end=0.8, fade=0.025, label_drop_prob=0.1)
    assert config.objective == SoFlow(guidance=guidance)
    assert [SoFlow().alpha.at(fraction) for fraction in (0.0, 1.0)] == pytest.approx([0.1, 0.002])
    assert config.times.law == SeparateDraws(t_mean=0.2, t_std=0.8, r_mean=-1.0, r_std=0.8)
    assert (config.times.gap_share, config.times.equal_law) == (0.25, LogitNormalTime(mean=-0.2, std=1.0))
    assert (training.num_steps, training.batch_size, training.learning_rate) == (400_000, 256, 1e-4)
    assert (training.betas, training.weight_decay, training.ema_decays) == ((0.9, 0.99), 0.0, (0.9999,))
