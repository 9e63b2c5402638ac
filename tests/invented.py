"""Objectives and curricula that exist for tests alone: they use what the toolkit's own ones leave unused."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import xarray as xr
from torch import Tensor

from dynamics.curricula import Curriculum, Plan, Progress, State, StepRecord
from dynamics.curricula.plan import record, weigh_u, weigh_v
from dynamics.flow.path import expand
from dynamics.flow.rows import Rows
from dynamics.models import Network
from dynamics.objectives import Adaptive, LossTerms, Objective, squared_error
from dynamics.oracles import Oracle


class Picky(Objective):
    """Asks the network about some rows only, those of late times: how many there are depends on the draw.

    `passes` says by which way gradients reach the weights: an ordinary pass, beside a derivative, the model's own
    answer and a teacher's, all three without gradient; the value and the slope of a differentiable derivative; its
    slope alone, which does not depend on every weight; or an ordinary pass and a differentiable derivative together.
    """

    SERIES: ClassVar[Mapping[str, tuple[str, str]]] = {
        "picked": ("1", "share of rows that the network was asked about")
    }

    kind: Literal["picky"] = "picky"
    passes: Literal["ordinary", "derivative", "slope", "both"] = "ordinary"
    late: float = 0.8
    """Rows with t above are asked about."""

    def loss(self, net: Network, rows: Rows, now: Progress) -> LossTerms:
        z, v = rows.path()
        pick = (rows.t > self.late).nonzero()[:, 0]
        few, t, r, c = z[pick], rows.t[pick], rows.r[pick], rows.c[pick]
        found, wanted = getattr(self, f"_{self.passes}")(net, few, t, r, c, v[pick])
        prediction = torch.zeros_like(z).index_put((pick,), found)
        target = torch.zeros_like(z).index_put((pick,), wanted)
        raw = squared_error(prediction, target)
        picked = (rows.t > self.late).float()
        return LossTerms(raw, Adaptive(p=0.0).weight(raw), prediction, target, extras={"picked": picked})

    def _ordinary(self, net: Network, *rows: Any) -> tuple[Tensor, Tensor]:
        z, t, r, c, v = rows
        own, teacher = net.frozen(z, t, r, c), net.frozen(z, t, t, c, weights="ema")
        _, du_dt = net.jvp(z, t, r, c, dz=v)
        return net(z, t, r, c), v - expand(t - r, v) * du_dt + 0.5 * (teacher - own)

    def _derivative(self, net: Network, *rows: Any) -> tuple[Tensor, Tensor]:
        z, t, r, c, v = rows
        u, du_dt = net.jvp(z, t, r, c, dz=v, differentiable=True)
        # a pass without gradient after it, which must not leave anything behind
        return u + expand(t - r, v) * du_dt, v + 0.1 * net.frozen(z, t, t, c)

    def _slope(self, net: Network, *rows: Any) -> tuple[Tensor, Tensor]:
        z, t, r, c, v = rows
        return net.jvp(z, t, r, c, dz=v, differentiable=True)[1], v

    def _both(self, net: Network, *rows: Any) -> tuple[Tensor, Tensor]:
        z, t, r, c, v = rows
        slope = net.jvp(z, t, r, c, dz=torch.zeros_like(v), dt=0.0, dr=1.0, differentiable=True)[1]
        return net(z, t, r, c) - expand(t - r, v) * slope, v

    def truth(self, oracle: Oracle) -> Oracle:
        return oracle

    def measured(self, guidance: Literal["run", "off"]) -> Objective:
        return self


class Loudest(Objective):
    """Flow matching that records numbers of its rows; `says` names those it hands over, SERIES declares."""

    SERIES: ClassVar[Mapping[str, tuple[str, str]]] = {
        "loudest": ("pixel", "largest component of the prediction, mean over rows"),
        "hour": ("1", "time of a row, mean over rows"),
    }

    kind: Literal["loudest"] = "loudest"
    says: tuple[str, ...] = ("loudest", "hour")

    def loss(self, net: Network, rows: Rows, now: Progress) -> LossTerms:
        z, v = rows.path()
        prediction = net(z, rows.t, rows.r, rows.c)
        raw = squared_error(prediction, v)
        # that one of them still has a gradient does no harm
        columns = {"loudest": prediction.flatten(1).abs().amax(1), "hour": rows.t, "other": rows.r}
        extras = {name: columns[name] for name in self.says}
        return LossTerms(raw, Adaptive(p=0.0).weight(raw), prediction, v, extras=extras)

    def truth(self, oracle: Oracle) -> Oracle:
        return oracle

    def measured(self, guidance: Literal["run", "off"]) -> Objective:
        return self


class Remembering(Curriculum):
    """Divides each row's weight by the loss that is usual at its time, which it learns step by step with moments."""

    SERIES: ClassVar[Mapping[str, tuple[str, str]]] = {"spread": ("1", "standard deviation of the learned logarithms")}

    kind: Literal["remembering"] = "remembering"
    bins: int = 5

    def initial_state(self) -> State:
        zeros = torch.zeros(self.bins)
        return {
            "table": zeros.double(),
            "moments": torch.stack([zeros, zeros]),
            "seen": zeros.long(),
            "known": zeros.bool(),
            "last": torch.tensor(0.0),
            "losses": torch.zeros(0, 2),
            "note": {"steps": 0, "best": None},
        }

    def observe(self, state: State, record: StepRecord) -> State:
        rows, where = record.rows, self._bin(record.rows.t)
        count = torch.bincount(where, minlength=self.bins)
        total = torch.bincount(where, rows.raw.log(), minlength=self.bins)
        known = count > 0
        wrong = torch.where(known, state["table"] - total / count.clamp(min=1), 0.0)
        first, second = state["moments"]
        moments = torch.stack([0.9 * first + 0.1 * wrong, 0.99 * second + 0.01 * wrong.square()])
        losses = torch.tensor([[record.raw_v, record.raw_u]])
        note = state["note"]
        best = record.loss if note["best"] is None else min(note["best"], record.loss)
        return {
            "table": state["table"] - 0.1 * moments[0] / (moments[1].sqrt() + 1e-3),
            "moments": moments.float(),
            "seen": state["seen"] + count,
            "known": state["known"] | known,
            "last": torch.tensor(record.loss),
            "losses": torch.cat([state["losses"], losses]),
            "note": {"steps": note["steps"] + 1, "best": best},
        }

    def apply(self, plan: Plan, progress: Progress, state: State) -> Plan:
        scale = (-state["table"]).exp()

        def weight(plan: Plan, t: Tensor, r: Tensor) -> Tensor:
            return scale.to(t)[self._bin(t)]

        return record(weigh_u(weigh_v(plan, weight), weight), spread=float(state["table"].std()))

    def _bin(self, t: Tensor) -> Tensor:
        return (t * self.bins).long().clamp(max=self.bins - 1)


class Listening(Curriculum):
    """Weighs r < t rows by what the observer `gaps` says of their error, and notes all that it is told."""

    SERIES: ClassVar[Mapping[str, tuple[str, str]]] = {"heard": ("1", "measurements that were heard of")}
    READS: ClassVar[frozenset[str]] = frozenset({"gaps"})

    kind: Literal["listening"] = "listening"

    def initial_state(self) -> State:
        return {"told": [], "errors": torch.zeros(0, dtype=torch.float64)}

    def learn(self, state: State, measured: Mapping[str, xr.Dataset]) -> State:
        errors = torch.from_numpy(measured["gaps"].u_error.values.copy())
        return {"told": [*state["told"], sorted(measured)], "errors": errors}

    def apply(self, plan: Plan, progress: Progress, state: State) -> Plan:
        errors = state["errors"]
        factor = float(errors.min() / errors.max()) if len(errors) else 1.0

        def weight(plan: Plan, t: Tensor, r: Tensor) -> Tensor:
            return torch.full_like(t, factor)

        return record(weigh_u(plan, weight), heard=len(state["told"]))


class Counting(Curriculum):
    """Changes nothing, and counts the rows that the observer `cells` has seen."""

    SERIES: ClassVar[Mapping[str, tuple[str, str]]] = {"counted": ("rows", "rows that were heard of")}
    READS: ClassVar[frozenset[str]] = frozenset({"cells"})

    kind: Literal["counting"] = "counting"

    def initial_state(self) -> State:
        return {"told": [], "rows": 0}

    def learn(self, state: State, measured: Mapping[str, xr.Dataset]) -> State:
        return {"told": [*state["told"], sorted(measured)], "rows": int(measured["cells"]["count"].sum())}

    def apply(self, plan: Plan, progress: Progress, state: State) -> Plan:
        return record(plan, counted=state["rows"])
