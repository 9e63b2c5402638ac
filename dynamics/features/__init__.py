"""The feature spaces that distances are measured in: classifiers, one per kind of data."""

from dynamics.features.extractor import Extractor, packaged_extractor, trained_extractor

__all__ = ["Extractor", "packaged_extractor", "trained_extractor"]
