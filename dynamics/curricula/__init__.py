"""Curricula: what is drawn and how it is weighted as training proceeds. A new one is one file."""

from dynamics.curricula.beta import Beta
from dynamics.curricula.constant import Constant
from dynamics.curricula.dtd import DTD
from dynamics.curricula.gap_law import GapLaw
from dynamics.curricula.learned_variance import LearnedVariance
from dynamics.curricula.min_snr import MinSNR
from dynamics.curricula.plan import Curriculum, Plan, State, plan_for
from dynamics.curricula.readings import BETA, MIN_SNR, denoising_difficulty
from dynamics.curricula.temporal_equilibrium import TemporalEquilibrium
from dynamics.flow.progress import Progress
from dynamics.options import import_all
from dynamics.record import StepRecord

import_all(__name__, __path__)

__all__ = [
    "BETA",
    "DTD",
    "MIN_SNR",
    "Beta",
    "Constant",
    "Curriculum",
    "GapLaw",
    "LearnedVariance",
    "MinSNR",
    "Plan",
    "Progress",
    "State",
    "StepRecord",
    "TemporalEquilibrium",
    "denoising_difficulty",
    "plan_for",
]
