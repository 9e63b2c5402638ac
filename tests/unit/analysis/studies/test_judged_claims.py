"""Claims against effects that are known, and against an independent computation."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dynamics.analysis import CLAIMS, Claim, Finding, SpeedUp, judge

AXES = ["arm", "bin", "seed"]


def table(noise: float = 0.02, seeds: int = 6) -> pd.DataFrame:
    """Arm b has 20% less error than a in every bin; seeds differ by far more than arms do."""
    random = np.random.default_rng(0)
    rows = []
    for seed in range(seeds):
        level = np.exp(random.normal())
        for bin_ in ("small", "large"):
            for arm, factor in (("a", 1.0), ("b", 0.8)):
                error = level * factor * np.exp(noise * random.normal())
                rows.append(
                    (arm, bin_, float(seed), error, 2 * error, random.normal(0.3 if arm == "b" else -0.3, 0.05))
                )
    return pd.DataFrame(rows, columns=[*AXES, "v_error", "v_error_start", "cosine_v_end"])


def one(claim: Claim, rows: pd.DataFrame | None = None, claims: int = 1) -> Finding:
    return judge(table() if rows is None else rows, [claim] * claims, AXES)[0]


BETTER = Claim("b is better", "v_error", {"arm": "b"}, "lower", {"arm": "a"})


def test_the_interval_is_that_of_a_paired_t_test_over_seeds() -> None:
    rows = table()
    found = one(BETTER, rows)
    wide = np.log(rows.pivot_table(index=["seed", "bin"], columns="arm", values="v_error"))
    per_seed = (wide.b - wide.a).groupby("seed").mean()
    expected = stats.ttest_1samp(per_seed, 0)
    low, high = expected.confidence_interval(0.95)
    assert found.num_seeds == 6, "bins of a seed are averaged, not counted"
    assert (found.effect, found.low, found.high) == pytest.approx((per_seed.mean(), low, high))
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.verdict == "reproduced"
    assert np.exp(found.effect) == pytest.approx(0.8, rel=0.05)


def test_more_claims_widen_every_interval() -> None:
    rows = table()
    alone, among_ten = one(BETTER, rows), one(BETTER, rows, claims=10)
    ratio = (among_ten.high - among_ten.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(stats.t.ppf(1 - 0.0025, 5) / stats.t.ppf(1 - 0.025, 5))


def test_verdicts_follow_the_interval() -> None:
    rows = table()
    assert one(Claim("", "v_error", {"arm": "b"}, "higher", {"arm": "a"}), rows).verdict == "opposite"
    noisy = table(noise=2.0)
    found = one(BETTER, noisy)
    assert found.verdict == "undecided"
    assert found.low < 0 < found.high
    missing = one(Claim("", "v_error", {"arm": "c"}, "lower", {"arm": "a"}), rows)
    assert (missing.verdict, missing.num_seeds) == ("not measured", 0)


def test_what_is_detectable_is_found_four_times_in_five() -> None:
    """Draw differences of the size and spread that the finding names, and count."""
    found = one(BETTER, table(noise=0.3))
    per_seed = (found.high - found.low) / 2 / stats.t.ppf(0.975, 5) * np.sqrt(6)
    random = np.random.default_rng(1)
    draws = random.normal(found.detectable, per_seed, (4000, 6))
    share = (stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean()
    assert share == pytest.approx(0.8, abs=0.02)


def test_cosines_are_compared_by_their_difference() -> None:
    found = one(Claim("", "cosine_v_end", {"arm": "b"}, "higher", {"arm": "a"}))
    assert not found.is_ratio
    assert found.effect == pytest.approx(0.6, abs=0.05)
    assert found.effect_text().startswith("+0.")


def test_a_run_against_its_own_start_and_against_a_number() -> None:
    found = one(Claim("", "v_error", {"arm": "b"}, "lower", relative_to="v_error_start"))
    assert (np.exp(found.effect), found.verdict) == (pytest.approx(0.5), "reproduced")
    below = one(Claim("", "cosine_v_end", {"arm": "a"}, "lower", than=-0.1))
    assert below.effect == pytest.approx(-0.2, abs=0.05)
    assert below.verdict == "reproduced"


def lengths(faster: float) -> pd.DataFrame:
    """Errors fall as 1 / steps; the other arm needs `faster` times the steps."""
    rows = [
        (arm, str(steps), float(seed), (1 + seed / 10) * factor / steps)
        for arm, factor in (("slow", 1.0), ("quick", faster))
        for steps in (100, 200, 400, 800)
        for seed in range(4)
    ]
    return pd.DataFrame(rows, columns=["arm", "steps", "seed", "error"])


@pytest.mark.parametrize(("faster", "expected"), [(0.4, 0.4), (1.0, 1.0), (1.7, 1.7), (0.1, 0.25), (9.0, 2.0)])
def test_steps_needed_are_interpolated_and_bounded_by_what_was_trained(faster: float, expected: float) -> None:
    claim = SpeedUp("", "error", {"arm": "quick"}, "lower", {"arm": "slow"}, along="steps", at=400)
    found = judge(lengths(faster), [claim], ["arm", "steps", "seed"])[0]
    assert np.exp(found.effect) == pytest.approx(expected)


def test_claims_survive_json() -> None:
    claims = (BETTER, SpeedUp("x", "error", {"arm": "b"}, "lower", {"arm": "a"}, along="steps", at=1.0))
    assert CLAIMS.validate_json(CLAIMS.dump_json(claims)) == claims
    assert isinstance(CLAIMS.validate_json(CLAIMS.dump_json(claims))[1], SpeedUp)


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        (Claim("", "u_error", {"arm": "b"}, "lower", {"arm": "a"}), "claim: received 'u_error'; allowed: arm, bin"),
        (Claim("", "v_error", {"arms": "b"}, "lower", {"arm": "a"}), "claim: received 'arms'; allowed: arm, bin, seed"),
    ],
)
def test_a_claim_about_nothing_is_refused(claim: Claim, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one(claim)
