"""Training objectives: one target per file, losses per row. A new one is one file with a class that has a `kind`."""

from dynamics.objectives.asked_guidance import AskedGuidance, GuidanceLaw
from dynamics.objectives.corruption import CorruptedMeanFlow
from dynamics.objectives.flow_matching import FlowMatching
from dynamics.objectives.guidance import Guidance
from dynamics.objectives.imeanflow import IMeanFlow
from dynamics.objectives.meanflow import MeanFlow
from dynamics.objectives.objective import Objective
from dynamics.objectives.terms import Adaptive, LossTerms, squared_error
from dynamics.options import import_all

import_all(__name__, __path__)

__all__ = [
    "Adaptive",
    "AskedGuidance",
    "CorruptedMeanFlow",
    "FlowMatching",
    "Guidance",
    "GuidanceLaw",
    "IMeanFlow",
    "LossTerms",
    "MeanFlow",
    "Objective",
    "squared_error",
]
