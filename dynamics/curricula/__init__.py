"""Curricula: what is drawn and how it is weighted as training proceeds. A new one is one file and one line here."""

from typing import Annotated

from pydantic import Field

from dynamics.curricula.beta import Beta
from dynamics.curricula.constant import Constant
from dynamics.curricula.dtd import DTD
from dynamics.curricula.gap_law import GapLaw
from dynamics.curricula.min_snr import MinSNR
from dynamics.curricula.plan import Curriculum, Plan, Progress, State, plan_for

CurriculumOptions = Annotated[MinSNR | DTD | Beta | GapLaw | Constant, Field(discriminator="kind")]

__all__ = [
    "DTD",
    "Beta",
    "Constant",
    "Curriculum",
    "CurriculumOptions",
    "GapLaw",
    "MinSNR",
    "Plan",
    "Progress",
    "State",
    "plan_for",
]
