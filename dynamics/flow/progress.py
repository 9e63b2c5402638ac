"""Where training stands."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Steps done and planned; what depends on the progress of training depends on these two numbers."""

    step: int
    """Optimiser steps done so far, 0-based index of the coming one."""
    num_steps: int
    """Total planned steps T."""

    @property
    def fraction(self) -> float:
        """i / T in [0, 1)."""
        return self.step / self.num_steps
