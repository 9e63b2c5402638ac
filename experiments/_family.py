"""Objectives that are trained on one scale: each with its own laws of times, weights, teacher and curriculum.

Targets are unguided; TEMF's, whose mix of guidance moves, have an effective scale of 1. So the truth of all is that of
the data.
"""

from dynamics.config import RunConfig
from dynamics.objectives import (
    TEMF,
    TVM,
    Adaptive,
    AlphaFlow,
    Guidance,
    IMeanFlow,
    MeanFlow,
    Objective,
    Shortcut,
    SoFlow,
    SplitMeanFlow,
)
from dynamics.planning.estimate import forwards_per_row
from dynamics.presets import baseline, preset
from dynamics.sweep.grid import Changes, with_values

TEACHER = 0.99
_OBJECTIVES: dict[str, Objective] = {
    "meanflow": MeanFlow(),
    "meanflow p=0": MeanFlow(adaptive=Adaptive(p=0.0)),
    "alphaflow": AlphaFlow(),
    "imf": IMeanFlow(),
    "soflow": SoFlow(),
    "shortcut": Shortcut(teacher=str(TEACHER)),
    "split": SplitMeanFlow(),
    "tvm": TVM(teacher=str(TEACHER)),
    "dmf": MeanFlow(adaptive=Adaptive(p=0.0)),
    "temf": TEMF(guidance=Guidance(w=0.3, k=0.7, label_drop_prob=0.0)),
}


def base(scale: str) -> RunConfig:
    """Return the studies' config, with a second average that teachers may be."""
    config = baseline(scale)
    return with_values(config, {"training.ema_decays": tuple(dict.fromkeys((*config.training.ema_decays, TEACHER)))})


def objectives() -> dict[str, Changes]:
    """Return what each objective changes, by name."""
    return {name: _own(name, objective) for name, objective in _OBJECTIVES.items()}


def _own(name: str, objective: Objective) -> Changes:
    published = preset(f"digits-{name.split()[0]}")
    return {"objective": objective, "times": published.times, "curricula": published.curricula}


def at_equal_compute(scale: str, changes: Changes) -> Changes:
    """Return the changes with as many steps as cost what the steps of MeanFlow do, counted in forward passes a row."""
    cost, num_steps = forwards_per_row(with_values(base(scale), changes)), base(scale).training.num_steps
    plain = forwards_per_row(with_values(base(scale), objectives()["meanflow"]))
    return {**changes, **lasting(round(num_steps * plain / cost))}


def lasting(num_steps: int) -> Changes:
    """Return what a run of so many steps changes."""
    return {"training.num_steps": num_steps, "training.checkpoint_every": num_steps}
