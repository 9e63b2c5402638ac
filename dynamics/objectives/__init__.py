"""Training objectives: one target per file, losses per row."""

from typing import Annotated

from pydantic import Field

from dynamics.objectives.corruption import CorruptedMeanFlow
from dynamics.objectives.derivative import Derivative, total_derivative
from dynamics.objectives.flow_matching import FlowMatching
from dynamics.objectives.guidance import Guidance
from dynamics.objectives.meanflow import MeanFlow
from dynamics.objectives.terms import Adaptive, LossTerms

Objective = MeanFlow | FlowMatching | CorruptedMeanFlow
ObjectiveOptions = Annotated[Objective, Field(discriminator="kind")]

__all__ = [
    "Adaptive",
    "CorruptedMeanFlow",
    "Derivative",
    "FlowMatching",
    "Guidance",
    "LossTerms",
    "MeanFlow",
    "Objective",
    "ObjectiveOptions",
    "total_derivative",
]
