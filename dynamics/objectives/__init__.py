"""Training objectives: one target per file, losses per row. A new one is one file with a class that has a `kind`."""

from dynamics.objectives.alphaflow import AlphaFlow, Annealed
from dynamics.objectives.asked_guidance import AskedGuidance, GuidanceLaw
from dynamics.objectives.corruption import CorruptedMeanFlow
from dynamics.objectives.flow_matching import FlowMatching
from dynamics.objectives.guidance import Guidance
from dynamics.objectives.imeanflow import IMeanFlow
from dynamics.objectives.meanflow import MeanFlow
from dynamics.objectives.objective import Objective
from dynamics.objectives.shortcut import Shortcut
from dynamics.objectives.soflow import SoFlow
from dynamics.objectives.split import SplitMeanFlow
from dynamics.objectives.temf import TEMF
from dynamics.objectives.terms import Adaptive, LossTerms, squared_error
from dynamics.objectives.tvm import TVM
from dynamics.options import import_all

import_all(__name__, __path__)

__all__ = [
    "TEMF",
    "TVM",
    "Adaptive",
    "AlphaFlow",
    "Annealed",
    "AskedGuidance",
    "CorruptedMeanFlow",
    "FlowMatching",
    "Guidance",
    "GuidanceLaw",
    "IMeanFlow",
    "LossTerms",
    "MeanFlow",
    "Objective",
    "Shortcut",
    "SoFlow",
    "SplitMeanFlow",
    "squared_error",
]
