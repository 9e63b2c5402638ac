"""What is trained and how: all that a step, an instrument or a plan has to know of a run."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from dynamics.curricula import Curriculum, Plan, Progress, State, plan_for
from dynamics.data import DataSource
from dynamics.flow.condition import Condition
from dynamics.flow.times import TimesOptions
from dynamics.objectives import Objective
from dynamics.options import invalid
from dynamics.record import SERIES, RowTable
from dynamics.rng import generator
from dynamics.training.optimisation import TrainingOptions

TAKEN = {"group", "step", *(field.name for field in fields(RowTable))}
"""Names that a line of the log, or a row of a step, has for something else than a series."""


@dataclass(frozen=True)
class Recipe:
    """Data, objective, laws of times, curricula and optimisation of a run, and the seed of all its streams."""

    data: DataSource
    objective: Objective
    times: TimesOptions
    curricula: tuple[Curriculum, ...]
    training: TrainingOptions
    seed: int
    streams: int = 0
    """Which of the seed's streams training draws its rows from."""

    @property
    def rows_seed(self) -> int:
        """Seed of images, noise, times and dropped labels of training; instruments take `seed`."""
        return generator(self.seed, "streams", self.streams).initial_seed() if self.streams else self.seed

    @property
    def condition(self) -> Condition:
        """What the network is conditioned on."""
        return self.objective.condition(self.data.condition)

    def progress(self, step: int) -> Progress:
        """Return where training stands after so many steps."""
        return Progress(step, self.training.num_steps)

    def plan(self, step: int, states: list[State]) -> Plan:
        """Return how the rows of a step are drawn and weighted, given what the curricula remember."""
        return plan_for(self.times, self.curricula, self.progress(step), states)


def series_of(objective: Objective, curricula: tuple[Curriculum, ...]) -> dict[str, tuple[str, str]]:
    """Return unit and text, by name, of every number that is recorded at each step.

    Raises:
        ValueError: Two owners declare one name differently, or somebody a name that is no name of a series.

    Example:
        >>> from dynamics.curricula import Beta
        >>> from dynamics.objectives import MeanFlow
        >>> series_of(MeanFlow(), (Beta(),))["beta_s"]
        ('1', 'progress s of beta(dt, s)')
    """
    out = dict(SERIES)
    owners: list[tuple[str, Mapping[str, tuple[str, str]]]] = [(objective.kind, objective.SERIES)]
    for owner, declared in [*owners, *((c.kind, c.SERIES) for c in curricula)]:
        for name, said in declared.items():
            if name in TAKEN or not name.isidentifier():
                allowed = f"an identifier that is none of {', '.join(sorted(TAKEN))}"
                raise invalid(f"series of {owner}", name, allowed, "choose another name")
            if out.setdefault(name, said) != said:
                raise invalid(f"series of {owner}", name, "a name that nobody else records", "choose another name")
    return out
