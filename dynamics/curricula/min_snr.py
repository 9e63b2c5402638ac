"""alpha(t): MinSNR weights on the instantaneous velocity, in the three forms the paper leaves open."""

from functools import lru_cache
from typing import Literal

from pydantic import Field
from torch import Tensor

from dynamics.curricula.plan import Curriculum, Plan, State, weigh_v
from dynamics.flow.progress import Progress
from dynamics.flow.times import Blend, TimeLaw


class MinSNR(Curriculum):
    """alpha(t) on r = t rows with SNR = ((1-t)/t)^2 and cap gamma (MinSNR, 2303.09556; used by 2511.19065).

    Which parametrisation the paper means is unknown, so the form has a name:
    "x0": t^2 min(SNR, gamma); "v": min(SNR, gamma)/(SNR + 1); "eps": min(1, gamma/SNR).
    """

    kind: Literal["min_snr"] = "min_snr"
    form: Literal["x0", "v", "eps"] = "v"
    """Parametrisation: A = x0-equivalent, B = v-prediction (most likely), C = eps."""
    gamma: float = Field(default=5.0, gt=0)
    """Cap of the signal-to-noise ratio."""
    normalise: bool = False
    """Divide by E[alpha] over the r = t rows, which keeps the total weight of v at 1."""

    def alpha(self, t: Tensor) -> Tensor:
        """Return the unnormalised weight of t [B], written without the quotient that overflows at t = 0.

        Example:
            >>> import torch
            >>> MinSNR(form="v").alpha(torch.tensor([0.25, 0.5]))     # knee at t = 1/(1 + sqrt(5)) = 0.309
            tensor([0.5000, 0.5000])
        """
        signal, noise = (1 - t) ** 2, t**2
        capped = (self.gamma * noise).minimum(signal)  # t^2 min(SNR, gamma)
        if self.form == "x0":
            return capped
        if self.form == "v":
            return capped / (signal + noise)
        return (self.gamma * noise / signal.clamp(min=1e-12)).clamp(max=1)

    def apply(self, plan: Plan, progress: Progress, state: State) -> Plan:
        def weight(plan: Plan, t: Tensor, r: Tensor) -> Tensor:
            scale = _mean_alpha(self, plan.equal_law) if self.normalise else 1.0
            return self.alpha(t) / scale

        return weigh_v(plan, weight)


@lru_cache(maxsize=4096)
def _mean_alpha(alpha: MinSNR, law: TimeLaw) -> float:
    if isinstance(law, Blend):
        return law.share * _mean_alpha(alpha, law.other) + (1 - law.share) * _mean_alpha(alpha, law.base)
    return law.expect(lambda t, r: alpha.alpha(t))
