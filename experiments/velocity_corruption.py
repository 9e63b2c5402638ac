"""How much does u suffer when the target of v is corrupted?

Study O1c of "Understanding, Accelerating, and Improving MeanFlow Training" (2511.19065): Gaussian noise of scale k
||v|| on the target of v. How the noise enters is not published, so every reading has a name; fresh noise leaves the
expected target as it is, noise that comes back (with the image, or in the whole run) does not. Noise of an image
needs images that come back: those arms, and their own clean one, train on the 1797 digits instead of the mixture.
"""

from itertools import product

from dynamics.analysis import Claim
from dynamics.config import RunConfig
from dynamics.evaluation import EvaluationOptions
from dynamics.objectives import CorruptedMeanFlow
from dynamics.presets import baseline
from dynamics.sweep.grid import Axes, Changes, with_values
from experiments._measuring import errors, samples

QUESTION = "Which noise on the target of v, how strong and how it enters, degrades u?"
PRIMARY = "one_step_error"
LEVELS, SCALES = (0.03, 0.1, 0.3), ("norm", "element", "literal")
SEEDS = {"digits": 5, "digits-dit": 3, "mnist5k": 3, "testbed": 5, "b4": 3, "xl2": 1}
FINITE = {"data.name": "digits"}


def _claim(arm: str, against: str = "clean", text: str = "") -> Claim:
    said = text or f"O1c: noise on the target of v degrades u ({arm})"
    return Claim(said, PRIMARY, {"target": arm}, "higher", {"target": against}, source="2511.19065")


CLAIMS = (
    _claim("norm fresh 0.03", text="O1c: even k = 0.03 degrades u (norm, fresh)"),
    _claim("norm fresh 0.3"),
    _claim("literal fresh 0.3"),
    _claim("norm run 0.03", text="O1c: even k = 0.03 degrades u (norm, the same noise all along)"),
    _claim("norm run 0.3"),
    _claim("norm image 0.3", "clean, images"),
)


def base(scale: str) -> RunConfig:
    return with_values(baseline(scale), {"observers": (errors(scale, every=200),)})


def axes(scale: str) -> Axes:
    objective = baseline(scale).objective
    inherited = {"adaptive": objective.adaptive, "guidance": objective.guidance}

    def noisy(level: float, kind: str, noise: str, **more: object) -> Changes:
        given = {"level": level, "scale": kind, "noise": noise}
        return {"objective": CorruptedMeanFlow.model_validate({**inherited, **given}), **more}

    targets: dict[str, Changes] = {"clean": {}}
    for kind, noise, level in product(SCALES, ("fresh", "run"), LEVELS):
        if level != 0.1 or kind == "norm":
            targets[f"{kind} {noise} {level:g}"] = noisy(level, kind, noise)
    if scale == "digits":
        targets["clean, images"] = FINITE
        targets |= {
            f"norm {noise} 0.3{', images' if noise == 'fresh' else ''}": noisy(0.3, "norm", noise, **FINITE)
            for noise in ("fresh", "image")
        }
    if scale == "testbed":
        compared = {str(side["target"]) for claim in CLAIMS for side in (claim.arm, claim.against)}
        targets = {name: changes for name, changes in targets.items() if name in compared}
    return {"target": targets, "seed": {seed: {"seed": seed} for seed in range(SEEDS[scale])}}


def evaluation(scale: str) -> list[EvaluationOptions]:
    return samples(scale, by_v=False)
