"""Seeds that were begun beyond those that an experiment names, because its claims were not decided yet.

A look is taken after 5, 10, 15, ... seeds; arms that nobody waits for stop. What was begun is remembered in the sweep's
folder, so that every verb finds the same runs. It follows from the runs: where the file is lost, looking again finds
the same verdicts, and with them the same arms.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from dynamics.config import Changes
from dynamics.options import Options, invalid
from dynamics.sweep.sweep_folder import SweepFolder, recall, remember

EVERY = 5
"""Seeds between two looks."""


class SeedsBegun(Options):
    """Looks of a sweep, and how far its arms have come. An arm is a cell of all axes but the seed."""

    looks: tuple[int, ...] = Field(min_length=1)
    """Numbers of seeds at which one looks; the last one is the most that there will be. Fixed before the first look:
    the limits of p-values follow from them."""
    made: int = Field(default=0, ge=0)
    """How many looks were made."""
    arms: dict[str, int] = Field(default_factory=dict)
    """Seeds of each arm that were begun; of one that is not named, those of the first look."""

    def of(self, knobs: Mapping[str, object]) -> int:
        """Return how many seeds were begun of the arm with these labels."""
        return self.arms.get(arm_text(knobs), self.looks[0])

    @property
    def at(self) -> int:
        """Seeds at which the next look is taken, or the last one was."""
        return max(self.arms.values(), default=self.looks[0])

    def behind(self, arms: Collection[str]) -> list[str]:
        """Return those of some arms that have not come to the last look.

        These are all of them until somebody has; later, those that stopped before a change of the experiment's file.
        """
        return [arm for arm in arms if self.arms.get(arm, self.looks[0]) < self.looks[-1]]

    def further(self, arms: Collection[str], num_seeds: int) -> "SeedsBegun":
        """Return the same where these arms go on to a number of seeds."""
        there = {arm: self.arms.get(arm, self.looks[0]) for arm in (*self.arms, *arms)}
        return self.model_copy(update={"arms": there | {arm: max(there[arm], num_seeds) for arm in arms}})


def arm_text(knobs: Mapping[str, object]) -> str:
    """Return the name of the arm that a run belongs to.

    Example:
        >>> arm_text({"gap": "0.1-0.3", "rate": 0.001, "seed": 4})
        'gap=0.1-0.3 rate=0.001'
    """
    return " ".join(f"{axis}={label}" for axis, label in knobs.items() if axis != "seed")


def looks_until(most: int, own: int) -> tuple[int, ...]:
    """Return the looks of a sweep: after 5, 10, 15, ... seeds and after the most that there may be.

    Args:
        most: Largest number of seeds.
        own: Seeds that the experiment names: they are run in any case, and nobody looks earlier.

    Raises:
        ValueError: The most is less than that, or one seed.

    Example:
        >>> looks_until(32, 3)
        (5, 10, 15, 20, 25, 32)
    """
    if most < max(own, 2):
        allowed = f"at least {max(own, 2)}: the experiment itself names {own}"
        raise invalid("max-seeds", most, allowed, f"--max-seeds {max(32, own)}, say")
    return (*(n for n in range(EVERY, most - EVERY // 2, EVERY) if n >= own), most)


def seeds_of_axes(experiment: str, axes: Mapping[str, Mapping[Any, Changes]]) -> list[int]:
    """Return the seeds that an experiment names, in their order.

    Raises:
        ValueError: It has no axis `seed` whose labels are seeds and change nothing else.
    """
    own = axes.get("seed", {})
    if not own or any(not isinstance(label, int) or change != {"seed": label} for label, change in own.items()):
        received = "another axis seed" if own else f"axes {', '.join(axes)}"
        remedy = 'name the axis {"seed": {n: {"seed": n} for n in range(5)}}'
        raise invalid(f"experiment {experiment}", received, "an axis seed whose labels are seeds", remedy)
    return sorted(own)


def more_seeds(own: Sequence[int], most: int) -> list[int]:
    """Return so many seeds: an experiment's own, and those that follow on the largest of them."""
    return [*own, *range(own[-1] + 1, own[-1] + 1 + most - len(own))]


def seeds_begun(sweep: SweepFolder) -> SeedsBegun | None:
    """Return what was begun of a sweep; None where nobody looks before the end.

    Raises:
        ValueError: The file that remembers it is damaged.
    """
    return recall(
        _path(sweep), SeedsBegun, "remove it; submit --until-decided with the same --max-seeds finds it all again"
    )


def begin(sweep: SweepFolder, own: int, most: int | None, default: int = 32) -> SeedsBegun:
    """Return what was begun of a sweep, or fix its looks now.

    Args:
        sweep: The sweep.
        own: Seeds that the experiment names.
        most: Largest number of seeds; None takes what was fixed before, or the default.
        default: See there.

    Raises:
        ValueError: Another number was fixed before.
    """
    with sweep.submitting():
        there = seeds_begun(sweep)
        if there is None:
            there = SeedsBegun(looks=looks_until(default if most is None else most, own))
            remember(_path(sweep), there)
    if most is not None and most != there.looks[-1]:
        allowed = f"{there.looks[-1]}, as fixed before the first look: the limits of all looks follow from it"
        raise invalid("max-seeds", most, allowed, f"--max-seeds {there.looks[-1]}, or another --results")
    return there


def went_on(sweep: SweepFolder, made: int, arms: Collection[str]) -> SeedsBegun:
    """Remember that so many looks were made and that these arms go on to the next, and return what was begun."""
    with sweep.submitting():
        there = seeds_begun(sweep)
        if there is None:
            raise invalid(str(_path(sweep)), "no file", "what was begun", "the same command again")
        after = there.further(arms, there.looks[min(made, len(there.looks) - 1)]) if arms else there
        after = after.model_copy(update={"made": max(made, there.made)})
        if after != there:
            remember(_path(sweep), after)
    return after


def _path(sweep: SweepFolder) -> Path:
    return sweep.path / "seeds.json"
