"""The one question that every curriculum answers: what law of times and what weights at this step?"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from dynamics.flow.times import TimeLaw, TimesOptions
from dynamics.options import Options

Weight = Callable[["Plan", Tensor, Tensor], Tensor]
"""(plan, t [B], r [B]) -> weight [B]; the plan is the final one, so that a weight can depend on the law in force."""
State = dict[str, Any]
"""What a curriculum remembers between steps: JSON values only, since it lives in the checkpoint."""


@dataclass(frozen=True)
class Plan:
    """How the rows of one step are drawn and weighted."""

    equal_law: TimeLaw
    """Law of the r = t rows (its t is used)."""
    gap_law: TimeLaw
    """Law of the r < t rows."""
    gap_share: float
    """Share of rows with r < t."""
    v_weights: tuple[Weight, ...] = ()
    """Factors of the weight of an r = t row."""
    u_weights: tuple[Weight, ...] = ()
    """Factors of the weight of an r < t row."""
    series: dict[str, float] = field(default_factory=dict)
    """Numbers worth recording at every step, by name."""

    def v_weight(self, t: Tensor) -> Tensor:
        """Return the weight [B] of r = t rows at times t [B]."""
        return self._product(self.v_weights, t, t)

    def u_weight(self, t: Tensor, r: Tensor) -> Tensor:
        """Return the weight [B] of r < t rows."""
        return self._product(self.u_weights, t, r)

    def _product(self, weights: tuple[Weight, ...], t: Tensor, r: Tensor) -> Tensor:
        out = t.new_ones(t.shape)
        for weight in weights:
            out = out * weight(self, t, r)
        return out


@dataclass(frozen=True)
class Progress:
    """Where training stands."""

    step: int
    """Optimiser steps done so far, 0-based index of the coming one."""
    num_steps: int
    """Total planned steps T."""

    @property
    def fraction(self) -> float:
        """i / T in [0, 1)."""
        return self.step / self.num_steps


class Curriculum(Options):
    """A change of the plan as training proceeds. Curricula form a chain: each takes the plan of the one before."""

    @abstractmethod
    def apply(self, plan: Plan, progress: Progress, state: State) -> Plan:
        """Return the plan of the coming step."""

    def initial_state(self) -> State:
        """Return what the curriculum remembers at the start; most remember nothing."""
        return {}

    def observe(self, state: State, raw_v: float) -> State:
        """Return the state after a step whose r = t rows had mean raw loss raw_v (NaN if there were none)."""
        return state


def plan_for(times: TimesOptions, curricula: tuple[Curriculum, ...], progress: Progress, states: list[State]) -> Plan:
    """Build the plan of one step: the base law, changed by each curriculum in turn."""
    plan = Plan(times.law, times.law, times.gap_share)
    for curriculum, state in zip(curricula, states, strict=True):
        plan = curriculum.apply(plan, progress, state)
    return plan


def weigh_v(plan: Plan, weight: Weight) -> Plan:
    """Return the plan with one more factor on r = t rows."""
    return replace(plan, v_weights=(*plan.v_weights, weight))


def weigh_u(plan: Plan, weight: Weight) -> Plan:
    """Return the plan with one more factor on r < t rows."""
    return replace(plan, u_weights=(*plan.u_weights, weight))


def record(plan: Plan, **series: float) -> Plan:
    """Return the plan with more recorded numbers."""
    return replace(plan, series={**plan.series, **series})
