"""The whole configuration of a run, and the presets."""

import hashlib
import json
from typing import Self

import torch
from pydantic import model_validator

from dynamics.curricula import Beta, CurriculumOptions, GapLaw, MinSNR, Progress, plan_for
from dynamics.data import DataOptions
from dynamics.flow.times import TimesOptions
from dynamics.instruments import CellsOptions, GapsOptions, ObserverOptions
from dynamics.models import DiTOptions, MLPOptions, ModelOptions
from dynamics.objectives import Adaptive, FlowMatching, Guidance, MeanFlow, ObjectiveOptions
from dynamics.options import Options, invalid
from dynamics.training import StartOptions, TrainingOptions


class RunConfig(Options):
    """Everything that decides the outcome of a run."""

    seed: int = 0
    """Seed of initialisation, data order, times, noise and label drop."""
    data: DataOptions = DataOptions()
    model: ModelOptions = DiTOptions()
    objective: ObjectiveOptions = MeanFlow()
    times: TimesOptions = TimesOptions()
    curricula: tuple[CurriculumOptions, ...] = ()
    training: TrainingOptions = TrainingOptions()
    start: StartOptions = StartOptions()
    observers: tuple[ObserverOptions, ...] = (GapsOptions(), CellsOptions())

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        # parts that cannot work together fail here and not in the middle of a run
        num_steps, states = self.training.num_steps, [c.initial_state() for c in self.curricula]
        for step in (0, num_steps - 1):
            plan = plan_for(self.times, self.curricula, Progress(step, num_steps), states)
            if isinstance(self.objective, FlowMatching) and plan.gap_share:
                allowed = "0 at every step with the flow_matching objective"
                raise invalid("times.gap_share", plan.gap_share, allowed, "set it to 0, and leave gap_share_to out")
            plan.u_weight(torch.ones(1), torch.zeros(1))
        kinds = [o.kind for o in self.observers]
        if len(set(kinds)) < len(kinds):  # two would record into one group
            raise invalid("observers", kinds, "each kind once", "leave one of the two out")
        return self

    def to_json(self) -> str:
        """Return the config as canonical JSON."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def run_id(self) -> str:
        """Hash of the JSON, 12 hexadecimal digits: equal configs have equal ids.

        Example:
            >>> RunConfig().run_id == RunConfig().run_id, RunConfig().run_id == RunConfig(seed=1).run_id
            (True, False)
        """
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]


_DIGITS = TrainingOptions(num_steps=2000, batch_size=64, learning_rate=2e-3, ema_decays=(0.995,))
_DIT = DiTOptions(patch_size=2, dim=64, depth=4, heads=4)
_BASELINE = RunConfig(
    model=_DIT,
    objective=MeanFlow(guidance=Guidance(w=1.0, k=0.25)),  # effective guidance scale w / (1 - k) = 1.33
    training=_DIGITS,
)

PRESETS: dict[str, RunConfig] = {
    "digits-meanflow": _BASELINE,
    "digits-improved": _BASELINE.model_copy(update={"curricula": (MinSNR(), Beta())}),
    "digits-gap-law": _BASELINE.model_copy(
        update={"times": TimesOptions(gap_share=0.5), "curricula": (GapLaw(share_to=0.5, start=0.5, end=1.0),)}
    ),
    "digits-flow-matching": _BASELINE.model_copy(
        update={"objective": FlowMatching(), "times": TimesOptions(gap_share=0.0)}
    ),
    "mnist-meanflow": _BASELINE.model_copy(
        update={"data": DataOptions(name="mnist5k"), "model": _DIT.model_copy(update={"patch_size": 7})}
    ),
    # as tuned in experiments/baseline_tuning.py
    "mixture-meanflow": RunConfig(
        data=DataOptions(name="digits-mixture"),
        model=MLPOptions(),
        objective=MeanFlow(adaptive=Adaptive(p=0.0), guidance=Guidance(w=1.0, k=0.25)),
        training=TrainingOptions(
            num_steps=800, batch_size=256, learning_rate=3e-3, ema_decays=(0.98,), num_threads=1, checkpoint_every=400
        ),
    ),
}
"""One row per preset; every value not named here is the default of its room."""


def preset(name: str) -> RunConfig:
    """Return a preset by name.

    Raises:
        ValueError: unknown name.
    """
    if name not in PRESETS:
        raise invalid("preset", name, ", ".join(PRESETS), "choose one of these, or pass the path of a config.json")
    return PRESETS[name]


_STUDIES = {
    "digits": PRESETS["mixture-meanflow"],
    "digits-dit": PRESETS["digits-meanflow"],
    "mnist5k": PRESETS["mnist-meanflow"],
}
_SHORT = {"num_steps": 600, "ema_decays": (0.98,), "num_threads": 1}


def baseline(scale: str) -> RunConfig:
    """Return the config that the studies of a scale start from, unguided, so that exact velocities are the data's.

    Args:
        scale: digits (a small MLP on the mixture: the broad studies), digits-dit and mnist5k (a small DiT, for 600
            steps), or any other for which there is a preset `<scale>-meanflow`.

    Raises:
        ValueError: There is no preset for that scale.
    """
    config = _STUDIES.get(scale) or preset(f"{scale}-meanflow")
    training = config.training.model_copy(update=_SHORT) if scale in ("digits-dit", "mnist5k") else config.training
    return config.model_copy(update={"objective": MeanFlow(adaptive=config.objective.adaptive), "training": training})
