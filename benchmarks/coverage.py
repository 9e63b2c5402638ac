"""Do the intervals and verdicts of claims hold what they promise? Simulated studies in the likeness of committed ones.

    python benchmarks/coverage.py --studies 4000 --out benchmarks/results/coverage.json

Arms have the standard deviations that the arms of a committed file have around the model arm + seed (which exaggerates
their differences: the estimates themselves vary), and seeds theirs. `tests/reference/test_coverage.py` runs the same
with fewer studies.
"""

import argparse
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from scipy import stats

from dynamics.analysis import Claim, axes_of, study
from dynamics.analysis.studies.open_claims import open_claims
from dynamics.analysis.studies.verdicts import Finding, verdicts
from dynamics.estimators import (
    CensoredEffect,
    Floats,
    SeedEffect,
    TwoWay,
    decision_power,
    look_limits,
    mean_effect,
)
from dynamics.store import open_results
from dynamics.store.origin import provenance

ROOT = Path(__file__).parents[1]
LOOKS = (5, 10, 15, 20, 25, 32)
MARGIN = float(np.log(1.05))
LIKENESSES = {
    "components, error": ("component_ablation", "one_step_error"),
    "components, v": ("component_ablation", "v_error_late"),
    "components, Frechet": ("component_ablation", "fd_u_nfe1"),
    "v first, error": ("velocity_prerequisite", "one_step_error"),
    "corruption, error": ("velocity_corruption", "one_step_error"),
}
FAMILIES = {
    "nothing has an effect": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "the whole has one, its parts have none": (-0.1, 0.0, 0.0, 0.0, 0.0, 0.0),
    "the whole and two parts have one": (-0.1, -0.1, -0.1, 0.0, 0.0, 0.0),
    "parts have one, the whole has none": (0.0, -0.1, 0.1, 0.0, 0.0, 0.0),
    "all have just one": (MARGIN,) * 6,
}
"""True effects of a primary claim and five components, against one baseline."""


@cache
def spreads(name: str) -> tuple[Floats, float]:
    """Return the standard deviations of the arms of a committed study around arm + seed, and that of its seeds."""
    experiment, metric = LIKENESSES[name]
    tree = open_results(ROOT / "results" / experiment / "digits.nc")
    axis = next(axis for axis in axes_of(tree) if axis != "seed")
    table = study(tree, axes_of(tree))
    values = np.log(table.pivot_table(index="seed", columns=axis, values=metric)).dropna(axis=1).to_numpy(float)
    rest = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    seeds, arms = values.shape
    of_arms = np.sqrt((rest**2).sum(0) / (seeds - 1) * arms / (arms - 1))
    return np.sort(of_arms), float(values.mean(1).std(ddof=1))


def studies(count: int, seeds: int, name: str, rng: np.random.Generator, missing: float = 0.0) -> Floats:
    """Return values [study, seed, arm] of arms that do not differ, some missing."""
    of_arms, of_seeds = spreads(name)
    values = of_seeds * rng.standard_normal((count, seeds, 1)) + of_arms * rng.standard_normal(
        (count, seeds, len(of_arms))
    )
    return np.where(rng.random(values.shape) < missing, np.nan, values)


def seven_arms(name: str) -> Floats:
    """Return the standard deviations of a family's six arms and baseline, spread over those of a committed study."""
    of_arms = spreads(name)[0]
    chosen = of_arms[np.linspace(0, len(of_arms) - 1, 7).astype(int)]
    return chosen[[6, 0, 5, 1, 4, 2, 3]]  # the primary claim has the noisiest arm, the baseline a middling one


def pairs(num_arms: int, baseline: int, most: int = 8) -> list[Floats]:
    """Return contrasts of arms, spread over their noise, with a baseline."""
    chosen = np.unique(np.linspace(0, num_arms - 1, most).astype(int))
    return [np.eye(num_arms)[arm] - np.eye(num_arms)[baseline] for arm in chosen if arm != baseline]


def covers(effect: SeedEffect | CensoredEffect, truth: float) -> bool:
    low, high = effect.interval(0.95)
    return low <= truth <= high


def two_way(values: Floats) -> dict[str, float]:
    """Return how often 95% intervals cover, over all pairs and for the worst one, and their width.

    The baseline has middling noise; where it is the noisiest arm all pairs are noisier than the others.
    """
    num_arms = values.shape[2]
    contrasts, noisy = pairs(num_arms, num_arms // 2), pairs(num_arms, num_arms - 1)
    hits, widths, fell_back = np.zeros((len(values), len(contrasts))), [], []
    against_noisy = []
    for i, one in enumerate(values):
        model = TwoWay(one)
        against_noisy += [covers(e, 0.0) for e in map(model.effect, noisy) if e.num_seeds > 1]
        for j, weights in enumerate(contrasts):
            found = model.effect(weights)
            used = one[:, weights != 0]
            plain = mean_effect((used @ weights[weights != 0])[np.isfinite(used).all(1)])
            hits[i, j] = covers(found, 0.0) if found.num_seeds > 1 else np.nan
            if found.num_seeds > 1:
                fell_back.append(found == plain)
                widths.append([effect.interval(0.95)[1] - effect.effect for effect in (found, plain)])
    return {
        "coverage": float(np.nanmean(hits)),
        "worst pair": float(np.nanmean(hits, 0).min()),
        "the noisiest arm as baseline": float(np.mean(against_noisy)),
        "width against paired t": float(np.divide(*np.mean(widths, 0))),
        "judged by the pair alone": float(np.mean(fell_back)),
    }


def censored(count: int, seeds: int, beyond: float, rng: np.random.Generator) -> dict[str, float]:
    """Return the coverage where a share of normal values lies beyond the longest run."""
    last = float(stats.norm.isf(beyond))
    found = [CensoredEffect(np.minimum(row, last), -9.0, last) for row in rng.standard_normal((count, seeds))]
    clipped = [mean_effect(effect.values) for effect in found]
    return {
        "coverage": float(np.mean([covers(effect, 0.0) for effect in found])),
        "coverage if they counted as the longest": float(np.mean([covers(effect, 0.0) for effect in clipped])),
        "no upper end": float(np.mean([np.isinf(effect.interval(0.95)[1]) for effect in found])),
    }


def sequential(
    count: int, effect: float, spread: float, rng: np.random.Generator, power: float | None = 1.0
) -> dict[str, float]:
    """Return what stopping does: the interval holds at all looks, or is the plain one (power None)."""
    values = effect + spread * rng.standard_normal((count, LOOKS[-1]))
    limits = look_limits(LOOKS, 0.025, power) if power is not None else np.full(len(LOOKS), 0.025)
    seeds, hit, decided = np.full(count, LOOKS[-1]), np.zeros(count, bool), np.zeros(count, bool)
    always, going = np.ones(count, bool), np.ones(count, bool)
    for look, limit in zip(LOOKS, limits, strict=True):
        own = values[:, :look]
        half = stats.t.isf(limit, look - 1) * own.std(1, ddof=1) / np.sqrt(look)
        low, high = own.mean(1) - half, own.mean(1) + half
        inside = (low <= effect) & (effect <= high)
        done = (low > 0) | (high < 0) | ((low > -MARGIN) & (high < MARGIN))
        stops = going & (done | (look == LOOKS[-1]))
        seeds[stops], hit[stops], decided[stops] = look, inside[stops], done[stops]
        always &= inside
        going &= ~stops
    shares = {"covers at all looks": always, "covers where one stops": hit, "decided": decided, "seeds": seeds}
    return {name: float(np.mean(values)) for name, values in shares.items()}


def family(
    count: int,
    effects: Sequence[float],
    seeds: int,
    rng: np.random.Generator,
    looks: Sequence[int] = (),
    of_arms: Floats | float = 0.03,
) -> dict[str, float]:
    """Return how often a family of a primary claim and components has a false verdict, and what it decides.

    Where one looks several times, arms stop as those of `submit --until-decided` do, each by itself.
    """
    claims = [Claim(str(i), "v_error", {"arm": str(i)}, "lower", primary=i == 0) for i in range(len(effects))]
    arms = np.array([*effects, 0.0])
    noise = 0.05 * rng.standard_normal((count, seeds, 1)) + of_arms * rng.standard_normal((count, seeds, len(arms)))
    wrong, decided, runs, last = np.zeros((count, 2)), [], [], []
    hits, always = np.zeros((count, len(effects))), np.ones((count, len(effects)), bool)
    for row, values in enumerate(arms + noise):
        begun = np.full(len(arms), looks[0] if looks else seeds)
        for made in range(1, max(len(looks), 1) + 1):
            so_far = np.where(np.arange(seeds)[:, None] < begun, values, np.nan)
            found = verdicts(claims, effects_at(so_far, looks[:made] or [seeds]), looks)
            hits[row] = [f.low <= effect <= f.high for f, effect in zip(found, effects, strict=True)]
            always[row] &= hits[row].astype(bool)
            going = [int(f.claim.text) for f in open_claims(found)]
            if not going or made >= len(looks):
                break
            begun[[*going, -1]] = looks[made]
        wrong[row] = false_verdicts(found, effects)
        decided.append(np.mean([f.verdict != "undecided" for f in found]))
        runs.append(begun.sum() / (seeds * len(arms)))
        last.append(begun.max())
    return {
        "false direction": float(wrong[:, 0].mean()),
        "false no effect": float(wrong[:, 1].mean()),
        "either": float(wrong.any(1).mean()),
        "decided": float(np.mean(decided)),
        "seeds": float(np.mean(last)),
        "share of all runs": float(np.mean(runs)),
        "coverage": float(hits.mean()),
        "worst claim": float(hits.mean(0).min()),
        "covers at every look": float(always.mean()),
    }


def effects_at(values: Floats, looks: Sequence[int]) -> list[list[SeedEffect]]:
    """Return the effect of each arm against the last one, at each look."""
    models, arms = [TwoWay(values[:look]) for look in looks], values.shape[1]
    return [[model.effect(np.eye(arms)[i] - np.eye(arms)[-1]) for model in models] for i in range(arms - 1)]


def false_verdicts(found: Sequence[Finding], effects: Sequence[float]) -> tuple[bool, bool]:
    """Return whether some direction is not there, and whether some effect was said not to be."""
    direction = {"supported": -1, "opposite": 1}
    return (
        any(f.verdict in direction and np.sign(e) != direction[f.verdict] for f, e in zip(found, effects, strict=True)),
        any(f.verdict == "no effect" and abs(e) >= MARGIN for f, e in zip(found, effects, strict=True)),
    )


def powers(count: int, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Return the computed probability of a decision beside the simulated one."""
    out = {}
    for effect, spread, seeds in ((0.05, 0.05, 6), (0.1, 0.1, 10), (0.0, 0.05, 12), (0.02, 0.04, 8), (0.3, 0.5, 3)):
        values = effect + spread * rng.standard_normal((count, seeds))
        half = stats.t.isf(0.025, seeds - 1) * values.std(1, ddof=1) / np.sqrt(seeds)
        mean = np.abs(values.mean(1))
        text = f"effect {effect:g}, spread {spread:g}, {seeds} seeds"
        simulated = float(np.mean((mean > half) | (mean + half < MARGIN)))
        out[text] = {"computed": decision_power(effect, spread, seeds, MARGIN), "simulated": simulated}
    return out


def measured(count: int, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """Run everything, each part from random numbers of its own."""
    parts = {
        "two-way": two_ways,
        "censored": censored_lengths,
        "sequential": stopped,
        "families, 8 seeds": lambda n, rng: {name: family(n // 2, e, 8, rng) for name, e in FAMILIES.items()},
        "families, arms stop": arms_stop,
        "power": lambda n, rng: powers(20 * n, rng),
    }
    return {name: part(count, np.random.default_rng([seed, i])) for i, (name, part) in enumerate(parts.items())}


def arms_stop(count: int, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Return what stopping arm by arm does to each family, of arms that are alike and of a committed study's."""
    spread = {"arms alike": 0.03, "arms as of components": seven_arms("components, error")}
    return {
        f"{name}, {arms}": family(count // 2, effects, LOOKS[-1], rng, LOOKS, of_arms)
        for arms, of_arms in spread.items()
        for name, effects in FAMILIES.items()
    }


def two_ways(count: int, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Return the coverage in the likeness of each committed study."""
    return {
        f"{name}, {seeds} seeds{', a tenth missing' * (missing > 0)}": two_way(
            studies(count // 4, seeds, name, rng, missing)
        )
        for name in LIKENESSES
        for seeds, missing in ((3, 0.0), (5, 0.0), (5, 0.1), (10, 0.0), (20, 0.0))
    }


def censored_lengths(count: int, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Return the coverage for each share of censored values."""
    return {
        f"{beyond:.0%} beyond, {seeds} seeds": censored(count // 2, seeds, beyond, rng)
        for beyond in (0.0, 0.2, 0.4, 0.6)
        for seeds in (5, 10, 20)
    }


def stopped(count: int, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Return what each way of spending does to each effect."""
    spendings = {"even (power 1)": 1.0, "power 2": 2.0, "power 3": 3.0, "none: plain intervals": None}
    return {
        f"effect {effect:g}, spread {spread:g}, {name}": sequential(10 * count, effect, spread, rng, power)
        for spread in (0.03, 0.06, 0.12)
        for effect in (0.0, 0.02, 0.05, 0.1)
        for name, power in spendings.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/coverage.json"))
    args = parser.parse_args()
    results = measured(args.studies, args.seed)
    for title, rows in results.items():
        print(title)
        for name, row in rows.items():
            print(f"  {name:45} " + "  ".join(f"{what} {value:.3g}" for what, value in row.items()))
    config = json.dumps({"studies": args.studies, "looks": LOOKS, "margin": MARGIN})
    content = {"studies": args.studies, **results, **provenance(config, "coverage", args.seed)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(content, indent=1) + "\n")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
