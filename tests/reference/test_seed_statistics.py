"""Effects over seeds, their p-values and power, each against another way to the same number."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import integrate, optimize, special, stats
from statsmodels.stats.multitest import multipletests

from dynamics.estimators import (
    CensoredEffect,
    Floats,
    TwoWay,
    decision_power,
    holm,
    look_limits,
    mean_effect,
    repeated_p,
    seeds_needed,
)

LOOKS = (5, 10, 15, 20, 25, 32)


def two_way(seeds: int, arms: int, missing: float) -> Floats:
    rng = np.random.default_rng(0)
    values = 3 * rng.standard_normal((seeds, 1)) + np.arange(arms) + rng.standard_normal((seeds, arms))
    return np.where(rng.random(values.shape) < missing, np.nan, values)


@pytest.mark.parametrize("missing", [0.0, 0.15])
def test_arms_whose_variances_agree_are_the_least_squares_of_dummies(missing: float) -> None:
    values, weights = two_way(9, 5, missing), np.array([1.0, 0, 0, -1, 0])
    frame = pd.DataFrame(values).rename_axis("seed").reset_index().melt("seed", var_name="arm", value_name="y").dropna()
    fit = smf.ols("y ~ C(arm) + C(seed)", frame).fit()
    model = TwoWay(values)
    assert model.noise == (pytest.approx(fit.mse_resid), pytest.approx(1e6)), "no spread beyond that of equal variances"
    found = model.effect(weights)
    expected = fit.t_test("C(arm)[T.3] = 0")
    pairs = (values[:, 0] - values[:, 3])[np.isfinite(values[:, 0] - values[:, 3])]
    assert found.effect == pytest.approx(pairs.mean())
    assert found.sem == pytest.approx(np.sqrt(2 * fit.mse_resid / len(pairs)), rel=1e-5)
    assert found.dof == fit.df_resid
    if not missing:
        assert (found.effect, found.sem) == (pytest.approx(-expected.effect.item()), pytest.approx(expected.sd.item()))


def test_an_unstable_arm_does_not_reach_the_effect_of_others_that_miss_a_seed() -> None:
    values = two_way(9, 5, 0.0)
    values[-1, 1] = np.nan
    values[:, 4] += 100 * np.arange(9) ** 2
    found = TwoWay(values).effect(np.array([-1.0, 1, 0, 0, 0]))
    assert found.effect == pytest.approx((values[:-1, 1] - values[:-1, 0]).mean())


def test_averages_over_cells_are_judged_by_themselves() -> None:
    """Cells of an arm share what moves it in a seed: the noise of pairs of cells says nothing of their mean's."""
    rng = np.random.default_rng(1)
    values = np.repeat(rng.standard_normal((5, 2)), 4, axis=1) + 0.1 * rng.standard_normal((5, 8))
    weights = np.repeat([-0.25, 0.25], 4)
    found, alone = TwoWay(values).effect(weights), mean_effect(values @ weights)
    assert (found.sem, found.dof) == (pytest.approx(alone.sem), alone.dof)


def test_arms_whose_variances_differ_share_less_and_a_noisy_pair_nothing() -> None:
    """Smyth's moments by root finding, and the draw towards them by hand."""
    rng = np.random.default_rng(3)
    values = rng.standard_normal((6, 9)) * np.geomspace(0.2, 4, 9)
    first, second = np.triu_indices(9, 1)
    variances = np.var(values[:, first] - values[:, second], axis=0, ddof=1) / 2
    logs = np.log(variances) - special.digamma(2.5) + np.log(2.5)
    beyond = logs.var(ddof=1) - special.polygamma(1, 2.5)
    dof = 2 * optimize.brentq(lambda x: special.polygamma(1, x) - beyond, 1e-3, 1e3)
    prior = np.exp(logs.mean() + special.digamma(dof / 2) - np.log(dof / 2))
    model = TwoWay(values)
    assert model.noise == (pytest.approx(prior), pytest.approx(dof))
    weights = np.eye(9)[3] - np.eye(9)[4]
    found, difference = model.effect(weights), values[:, 3] - values[:, 4]
    noise = (dof * 2 * prior + 5 * difference.var(ddof=1)) / (dof + 5)
    assert (found.effect, found.sem) == (pytest.approx(difference.mean()), pytest.approx(np.sqrt(noise / 6)))
    assert found.dof == pytest.approx(dof + 5)
    noisy = np.eye(9)[8] - np.eye(9)[4]
    assert model.effect(noisy) == mean_effect(values @ noisy)


def test_a_mean_over_seeds_is_a_t_test() -> None:
    values = np.random.default_rng(1).normal(0.4, 1, 8)
    found, expected = mean_effect(values), stats.ttest_1samp(values, 0.1)
    assert found.interval(0.9) == pytest.approx(tuple(expected.confidence_interval(0.9)))
    assert 2 * min(found.p_beyond(0.1)) == pytest.approx(expected.pvalue)
    assert sum(found.p_beyond(0.1)) == pytest.approx(1)


def test_holm_is_that_of_statsmodels() -> None:
    for seed in range(20):
        p_values = np.random.default_rng(seed).random(7) ** 3
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


@pytest.mark.parametrize(
    ("effect", "spread", "seeds"), [(0.1, 0.1, 5), (0.05, 0.03, 3), (0.0, 1.0, 8), (0.02, 0.05, 30)]
)
def test_without_a_region_the_power_is_that_of_the_noncentral_t(effect: float, spread: float, seeds: int) -> None:
    shift, limit = effect / spread * np.sqrt(seeds), stats.t.isf(0.025, seeds - 1)
    expected = stats.nct.sf(limit, seeds - 1, shift) + stats.nct.cdf(-limit, seeds - 1, shift)
    assert decision_power(effect, spread, seeds, 0.0) == pytest.approx(expected, abs=2e-4)


def test_the_seeds_needed_are_the_first_that_suffice() -> None:
    for effect, spread, margin in ((0.05, 0.067, 0.0), (0.0, 0.06, 0.05), (0.02, 0.04, 0.05)):
        found = seeds_needed(effect, spread, margin)
        powers = [decision_power(effect, spread, n, margin) for n in (found - 1, found)]
        assert powers[0] < 0.8 <= powers[1]
    assert seeds_needed(0.05, 0.067, 0.0) == 17, "the audit's number, of the noncentral t"


def test_with_nothing_censored_the_likelihood_is_students_t() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, 7)
    found, plain = CensoredEffect(values, -9, 9), mean_effect(values)
    assert found.interval(0.95) == pytest.approx(plain.interval(0.95), abs=2e-3)
    assert found.p_beyond(0.0) == pytest.approx(plain.p_beyond(0.0), rel=5e-3)
    assert (found.effect, found.spread) == pytest.approx((plain.effect, plain.spread), abs=2e-3)


def test_a_censored_mean_is_that_of_a_maximiser_in_two_dimensions() -> None:
    values, last = np.array([0.2, 0.9, 1.4, 2.0, 2.0, -0.3]), 2.0

    def unlikely(mean: float, log_spread: float) -> float:
        inner = values < last
        spread = np.exp(log_spread)
        seen = stats.norm.logpdf(values[inner], mean, spread).sum()
        return -float(seen + (~inner).sum() * stats.norm.logsf(last, mean, spread))

    best = optimize.minimize(lambda x: unlikely(*x), [1.0, 0.0], method="Nelder-Mead", tol=1e-9)
    found = CensoredEffect(values, -9.0, last)
    assert found.num_censored == 2
    assert found.effect == pytest.approx(best.x[0], abs=1e-3)
    low, high = found.interval(0.95)
    at_end = [
        optimize.minimize_scalar(lambda s, m=m: unlikely(m, s), bounds=(-4, 4), method="bounded").fun
        for m in (low, high)
    ]
    limit = 6 * np.log1p(stats.t.isf(0.025, 5) ** 2 / 5) / 2
    assert np.array(at_end) - best.fun == pytest.approx([limit, limit], abs=5e-3)


@pytest.mark.parametrize("seeds", [4, 5, 6, 10])
def test_all_beyond_the_longest_is_a_sign_test(seeds: int) -> None:
    found = CensoredEffect(np.full(seeds, 1.5), -1.0, 1.5)
    assert (found.effect, found.num_censored) == (np.inf, seeds)
    exact = stats.binomtest(seeds, seeds, 0.5, alternative="greater").pvalue
    low, high = found.interval(0.95)
    assert (low, high) == (pytest.approx(1.5, abs=0.01) if exact < 0.025 else -np.inf, np.inf)
    ratio = np.sqrt((seeds - 1) * (2 ** (2.0) - 1))  # of the likelihood: exp(2 n log 2 / n) = 4
    assert found.p_beyond(0.0)[0] == pytest.approx(max(exact, stats.t.sf(ratio, seeds - 1)), rel=0.02)
    assert CensoredEffect(-found.values, -1.5, 1.0).interval(0.95) == pytest.approx((-high, -low))


def test_two_looks_spend_what_a_double_integral_says() -> None:
    first, second = look_limits((6, 10), 0.025)
    at, z = 0.6, stats.norm.isf([first, second])
    assert first == pytest.approx(0.015)

    def later(x: float) -> float:  # path below the first limit, then above the second
        return float(stats.norm.pdf(x) * stats.norm.sf((z[1] - np.sqrt(at) * x) / np.sqrt(1 - at)))

    assert integrate.quad(later, -9, z[0])[0] == pytest.approx(0.010, abs=1e-6)


def test_repeated_p_values_are_those_at_which_a_look_just_rejects() -> None:
    for alpha in (0.002, 0.025, 0.2):
        limits = look_limits(LOOKS, alpha)
        for look in range(len(LOOKS)):
            history = [0.5] * look + [float(limits[look])]
            assert repeated_p(history, LOOKS) == pytest.approx(alpha, rel=0.02)
    assert repeated_p([0.0001, 0.4], LOOKS) == repeated_p([0.0001], LOOKS), "what was shown once stays shown"
    assert repeated_p([0.9], LOOKS) == 1.0
