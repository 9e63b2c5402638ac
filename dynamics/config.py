"""The whole configuration of a run."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Self

import torch
from pydantic import ValidationError, model_validator

from dynamics.curricula import Curriculum, Progress, plan_for
from dynamics.data import DataOptions, DataSource, Digits
from dynamics.flow.times import TimesOptions
from dynamics.instruments import CellsOptions, GapsOptions, InstrumentOptions
from dynamics.models import DiTOptions, ModelOptions
from dynamics.objectives import MeanFlow, Objective
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
        for teacher in self.objective.teachers():
            if teacher not in (known := ("model", "ema", *self.training.averages)):
                raise invalid("objective.teacher", teacher, ", ".join(known), "add its decay to training.ema_decays")
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
