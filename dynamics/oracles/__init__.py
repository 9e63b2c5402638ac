"""Exact velocities of known distributions: the toolkit's ground truth, in float64."""

from dynamics.oracles.empirical import EmpiricalOracle
from dynamics.oracles.gaussian import GaussianOracle
from dynamics.oracles.gaussian_mixture import MixtureOracle
from dynamics.oracles.guided import GuidedOracle
from dynamics.oracles.low_rank_mixture import LowRankMixtureOracle
from dynamics.oracles.posterior import Oracle, PosteriorOracle
from dynamics.oracles.uniform_boxes import UniformBoxesOracle

__all__ = [
    "EmpiricalOracle",
    "GaussianOracle",
    "GuidedOracle",
    "LowRankMixtureOracle",
    "MixtureOracle",
    "Oracle",
    "PosteriorOracle",
    "UniformBoxesOracle",
]
