"""p_acc(t): learn v from the noisiest times downwards (Denoising Task Difficulty curriculum, 2403.10348)."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field

from dynamics.curricula.plan import Curriculum, Plan, State, record
from dynamics.flow.progress import Progress
from dynamics.flow.times import MaxMinLaw, TimeLaw, UniformWithinTimes, WithinTimes
from dynamics.options import invalid
from dynamics.record import StepRecord
from dynamics.rng import generator


class DTD(Curriculum):
    """Clusters of t by SNR, the noisiest first, accumulated downwards; after the last stage ordinary training.

    At stage j of N the r = t rows come from the first j + 1 clusters, in the paper's order t >= edge[N - 1 - j]. The
    next stage begins when the raw v loss has not improved for `patience` steps (the weighted loss is constant by
    construction and paces nothing), or after fixed lengths.
    That the paper means this curriculum is inferred; every open choice is a named option.
    """

    SERIES: ClassVar[Mapping[str, tuple[str, str]]] = {
        "dtd_stage": ("1", "stage of the denoising-difficulty curriculum")
    }

    kind: Literal["dtd"] = "dtd"
    num_clusters: int = Field(default=20, gt=1)
    """Number N of clusters."""
    clusters: Literal["uniform", "quantile"] = "uniform"
    """Edges equally spaced in t, or at equal probability under the base law."""
    law: Literal["truncated", "uniform"] = "truncated"
    """Inside the range: the base law given t >= edge, or uniform."""
    scope: Literal["v", "both"] = "v"
    """Which rows are restricted: r = t rows, or all rows."""
    pacing: Literal["adaptive", "fixed"] = "adaptive"
    """When the next stage begins: no improvement for `patience` steps, or every `stage_steps` steps."""
    patience: int = Field(default=200, gt=0)
    """Steps without improvement of the raw v loss (tau_max) before the next stage."""
    stage_steps: int = Field(default=350, gt=0)
    """Length of a stage under fixed pacing, in steps."""
    order: Literal["noisy_first", "clean_first", "shuffled"] = "noisy_first"
    """In which order clusters join: the paper's, and two that tell whether its order matters."""
    order_seed: int = 0
    """Which shuffled order."""

    def initial_state(self) -> State:
        return {"stage": 0, "best": None, "waited": 0, "steps": 0}

    def observe(self, state: State, record: StepRecord) -> State:
        raw_v = record.raw_v
        stage, best, waited = state["stage"], state["best"], state["waited"]
        steps = state["steps"] + 1
        if stage >= self.num_clusters - 1:
            return state
        if not math.isnan(raw_v):  # a step without r = t rows says nothing about v
            improved = best is None or raw_v < best
            best, waited = (raw_v, 0) if improved else (best, waited + 1)
        over = waited >= self.patience if self.pacing == "adaptive" else steps >= self.stage_steps
        if over:  # a new range has a new loss scale: forget the best
            return {"stage": stage + 1, "best": None, "waited": 0, "steps": 0}
        return {"stage": stage, "best": best, "waited": waited, "steps": steps}

    def apply(self, plan: Plan, progress: Progress, state: State) -> Plan:
        plan = record(plan, dtd_stage=state["stage"])
        if state["stage"] >= self.num_clusters - 1:
            return plan
        equal_law = self._restricted(plan.equal_law, state["stage"])
        gap_law = self._restricted(plan.gap_law, state["stage"]) if self.scope == "both" else plan.gap_law
        return replace(plan, equal_law=equal_law, gap_law=gap_law)

    def _restricted(self, law: TimeLaw, stage: int) -> TimeLaw:
        if not isinstance(law, MaxMinLaw):
            allowed = "logit_normal or uniform_pair before this curriculum"
            raise invalid("curricula.dtd", law, allowed, "put dtd first, or use scope 'v'")
        intervals: list[tuple[float, float]] = []
        for cluster in sorted(self._joining()[: stage + 1]):
            low, high = (self._edge(law, i / self.num_clusters) for i in (cluster, cluster + 1))
            if intervals and intervals[-1][1] == low:  # neighbours are one interval
                low = intervals.pop()[0]
            intervals.append((low, high))
        return (
            WithinTimes(base=law, intervals=tuple(intervals))
            if self.law == "truncated"
            else UniformWithinTimes(intervals=tuple(intervals))
        )

    def _joining(self) -> list[int]:
        """Return the clusters, numbered from clean to noisy, in the order in which they join."""
        clusters = list(range(self.num_clusters))
        if self.order == "shuffled":
            return torch.randperm(self.num_clusters, generator=generator(self.order_seed, "dtd order")).tolist()
        return clusters if self.order == "clean_first" else clusters[::-1]

    def _edge(self, law: MaxMinLaw, fraction: float) -> float:
        if self.clusters == "uniform":
            return fraction
        # t is the larger of two draws: its distribution function is F^2
        return float(law.draw_quantile(torch.tensor(fraction, dtype=torch.float64).sqrt()))
