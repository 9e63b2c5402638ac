"""A curriculum in one file that hears: gaps whose gradients oppose that of v wait until they no longer do."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from pydantic import Field
from torch import Tensor

from dynamics.curricula import Curriculum, Plan, Progress, State
from dynamics.curricula.plan import record, weigh_u
from dynamics.estimators import split_products
from dynamics.estimators.cosine import cosines


class AffinityGate(Curriculum):
    """A bin of the gap has the weight `low` while the cosine of its gradient with that of v is negative.

    The cosine is the unbiased one of the observer `gram`, averaged over measurements.
    """

    SERIES: ClassVar[Mapping[str, tuple[str, str]]] = {"open_gaps": ("1", "bins of the gap whose rows count fully")}
    READS: ClassVar[frozenset[str]] = frozenset({"gram"})

    kind: Literal["affinity_gate"] = "affinity_gate"
    low: float = Field(default=0.1, ge=0)
    """Weight of a bin that opposes v."""
    memory: float = Field(default=0.5, ge=0, lt=1)
    """How much of the earlier average a measurement leaves."""

    def initial_state(self) -> State:
        return {"edges": [], "cosine": torch.zeros(0, dtype=torch.float64)}

    def learn(self, state: State, measured: Mapping[str, xr.Dataset]) -> State:
        gram = measured["gram"]
        found = cosines(split_products(gram["gram"].sel(group="model").values))[0, 1:]  # v is the first task
        new = torch.from_numpy(np.nan_to_num(found))  # no signal counts as no opposition
        old = state["cosine"] if len(state["cosine"]) else new
        edges = [float(gram["gap_low"][1]), *gram["gap_high"].values[1:].tolist()]
        return {"edges": edges, "cosine": self.memory * old + (1 - self.memory) * new}

    def apply(self, plan: Plan, progress: Progress, state: State) -> Plan:
        weights = torch.where(state["cosine"] < 0, self.low, 1.0)

        def weight(plan: Plan, t: Tensor, r: Tensor) -> Tensor:
            if not state["edges"]:
                return torch.ones_like(t)
            inner = t.new_tensor(state["edges"][1:-1])
            return weights.to(t)[torch.bucketize((t - r).contiguous(), inner)]

        return record(weigh_u(plan, weight), open_gaps=float((weights == 1).sum()))
