"""Claims against effects that are known, and against an independent computation."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from dynamics.analysis import CLAIMS, Claim, Finding, SpeedUp, judge
from dynamics.analysis.studies.verdicts import verdicts
from dynamics.estimators import SeedEffect

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


def test_the_interval_of_two_arms_alone_is_that_of_a_paired_t_test_over_seeds() -> None:
    rows = table()
    rows = rows[rows.bin == "small"]
    found = one(BETTER, rows)
    wide = np.log(rows.pivot_table(index="seed", columns="arm", values="v_error"))
    expected = stats.ttest_1samp(wide.b - wide.a, 0)
    low, high = expected.confidence_interval(0.95)
    assert found.num_seeds == 6
    assert (found.effect, found.low, found.high) == pytest.approx(((wide.b - wide.a).mean(), low, high))
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.verdict == "supported"


def test_bins_of_a_seed_are_averaged_not_counted() -> None:
    rows = table()
    found = one(BETTER, rows)
    assert found.num_seeds == 6
    assert np.exp(found.effect) == pytest.approx(0.8, rel=0.05)
    wide = np.log(rows.pivot_table(index="seed", columns=["arm", "bin"], values="v_error"))
    expected = stats.ttest_1samp((wide.b - wide.a).mean(axis=1), 0)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95))), "of the averages alone"


def family(*effects: float, spread: float = 0.02, seeds: int = 6, **more: object) -> list[Finding]:
    """Judge a primary claim and components with these effects (exactly: the noise of an arm has no mean)."""
    noise = np.random.default_rng(2).standard_normal((seeds, len(effects) + 1)) * spread
    values = np.exp(noise - noise.mean(0) + [*effects, 0.0])
    rows = [
        (str(arm), "all", float(seed), values[seed, arm]) for seed in range(seeds) for arm in range(values.shape[1])
    ]
    against = {"arm": str(len(effects))}
    claims = [
        Claim(str(i), "v_error", {"arm": str(i)}, "lower", against, primary=i == 0, **more) for i in range(len(effects))
    ]
    return judge(pd.DataFrame(rows, columns=[*AXES, "v_error"]), claims, AXES)


def test_components_have_a_direction_only_behind_the_primary_claim() -> None:
    behind, held = family(-0.2, -0.2, -0.2), family(0.0, -0.2, 0.0)
    assert [f.verdict for f in behind] == ["supported"] * 3
    assert [f.verdict for f in held] == ["no effect", "undecided", "no effect"]
    assert held[1].p_value < 0.001
    assert held[1].adjusted == held[0].adjusted > 0.05
    assert held[1].verdict_text() == "undecided (its primary claim has no direction)"


def test_what_a_primary_claim_holds_back_takes_more_than_seeds() -> None:
    primary, direction, small = family(0.01, -0.15, 0.01, spread=0.15)
    assert primary.verdict_text() == f"undecided ({primary.budget} seeds would decide)"
    assert direction.budget > 6
    assert direction.verdict_text() == (
        f"undecided ({direction.budget} seeds would decide, if its primary claim had a direction)"
    )
    assert small.verdict_text() == f"undecided ({small.budget} seeds would decide)", "no effect takes no primary claim"


def test_components_share_their_level_by_holm() -> None:
    found = family(-0.2, -0.03, -0.031, 0.01, spread=0.03)
    assert found[0].adjusted == found[0].p_value, "the primary claim has the full level"
    rest = found[1:]
    expected = multipletests([f.p_value for f in rest], method="holm")[1]
    assert [f.adjusted for f in rest] == pytest.approx(np.maximum(expected, found[0].p_value).tolist())


def test_what_was_not_measured_and_second_looks_count_for_nothing() -> None:
    rows = table(noise=0.3)
    missing = Claim("", "v_error", {"arm": "c"}, "lower", {"arm": "a"})
    look = Claim("again", "v_error", {"arm": "b"}, "lower", {"arm": "a"}, post_hoc=True)
    alone = judge(rows, [BETTER], AXES)[0]
    assert judge(rows, [BETTER, missing, look, look], AXES)[0] == alone
    assert judge(rows, [BETTER, look], AXES)[1].adjusted == alone.p_value


def test_two_primary_claims_of_a_family_are_refused() -> None:
    claims = [Claim(text, "v_error", {"arm": "b"}, "lower", {"arm": "a"}, primary=True) for text in ("x", "y")]
    with pytest.raises(ValueError, match="one primary claim a family"):
        judge(table(), claims, AXES)


def test_a_claim_of_a_size_is_judged_at_that_size() -> None:
    """10% lower is lower by 8%, not by 12%, and surely not higher by more than 5%; near the size it is undecided."""
    verdicts = {by: family(np.log(0.9), by=by)[0] for by in (None, 0.08, 0.12, -0.05, 0.101)}
    words = ["supported", "supported", "opposite", "supported", "undecided"]
    assert [found.verdict for found in verdicts.values()] == words
    assert verdicts[0.12].verdict_text() == "not by so much"
    assert verdicts[0.101].budget > 1000
    assert len({(found.effect, found.low, found.high) for found in verdicts.values()}) == 1
    (harmless,) = family(0.0, by=-0.05)
    assert harmless.verdict == "supported", "at most 5% higher, where no effect would say less"
    assert Claim("", "cosine", {}, "higher", by=0.1).threshold == 0.1
    (published,) = family(np.log(0.9), by=0.12, source="2511.19065")
    assert published.verdict_text() == "not reproduced: not by so much"
    assert SpeedUp("", "v_error", {}, "lower", by=0.1).equivalence == 0, "no region of no effect, whatever the kind"


def test_no_effect_is_an_interval_inside_the_region_that_was_fixed() -> None:
    (near,) = family(0.01)
    assert near.verdict == "no effect"
    assert max(-near.low, near.high) < np.log(1.05)
    (narrow,) = family(0.01, margin=0.005)
    assert narrow.verdict == "undecided"
    (tiny,) = family(0.02, spread=0.002)
    assert (tiny.verdict, tiny.low > 0) == ("no effect", True), "smaller than what matters, though not zero"


def test_each_metric_has_its_region() -> None:
    widths = {name: Claim("", name, {}, "lower").equivalence for name in ("v_error", "fd_u_nfe1", "cosine_v", "kd_u")}
    assert widths == {"v_error": np.log1p(0.05), "fd_u_nfe1": np.log1p(0.1), "cosine_v": 0.05, "kd_u": 0.0}
    assert SpeedUp("", "fd_u_nfe1", {}, "lower").equivalence == np.log1p(0.05), "5% of a length, whatever is reached"
    alike = table().assign(kd_u=lambda rows: 1e-3 * rows.v_error)
    assert one(Claim("", "kd_u", {"arm": "b"}, "lower", {"arm": "a"}), alike).verdict != "no effect"


def test_only_what_a_paper_says_can_be_reproduced() -> None:
    texts = [family(effect, source="2511.19065")[0].verdict_text() for effect in (-0.2, 0.2, 0.0)]
    assert texts == ["reproduced", "not reproduced: the opposite", "not reproduced: no effect"]
    assert [family(effect)[0].verdict_text() for effect in (-0.2, 0.2, 0.0)] == [
        "supported",
        "the opposite",
        "no effect",
    ]


def test_an_undecided_claim_names_the_seeds_that_would_decide_it() -> None:
    (found,) = family(-0.1, spread=0.15)
    assert found.verdict == "undecided"
    values = np.random.default_rng(1).normal(found.effect, found.spread, (4000, found.budget))
    mean, half = values.mean(1), stats.t.isf(0.025, found.budget - 1) * values.std(1, ddof=1) / found.budget**0.5
    assert np.mean((abs(mean) > half) | (abs(mean) + half < np.log(1.05))) == pytest.approx(0.8, abs=0.03)
    assert found.verdict_text() == f"undecided ({found.budget} seeds would decide)"


def test_looks_ask_for_more_and_keep_what_they_have_decided() -> None:
    rows = table(seeds=10)
    planned = judge(rows, [BETTER], AXES)[0]
    looked = judge(rows, [BETTER], AXES, looks=(5, 10, 15))[0]
    assert looked.p_value > planned.p_value
    assert looked.low < planned.low < planned.high < looked.high
    assert looked.verdict == "supported"
    stopped = rows[(rows.seed < 5) | (rows.arm == "a")]
    again = judge(stopped, [BETTER], AXES, looks=(5, 10, 15))[0]
    assert again == judge(rows[rows.seed < 5], [BETTER], AXES, looks=(5, 10, 15))[0]
    with pytest.raises(ValueError, match="looks"):
        judge(rows, [BETTER], AXES, looks=(10, 5))


@pytest.mark.parametrize("later", [-0.02, 0.02])
def test_what_one_look_has_shown_stays_in_the_interval_and_the_verdict(later: float) -> None:
    looks = [SeedEffect(-0.2, 0.03, 4, 5, 0.067), SeedEffect(later, 0.05, 9, 10, 0.16)]
    (found,) = verdicts([BETTER], [looks], (5, 10))
    assert (found.verdict, found.effect, found.num_seeds) == ("supported", later, 10)
    assert found.low < found.high < 0
    assert looks[1].interval(0.95)[1] > 0


def test_verdicts_follow_the_interval() -> None:
    rows = table()
    assert one(Claim("", "v_error", {"arm": "b"}, "higher", {"arm": "a"}), rows).verdict == "opposite"
    noisy = table(noise=2.0)
    found = one(BETTER, noisy)
    assert found.verdict == "undecided"
    assert found.low < 0 < found.high
    missing = one(Claim("", "v_error", {"arm": "c"}, "lower", {"arm": "a"}), rows)
    assert (missing.verdict, missing.num_seeds) == ("not measured", 0)


def test_cosines_are_compared_by_their_difference() -> None:
    found = one(Claim("", "cosine_v_end", {"arm": "b"}, "higher", {"arm": "a"}))
    assert not found.is_ratio
    assert found.effect == pytest.approx(0.6, abs=0.05)
    assert found.effect_text().startswith("+0.")


def test_a_run_against_its_own_start_and_against_a_number() -> None:
    found = one(Claim("", "v_error", {"arm": "b"}, "lower", relative_to="v_error_start"))
    assert (np.exp(found.effect), found.verdict) == (pytest.approx(0.5), "supported")
    below = one(Claim("", "cosine_v_end", {"arm": "a"}, "lower", than=-0.1))
    assert below.effect == pytest.approx(-0.2, abs=0.05)
    assert below.verdict == "supported"


def lengths(faster: float) -> pd.DataFrame:
    """Errors fall as 1 / steps; the other arm needs `faster` times the steps."""
    rows = [
        (arm, str(steps), float(seed), (1 + seed / 10) * factor / steps)
        for arm, factor in (("slow", 1.0), ("quick", faster))
        for steps in (100, 200, 400, 800)
        for seed in range(4)
    ]
    return pd.DataFrame(rows, columns=["arm", "steps", "seed", "error"])


@pytest.mark.parametrize(("faster", "expected"), [(0.4, 0.4), (1.0, 1.0), (1.7, 1.7), (0.1, 0.0), (9.0, np.inf)])
def test_steps_needed_are_interpolated_and_censored_beyond_what_was_trained(faster: float, expected: float) -> None:
    claim = SpeedUp("", "error", {"arm": "quick"}, "lower", {"arm": "slow"}, along="steps", at=400)
    found = judge(lengths(faster), [claim], ["arm", "steps", "seed"])[0]
    assert np.exp(found.effect) == pytest.approx(expected)
    if expected == np.inf:
        assert (found.low, found.high, found.num_censored) == (-np.inf, np.inf, 4)
        assert found.verdict == "undecided", "a sign test of four seeds"


def test_a_length_whose_error_has_no_log_is_left_out() -> None:
    rows = lengths(0.4)
    rows.loc[(rows.arm == "quick") & (rows.seed == 0) & (rows.steps == "800"), "error"] = -1e-3
    claim = SpeedUp("", "error", {"arm": "quick"}, "lower", {"arm": "slow"}, along="steps", at=400)
    found = judge(rows, [claim], ["arm", "steps", "seed"])[0]
    assert (np.exp(found.effect), found.num_seeds) == (pytest.approx(0.4), 3)


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
