"""The one question that every curriculum answers: what law of times and what weights at this step?"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import xarray as xr
from torch import Tensor

from dynamics.flow.progress import Progress
from dynamics.flow.times import TimeLaw, TimesOptions
from dynamics.options import Family, invalid
from dynamics.record import StepRecord

Weight = Callable[["Plan", Tensor, Tensor], Tensor]
"""(plan, t [B], r [B]) -> weight [B]; the plan is the final one, so that a weight can depend on the law in force."""
LossWeight = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(t [B], r [B], raw loss [B] without gradient) -> weight [B]"""
State = dict[str, Any]
"""What a curriculum remembers between steps: JSON values and tensors by name, since it lives in the checkpoint."""


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
    loss_weights: tuple[LossWeight, ...] = ()
    """Factors of the weight of any row that know its loss."""
    series: dict[str, float] = field(default_factory=dict)
    """Numbers worth recording at every step, by name."""

    def v_weight(self, t: Tensor) -> Tensor:
        """Return the weight [B] of r = t rows at times t [B]."""
        return self._product(self.v_weights, t, t)

    def u_weight(self, t: Tensor, r: Tensor) -> Tensor:
        """Return the weight [B] of r < t rows."""
        return self._product(self.u_weights, t, r)

    def loss_weight(self, t: Tensor, r: Tensor, raw: Tensor) -> Tensor:
        """Return the weight [B] of rows with raw losses [B] without gradient."""
        out = t.new_ones(t.shape)
        for weight in self.loss_weights:
            out = out * weight(t, r, raw)
        return out

    def _product(self, weights: tuple[Weight, ...], t: Tensor, r: Tensor) -> Tensor:
        out = t.new_ones(t.shape)
        for weight in weights:
            out = out * weight(self, t, r)
        return out


class Curriculum(Family):
    """A change of the plan as training proceeds. Curricula form a chain: each takes the plan of the one before.

    A new one is one file: a subclass with a `kind` of its own. What it remembers is changed by `observe` and `learn`
    alone, which return a new state; every rank calls them with equal arguments and must come to an equal state.
    """

    SERIES: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """Unit and text, by name, of the numbers that it records at every step (see `record`)."""
    READS: ClassVar[frozenset[str]] = frozenset()
    """Kinds of the observers whose measurements it learns from; a run must have them."""

    kind: str

    @abstractmethod
    def apply(self, plan: Plan, progress: Progress, state: State) -> Plan:
        """Return the plan of the coming step."""

    def initial_state(self) -> State:
        """Return what the curriculum remembers at the start; most remember nothing."""
        return {}

    def observe(self, state: State, record: StepRecord) -> State:
        """Return the state after a step.

        Args:
            state: That before the step.
            record: The step's losses and norms: their means, its rows one by one, and sums by time and gap.
        """
        return state

    def learn(self, state: State, measured: Mapping[str, xr.Dataset]) -> State:
        """Return the state after observers have measured, before the checkpoint of that step.

        Args:
            state: That before.
            measured: The measurements of this step by kind, of the observers named in READS that were due.
        """
        return state


def plan_for(times: TimesOptions, curricula: tuple[Curriculum, ...], progress: Progress, states: list[State]) -> Plan:
    """Build the plan of one step: the base law, changed by each curriculum in turn."""
    plan = Plan(times.equal_law or times.law, times.law, times.gap_share)
    for curriculum, state in zip(curricula, states, strict=True):
        before, plan = plan.series, curriculum.apply(plan, progress, state)
        if undeclared := sorted(set(plan.series) - set(before) - set(curriculum.SERIES)):
            allowed = ", ".join(curriculum.SERIES) or "none"
            remedy = f"declare its unit and text in {type(curriculum).__name__}.SERIES"
            raise invalid(f"series of {curriculum.kind}", undeclared, allowed, remedy)
    return plan


def weigh_v(plan: Plan, weight: Weight) -> Plan:
    """Return the plan with one more factor on r = t rows."""
    return replace(plan, v_weights=(*plan.v_weights, weight))


def weigh_u(plan: Plan, weight: Weight) -> Plan:
    """Return the plan with one more factor on r < t rows."""
    return replace(plan, u_weights=(*plan.u_weights, weight))


def weigh_by_loss(plan: Plan, weight: LossWeight) -> Plan:
    """Return the plan with one more factor on all rows, which knows their losses."""
    return replace(plan, loss_weights=(*plan.loss_weights, weight))


def record(plan: Plan, **series: float) -> Plan:
    """Return the plan with more recorded numbers."""
    return replace(plan, series={**plan.series, **series})
