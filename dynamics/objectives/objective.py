"""What an objective is: losses per row, and all that the rest of the toolkit has to know about it."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dynamics.flow.condition import Condition
from dynamics.flow.progress import Progress
from dynamics.flow.rows import Rows
from dynamics.models import Network
from dynamics.objectives.terms import LossTerms
from dynamics.options import Family, invalid
from dynamics.oracles import Oracle


class Objective(Family):
    """A loss of the rows of a step. A new objective is one file: a subclass with a `kind` of its own.

    Losses stay per row, because every figure is loss by (t, t - r). All ranks must make the same sequence of calls of
    the network, whichever rows they have; a call takes any number of rows.
    """

    SERIES: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """Unit and text, by name, of what `LossTerms.extras` hold: their means over the rows are recorded at every step."""
    TAKES_GAPS: ClassVar[bool] = True
    """Whether r < t rows have a loss; else all rows must have r = t."""
    ONE_PASS: ClassVar[bool] = False
    """Whether the loss calls the network with gradient exactly once, on all rows in their order: instruments then take
    the gradients of many groups of rows from one pass."""
    PARTS: ClassVar[tuple[str, ...]] = ()
    """Names of what `parts` returns."""

    kind: str

    def condition(self, base: Condition) -> Condition:
        """Return what the network is conditioned on, given what the data are; here the same.

        Where it is more, `prepare` draws the rest for the rows of training, and `ask` says what instruments and
        samplers take.
        """
        return base

    def ask(self, c: Any) -> Any:
        """Return the network's condition, as `condition` describes it, for a condition c of the data."""
        return c

    def asking_for(self, scale: float | None, interval: tuple[float, float] | None) -> "Objective":
        """Return the same objective whose `ask` asks for other guidance, of a network that is conditioned on it.

        Args:
            scale: Guidance scale; None leaves it as it is.
            interval: First and last time at which guidance acts; None leaves it as it is.

        Raises:
            ValueError: The network is not conditioned on guidance.
        """
        if scale is None and interval is None:
            return self
        allowed = f"nothing: the network of a {self.kind} run is not conditioned on guidance"
        remedy = "leave it out, or train one that is, such as digits-imf"
        raise invalid("guidance scale and interval", (scale, interval), allowed, remedy)

    def prepare(self, rows: Rows, seed: int, step: int) -> Rows:
        """Return the global batch of a step as the loss needs it: conditions dropped, more drawn for each row.

        A pure function of (seed, step): streams come from `rng.generator(seed, "what for", step)`.
        """
        return rows

    def extended(self, rows: Rows, stream: torch.Generator) -> Rows:
        """Return the rows with all that the loss draws for each beside noise, times and condition; here nothing.

        `prepare` asks for it in training, instruments for rows of their own.
        """
        return rows

    def teachers(self) -> tuple[str, ...]:
        """Return which averaged weights the loss asks (see `Network.frozen`): a run must have them."""
        return ()

    def at(self, now: Progress) -> "Objective":
        """Return the objective as it stands at some progress, if it moves by itself; `target_noise` is asked of it."""
        return self

    @abstractmethod
    def loss(self, net: Network, rows: Rows, now: Progress) -> LossTerms:
        """Return the losses of some rows.

        Args:
            net: The network.
            rows: Prepared rows of a step, or a rank's share of them; or rows of an instrument, whose conditions are
                not dropped.
            now: Where training stands.
        """

    @abstractmethod
    def truth(self, oracle: Oracle) -> Oracle:
        """Return the velocities at which the loss of u is least, given those of the data.

        What it returns is asked with the network's condition; `oracle` knows that of the data (see `ask`).
        """

    def target_noise(self, noise: Tensor, rows: Rows) -> Tensor:
        """Return what the target of r = t rows has beyond its mean given z_t, [B, ...].

        Args:
            noise: That of the sample velocity, e - x - v*(z_t, t), [B, ...].
            rows: The rows.
        """
        return noise

    @abstractmethod
    def measured(self, guidance: Literal["run", "off"]) -> "Objective":
        """Return the objective that instruments measure on rows of their own: this one, or the one that it stands for.

        Results say its kind. Where it has no loss for r < t rows (TAKES_GAPS), gradients by gap are refused.

        Args:
            guidance: As in training, or none.
        """

    def parts(self, terms: LossTerms, rows: Rows) -> dict[str, Tensor]:
        """Return losses [B] by name whose gradients add up to that of the raw loss; asked if there are PARTS."""
        return {}

    def forwards_per_row(self, gap_share: float) -> float:
        """Return what a row of training costs in forward passes of the network, a backward pass counted as two.

        Args:
            gap_share: Share of r < t rows.
        """
        return 3.0
