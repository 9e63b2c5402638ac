"""Intervals and verdicts of claims in simulated studies: they cover as often as they say, and are seldom false."""

import numpy as np
import pytest

from benchmarks.coverage import FAMILIES, LOOKS, censored, family, powers, sequential, studies, two_way

CASES = [("components, error", 5, 0.0), ("components, Frechet", 5, 0.0), ("v first, error", 6, 0.1)]


@pytest.mark.parametrize(("name", "seeds", "missing"), CASES)
def test_two_arms(name: str, seeds: int, missing: float) -> None:
    found = two_way(studies(500, seeds, name, np.random.default_rng(1), missing))
    assert 0.93 <= found["coverage"] <= 0.975
    assert found["worst pair"] > 0.92
    assert found["the noisiest arm as baseline"] > 0.93
    assert found["width against paired t"] < 1


@pytest.mark.parametrize(("seeds", "beyond"), [(5, 0.3), (10, 0.6)])
def test_lengths_that_were_never_reached(seeds: int, beyond: float) -> None:
    found = censored(500, seeds, beyond, np.random.default_rng(2))
    assert 0.93 <= found["coverage"] <= 0.985
    if beyond > 0.5:
        assert found["coverage if they counted as the longest"] < 0.5


@pytest.mark.parametrize(("effect", "spread"), [(0.0, 0.06), (0.02, 0.03), (0.05, 0.06), (0.1, 0.12)])
def test_looking_again_and_again(effect: float, spread: float) -> None:
    found = sequential(20_000, effect, spread, np.random.default_rng(3))
    assert 0.94 <= found["covers at all looks"] <= 0.96
    assert found["covers where one stops"] >= 0.94
    assert sequential(2000, effect, spread, np.random.default_rng(3), None)["covers at all looks"] < 0.87


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_has_few_false_verdicts(name: str) -> None:
    found = family(300, FAMILIES[name], 8, np.random.default_rng(4))
    for kind in ("false direction", "false no effect"):
        assert found[kind] <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 300), kind


def test_arms_stop_one_by_one_and_verdicts_stay_true() -> None:
    """Also where the primary claim has no effect: its clear components end undecided, and cost no more seeds."""
    found = family(60, FAMILIES["parts have one, the whole has none"], 32, np.random.default_rng(6), LOOKS)
    assert max(found["false direction"], found["false no effect"]) <= 0.1
    assert found["covers at every look"] > 0.95
    assert found["decided"] == pytest.approx(4 / 6, abs=0.05)
    assert found["share of all runs"] < 0.6


def test_the_power_is_that_of_simulated_studies() -> None:
    for row in powers(50_000, np.random.default_rng(5)).values():
        assert row["computed"] == pytest.approx(row["simulated"], abs=0.008)
