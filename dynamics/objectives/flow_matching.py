"""Flow matching: the instantaneous velocity alone (Flow Matching for Generative Modeling, 2210.02747)."""

from typing import Literal

from dynamics.flow.path import Velocity
from dynamics.flow.rows import Rows
from dynamics.objectives.derivative import Derivative
from dynamics.objectives.guidance import Guidance
from dynamics.objectives.terms import Adaptive, LossTerms, squared_error
from dynamics.options import Options, invalid


class FlowMatching(Options):
    """u(z, t, t) is regressed on v = e - x."""

    kind: Literal["flow_matching"] = "flow_matching"
    adaptive: Adaptive = Adaptive(p=0.0)
    """Adaptive weight of a row; off by default."""
    guidance: Guidance = Guidance()
    """Only its label drop is used: the target stays v."""

    def terms(self, u: Velocity, du_dt: Derivative, rows: Rows, num_classes: int) -> LossTerms:
        """Per-row losses ||u(z, t, t) - v||^2 of rows that all have r = t.

        Args:
            u: The network.
            du_dt: Unused; every objective has this signature.
            rows: B rows with r = t.
            num_classes: Unused likewise.
        """
        if rows.num_gap:
            raise invalid("rows", f"{rows.num_gap} rows with r < t", "r = t rows only", "set times.gap_share to 0")
        z, v = rows.path()
        prediction = u(z, rows.t, rows.t, rows.y).to(z.dtype)
        raw = squared_error(prediction, v)
        return LossTerms(raw, self.adaptive.weight(raw), prediction, target=v, du_dt=v[:0])
