"""Flow matching: the instantaneous velocity alone (Flow Matching for Generative Modeling, 2210.02747)."""

from typing import ClassVar, Literal

from dynamics.flow.progress import Progress
from dynamics.flow.rows import Rows
from dynamics.models import Network
from dynamics.objectives.guidance import Guidance
from dynamics.objectives.meanflow import MeanFlow
from dynamics.objectives.objective import Objective
from dynamics.objectives.terms import Adaptive, LossTerms, squared_error
from dynamics.options import invalid
from dynamics.oracles import Oracle


class FlowMatching(Objective):
    """u(z, t, t) is regressed on v = e - x."""

    TAKES_GAPS: ClassVar[bool] = False
    ONE_PASS: ClassVar[bool] = True

    kind: Literal["flow_matching"] = "flow_matching"
    adaptive: Adaptive = Adaptive(p=0.0)
    """Adaptive weight of a row; off by default."""
    guidance: Guidance = Guidance()
    """Only its label drop is used: the target stays v."""

    def prepare(self, rows: Rows, seed: int, step: int) -> Rows:
        return self.guidance.drop_conditions(rows, seed, step)

    def loss(self, net: Network, rows: Rows, now: Progress) -> LossTerms:
        """Return ||u(z, t, t) - v||^2 of rows that all have r = t; see `Objective.loss`."""
        if rows.num_gap:
            raise invalid("rows", f"{rows.num_gap} rows with r < t", "r = t rows only", "set times.gap_share to 0")
        z, v = rows.path()
        prediction = net.velocity(z, rows.t, rows.c).to(z.dtype)
        raw = squared_error(prediction, v)
        return LossTerms(raw, self.adaptive.weight(raw, z.shape[1:].numel()), prediction, target=v, u=prediction)

    def truth(self, oracle: Oracle) -> Oracle:
        return oracle

    def measured(self, guidance: Literal["run", "off"]) -> Objective:
        """Return MeanFlow without guidance: the same on r = t rows, and what u would learn from here on the others."""
        return MeanFlow(adaptive=self.adaptive)
