"""What a trained network's samples are worth."""

from dynamics.evaluation.sample_quality import EvaluationOptions, evaluate, reference_for

__all__ = ["EvaluationOptions", "evaluate", "reference_for"]
